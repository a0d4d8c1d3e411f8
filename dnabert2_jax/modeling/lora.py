"""LoRA (Hu et al. 2021) as a parameter tree of its own, beside a base whose paths never move.

The adapter is ``{target: {"A": [N, in, r], "B": [N, r, out]}}``, stacked over layers like the base. Training adds
``scale * (drop(x) A) B`` to the projection, so gradients and optimizer state exist for A and B only.
"""

import jax
import jax.numpy as jnp

from dnabert2_jax.config.model import EncoderConfig, LoraConfig, LoraTarget
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
    """A fresh adapter: A is normal with variance 1/in, B is zero, so the model starts as its base, bit for bit."""
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
    """A new encoder tree with W + scale A B in place of W; the one given is not changed.

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
