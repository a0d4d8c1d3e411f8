"""Attention for NVIDIA GPUs: exact, in O(T) memory, with ALiBi and segments inside the tile and irrelevant blocks skipped.

This file is what surrounds the kernels: which blocks they visit, the gradient, batching and sharding. The kernels are those
of :mod:`~.triton`; another set with the same three functions can take their place.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dnabert2_jax.kernels.attention.block_sizes import GpuBlocks, GpuPasses, gpu_blocks
from dnabert2_jax.kernels.attention.gpu import triton as kernels
from dnabert2_jax.kernels.attention.sharding import mappable, per_shard
from dnabert2_jax.kernels.attention.skipping import block_ranges, score_bound, skip_radius
from dnabert2_jax.platform import current_target

LAYOUT = "bthd"
"""What a matrix product writes: cuBLAS has no transposed output, and a tile's rows are whole cache lines in it as well."""

_NARROWEST_HEAD = 32  # in the table of block sizes


class _Settings(NamedTuple):
    """What is known when a call is traced."""

    scale: float
    skip: bool
    passes: GpuPasses
    interpret: Any


def pallas_gpu_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    slopes: jax.Array,
    segment_ids: jax.Array,
    *,
    scale: float,
    skip: bool = True,
) -> tuple[jax.Array, jax.Array]:
    """softmax(scale * q k^T - slope |i - j|) v over the tokens of one's own segment.

    Args:
        q: queries, [B, T, H, d], float32, bfloat16 or float16.
        k: keys, [B, T, H, d].
        v: values, [B, T, H, d].
        slopes: ALiBi slopes, [H].
        segment_ids: 0 at padding, else the sequence's number in its row, [B, T].
        scale: factor of the dot products, positive.
        skip: leave out blocks of keys that ALiBi makes irrelevant.

    Returns:
        The output, [B, T, H, d] in the dtype of ``q``, zeros at padding; and the log-sum-exp of the scores, float32
        [B, H, T], of no meaning at padding.
    """
    tokens, head_dim = q.shape[1], q.shape[3]
    width = max(_NARROWEST_HEAD, 1 << (head_dim - 1).bit_length())  # Triton's tiles are powers of two
    if width > head_dim:
        q, k, v = (jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, width - head_dim))) for x in (q, k, v))
    target = current_target()
    passes = gpu_blocks(tokens, width, q.dtype.itemsize, target.generation)
    settings = _Settings(scale, skip, passes, target.interpret)
    segment_ids = jnp.pad(segment_ids, ((0, 0), (0, -tokens % settings.passes.unit)))
    output, log_sum_exp = _attention(settings, q, k, v, slopes, segment_ids)
    return output[..., :head_dim], log_sum_exp[:, :, :tokens]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(settings: _Settings, *inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _attention_fwd(settings, *inputs)[0]


def _attention_fwd(settings: _Settings, *inputs: jax.Array) -> tuple[tuple[jax.Array, jax.Array], Any]:
    output, bits, bound = _forward(settings)(*inputs)
    return (output, bits * float(np.log(2))), (inputs, output, bits, bound)


def _attention_bwd(settings: _Settings, saved: Any, cotangents: tuple[jax.Array, jax.Array]) -> tuple[Any, ...]:
    inputs, output, bits, bound = saved
    gradients = _backward(settings)(*inputs, output, bits, bound, *cotangents)
    # Slopes are constants of the architecture and segment ids are integers: neither has a gradient.
    slopes, segment_ids = inputs[3:]
    return *gradients, jnp.zeros_like(slopes), np.zeros(segment_ids.shape, jax.dtypes.float0)


_attention.defvjp(_attention_fwd, _attention_bwd)


@cache
def _forward(settings: _Settings) -> Callable[..., tuple[jax.Array, ...]]:
    """(q, k, v, slopes, segment ids) -> output [B, T, H, d], log-sum-exp in bits [B, H, P] and the bound S [B, H]."""

    def run(q: jax.Array, k: jax.Array, v: jax.Array, slopes: jax.Array, segment_ids: jax.Array) -> tuple[jax.Array, ...]:
        bound = score_bound(q, k, segment_ids[:, : q.shape[1]], settings.scale, layout=LAYOUT)
        blocks = settings.passes.forward
        inputs = kernels.GpuInputs(q, k, v, slopes, segment_ids, _bounds(settings, blocks, bound, slopes, segment_ids))
        output, bits = kernels.forward(inputs, (), scale=settings.scale, blocks=blocks, interpret=settings.interpret)
        return output, bits, bound

    return mappable(per_shard(run, "bthd,bthd,bthd,h,bp->bthd,bhp,bh"))


@cache
def _backward(settings: _Settings) -> Callable[..., tuple[jax.Array, ...]]:
    """(q, k, v, slopes, segment ids, O, log-sum-exp in bits, S, dO, d log-sum-exp) -> gradients of q, k and v."""

    def run(
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        slopes: jax.Array,
        segment_ids: jax.Array,
        output: jax.Array,
        bits: jax.Array,
        bound: jax.Array,
        d_output: jax.Array,
        d_log_sum_exp: jax.Array,
    ) -> tuple[jax.Array, ...]:
        # FlashAttention-2, equation for D: the row sum of dO * O replaces the row sum of dP * P. A cotangent of the
        # log-sum-exp adds its own multiple of P to the gradient of the scores.
        products = jnp.einsum("bthd,bthd->bht", d_output.astype(jnp.float32), output.astype(jnp.float32))
        delta = jnp.pad(products, ((0, 0), (0, 0), (0, bits.shape[2] - q.shape[1]))) - d_log_sum_exp

        def gradient(kernel: Callable[..., tuple[jax.Array, ...]], blocks: GpuBlocks) -> tuple[jax.Array, ...]:
            bounds = _bounds(settings, blocks, bound, slopes, segment_ids)
            inputs = kernels.GpuInputs(q, k, v, slopes, segment_ids, bounds)
            rows = (d_output, bits, delta)
            return kernel(inputs, rows, scale=settings.scale, blocks=blocks, interpret=settings.interpret)

        return (
            *gradient(kernels.query_gradient, settings.passes.query_gradient),
            *gradient(kernels.key_gradient, settings.passes.key_gradient),
        )

    return mappable(per_shard(run, "bthd,bthd,bthd,h,bp,bthd,bhp,bh,bthd,bhp->bthd,bthd,bthd"))


def _bounds(
    settings: _Settings, blocks: GpuBlocks, bound: jax.Array, slopes: jax.Array, segment_ids: jax.Array
) -> jax.Array:
    radius = skip_radius(bound, slopes, segment_ids.shape[1]) if settings.skip else None
    return visited_bounds(segment_ids, radius, slopes.shape[0], blocks.own, blocks.other)


def visited_bounds(segment_ids: jax.Array, radius: jax.Array | None, heads: int, own: int, other: int) -> jax.Array:
    """The ``bounds`` of :class:`~.triton.GpuInputs`, int32 [B, H, n, 6]; arguments as of `block_ranges`."""
    tokens = segment_ids.shape[1]
    start, stop = block_ranges(segment_ids, radius, heads, own, other)
    first = own * jnp.arange(tokens // own, dtype=jnp.int32)
    index = jnp.arange(tokens // other, dtype=jnp.int32)
    own_start, own_stop = first // other, (first + own - 1) // other + 1  # the blocks that meet the diagonal
    # [B, n, m] booleans, reduced as they are made: which pairs of blocks are not of one and the same sequence.
    mixed = _only_number(segment_ids, own, 0)[:, :, None] != _only_number(segment_ids, other, -1)[:, None, :]
    inner_start = jnp.where(mixed & (index < own_start[:, None]), index + 1, 0).max(axis=-1)
    inner_stop = jnp.where(mixed & (index >= own_stop[:, None]), index, tokens // other).min(axis=-1)
    between = (jnp.clip(x[..., None, :], start, stop) for x in (inner_start, own_start, own_stop, inner_stop))
    return jnp.stack([start, *between, stop], axis=-1)


def _only_number(segment_ids: jax.Array, block: int, otherwise: int) -> jax.Array:
    """The number of the sequence that fills a block, or ``otherwise``; int32 [B, n]."""
    numbers = segment_ids.reshape(segment_ids.shape[0], -1, block)
    smallest, largest = numbers.min(axis=-1), numbers.max(axis=-1)
    return jnp.where((smallest == largest) & (smallest > 0), smallest, otherwise)
