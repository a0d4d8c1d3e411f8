"""Attention: how much each token attends to every other one, in every layer and head.

Weights are always computed by definition in float32, since the fast backends never materialize them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.config.inference import Resolution
from dnabert2_jax.config.model import EncoderConfig
from dnabert2_jax.data.packing import padded_width
from dnabert2_jax.data.sequences import Sequences
from dnabert2_jax.errors import UserError
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.inference.predictor import memory_explained
from dnabert2_jax.interpretation.inputs import Ids, tokens_of
from dnabert2_jax.modeling.block import Block, BlockInputs
from dnabert2_jax.modeling.compute import Compute
from dnabert2_jax.modeling.dropout import BlockDropout
from dnabert2_jax.modeling.encoder import Embeddings
from dnabert2_jax.modeling.models import Network
from dnabert2_jax.progress import ProgressBar
from dnabert2_jax.tokenizer.special import PAD, with_template
from dnabert2_jax.types import TokenBatch, Tree

MOST_BYTES = 2 * 2**30
"""Maximum size of all weights, which are held in memory."""

_COMPUTE = Compute("float32", "reference")


@dataclass(frozen=True)
class AttentionMaps:
    """Attention within one sequence.

    Attributes:
        name: name of the sequence.
        sequence: its letters.
        layers: number of each layer, from 0.
        heads: number of each head, from 0.
        token_ids: all tokens, including [CLS] and [SEP]. [T].
        token_bases: bases of each token; 0 for [CLS] and [SEP]. [T].
        resolution: resolution of the weights.
        weights: attention of a query (axis 2) to a key (axis 3), float32 [layers, heads, T, T], each row of which sums to 1;
            or [layers, heads, L, L].
    """

    name: str
    sequence: str
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    token_ids: Ids
    token_bases: NDArray[np.int32]
    resolution: Resolution
    weights: NDArray[np.float32]


def attention_maps(
    model: InferenceModel,
    sequences: Sequences,
    *,
    layers: Sequence[int] = (),
    heads: Sequence[int] = (),
    resolution: Resolution = "token",
    title: str | None = None,
) -> list[AttentionMaps]:
    """The attention weights within some sequences, each run as a whole.

    Args:
        model: any model.
        sequences: single sequences.
        layers: layer numbers, from 0; all if empty.
        heads: head numbers, from 0; all if empty.
        resolution: ``token``, or ``base``: a base of token q attends to a base of token k by A[q, k] divided by the bases of
            k. [CLS] and [SEP] have no base, so that rows sum to less than 1.
        title: label of the progress bar, in sequences.

    Raises:
        UserError: no such layer or head, more than 2 GiB of weights, a sequence that cannot be explained, or out of memory.
    """
    config = model.config
    layers = _chosen("layer", layers, config.num_hidden_layers)
    heads = _chosen("head", heads, config.num_attention_heads)
    token_ids = [with_template(ids) for ids in tokens_of(model, sequences, max_tokens=2**30)]
    sizes = list(map(len, token_ids if resolution == "token" else sequences.sequences))
    _check_size(sequences, sizes, len(layers) * len(heads), resolution)
    results = []
    with ProgressBar(title, len(sequences)) as bar, memory_explained():
        for name, letters, ids, size in zip(sequences.names, sequences.sequences, token_ids, sizes, strict=True):
            bases = model.tokenizer.token_bases(ids)
            weights = np.empty((len(layers), len(heads), size, size), np.float32)
            for number, own in enumerate(_weights_of_layers(config, model.predictor.params_on_one, ids, max(layers))):
                if number in layers:
                    of_tokens = np.asarray(own)[list(heads), : len(ids), : len(ids)]
                    weights[layers.index(number)] = of_tokens if resolution == "token" else between_bases(of_tokens, bases)
            results.append(AttentionMaps(name, letters, layers, heads, ids, bases, resolution, weights))
            bar.advance()
    return results


def between_bases(weights: NDArray[np.float32], token_bases: NDArray[np.int32]) -> NDArray[np.float32]:
    """[..., T, T] between tokens -> [..., L, L] between bases: A[token of q, token of k] / bases of the token of k."""
    token = np.repeat(np.arange(len(token_bases)), token_bases)
    shares = weights[..., token] / token_bases[token].astype(np.float32)
    return np.take(shares, token, axis=-2)


def _weights_of_layers(config: EncoderConfig, params: Tree, ids: Ids, last: int) -> Iterator[jax.Array]:
    """Weights of each layer up to ``last``, [H, T, T]; only those of one layer are on the device at a time."""
    row = np.pad(ids, (0, padded_width(len(ids)) - len(ids)), constant_values=PAD)[None]
    segments = (row != PAD).astype(np.int32)
    x = _embedded(config, params["encoder"]["embeddings"], TokenBatch(row, segments, np.zeros_like(row)))
    for number in range(last + 1):
        weights, x = _layer(config, jax.tree.map(itemgetter(number), params["encoder"]["layers"]), x, segments)
        yield weights[0]


@partial(jax.jit, static_argnums=0)
def _embedded(config: EncoderConfig, parameters: Tree, tokens: TokenBatch) -> jax.Array:
    return Network(lambda rngs: Embeddings(config, rngs)).bind(parameters)(tokens, jnp.float32, None)


@partial(jax.jit, static_argnums=0)
def _layer(config: EncoderConfig, parameters: Tree, x: jax.Array, segment_ids: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A layer's weights, [B, H, T, T], and its output, [B, T, D]."""
    block = Network(lambda rngs: Block(config, rngs)).bind(parameters)
    inputs = BlockInputs(segment_ids, BlockDropout(None, jnp.uint32(0)), {})
    with _COMPUTE.products():
        return block.attention_weights(x, segment_ids), block(x, inputs, _COMPUTE)


def _chosen(what: str, numbers: Sequence[int], count: int) -> tuple[int, ...]:
    """The requested layers or heads, out of ``count``; all if none are named."""
    if wrong := [n for n in numbers if not 0 <= n < count]:
        raise UserError(f"--{what}s {wrong[0]}: this model has {count} {what}s; accepted are 0 to {count - 1}")
    return tuple(dict.fromkeys(numbers)) or tuple(range(count))


def _check_size(sequences: Sequences, sizes: list[int], maps: int, resolution: Resolution) -> None:
    size = 4 * maps * sum(n * n for n in sizes)
    if size <= MOST_BYTES:
        return
    longest = max(range(len(sizes)), key=sizes.__getitem__)
    instead = " or --resolution token" if resolution == "base" else ""
    raise UserError(
        f"{sequences.source}: {maps} maps of attention of {len(sizes):,} sequences, up to {sizes[longest]:,} x "
        f"{sizes[longest]:,} {resolution}s ({sequences.names[longest]!r}), are {size / 2**30:,.1f} GiB, over the limit of "
        f"{MOST_BYTES >> 30} GiB; choose --layers, --heads{instead}, or fewer or shorter sequences"
    )
