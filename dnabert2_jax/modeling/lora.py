"""LoRA (Hu et al. 2021) as a separate parameter tree, beside a base whose paths never change.

The adapter is ``{target: {"A": [N, in, r], "B": [N, r, out]}}``, stacked over layers like the base. Training adds
``scale * (drop(x) A) B`` to the projection, so gradients and optimizer state exist for A and B only.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dnabert2_jax.config.model import EncoderConfig, LoraConfig, LoraTarget
from dnabert2_jax.modeling.dropout import BlockDropout
from dnabert2_jax.modeling.matmul import einsum
from dnabert2_jax.types import Tree


def target_shape(config: EncoderConfig, target: LoraTarget) -> tuple[int, int]:
    """(in, out) of the projection that ``target`` names."""
    hidden, inner = config.hidden_size, config.intermediate_size
    return {
        "Wqkv": (hidden, 3 * hidden),
        "out": (hidden, hidden),
        "gated_layers": (hidden, 2 * inner),
        "wo": (inner, hidden),
    }[target]


def init_adapter(config: EncoderConfig, lora: LoraConfig, seed: int) -> Tree:
    """A new adapter: A is normal with variance 1/in, B is zero, so the model starts as its base, bit for bit."""
    adapter: Tree = {}
    for target, key in zip(lora.targets, jax.random.split(jax.random.key(seed), len(lora.targets)), strict=True):
        inputs, outputs = target_shape(config, target)
        layers = config.num_hidden_layers
        adapter[target] = {
            "A": jax.random.normal(key, (layers, inputs, lora.rank), jnp.float32) * inputs**-0.5,
            "B": jnp.zeros((layers, lora.rank, outputs), jnp.float32),
        }
    return adapter


def merge_adapter(encoder: Tree, adapter: Tree, lora: LoraConfig) -> Tree:
    """A new encoder tree with W + scale A B in place of W; the given one is not changed.

    Args:
        encoder: the base encoder's parameters.
        adapter: the matrices.
        lora: the settings they were trained with.
    """
    layers = dict(encoder["layers"])
    for target, pair in adapter.items():
        update = lora.scale * jnp.einsum("nir,nro->nio", pair["A"], pair["B"], precision="highest")
        layers[target] = {**layers[target], "kernel": layers[target]["kernel"] + update}
    return {**encoder, "layers": layers}


class LowRank(NamedTuple):
    """The LoRA term of one projection in one block: scale * (drop(x) A) B is added to x W.

    Attributes:
        a: [in, r].
        b: [r, out].
        lora: scale and dropout rate.
        dropout: of the block.
        target: the projection's name, which is that of its dropout site, too.
    """

    a: jax.Array
    b: jax.Array
    lora: LoraConfig
    dropout: BlockDropout
    target: str

    def reduce(self, x: jax.Array) -> jax.Array:
        """The inner activations scale * drop(x) A of ``x`` [B, T, in], [B, T, r]."""
        dropped = self.dropout(x, self.lora.dropout, self.target)
        return einsum("btc,cr->btr", dropped, self.a.astype(x.dtype)) * self.lora.scale

    def __call__(self, x: jax.Array) -> jax.Array:
        """The term for ``x`` [B, T, in], [B, T, out]."""
        return einsum("btr,ro->bto", self.reduce(x), self.b.astype(x.dtype))


def low_rank_terms(adapter: Tree | None, lora: LoraConfig | None, dropout: BlockDropout) -> dict[str, LowRank]:
    """The terms of one block by the name of their projection, from its matrices; empty without an adapter."""
    if adapter is None or lora is None:
        return {}
    return {target: LowRank(pair["A"], pair["B"], lora, dropout, target) for target, pair in adapter.items()}
