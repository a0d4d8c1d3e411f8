"""Attention for TPUs: exact, in O(T) memory, with ALiBi and segments inside the tile and blocks skipped that do not matter.

This file is what surrounds the kernels of :mod:`~.forward`, :mod:`~.backward` and, for rows up to 128
tokens, :mod:`~.short`: padding to whole blocks, the block ranges, the gradient, batching and sharding.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from dnabert2_jax.errors import UserError
from dnabert2_jax.kernels.attention.block_sizes import VMEM, TpuBlocks, row_fits, tpu_blocks
from dnabert2_jax.kernels.attention.sharding import mappable, per_shard
from dnabert2_jax.kernels.attention.skipping import block_ranges, bound_of_norms, skip_radius
from dnabert2_jax.kernels.attention.tpu import tile
from dnabert2_jax.kernels.attention.tpu.backward import BackwardInputs, backward
from dnabert2_jax.kernels.attention.tpu.forward import SAFE_BOUND, ForwardInputs, forward
from dnabert2_jax.kernels.attention.tpu.rows import longest_rows, row_products
from dnabert2_jax.kernels.attention.tpu.short import short_backward, short_forward
from dnabert2_jax.platform import current_target

_HEAD_DIM_UNIT = 16
"""Rows of one register of bfloat16; a head is padded to whole registers."""


class _Settings(NamedTuple):
    """What is known when a call is traced."""

    scale: float
    skip: bool
    blocks: TpuBlocks
    vmem: int
    interpret: Any


def pallas_tpu_attention(
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
        q: queries, [B, H, d, T].
        k: keys, [B, H, d, T].
        v: values, [B, H, d, T].
        slopes: ALiBi slopes, [H].
        segment_ids: 0 at padding, else the sequence's number in its row, below 2^23, [B, T].
        scale: factor of the dot products, positive.
        skip: leave out blocks of keys that ALiBi makes irrelevant.

    Returns:
        The output, [B, H, d, T] in the dtype of ``q``, zeros at padding; and the log-sum-exp of the scores, float32
        [B, H, T], of no meaning at padding.

    Raises:
        UserError: q, k and v are not all bfloat16 or all float32.
    """
    if not (q.dtype == k.dtype == v.dtype and q.dtype in (jnp.bfloat16, jnp.float32)):
        raise UserError(
            "attention backend 'pallas_tpu' accepts q, k, v in bfloat16 or in float32, all alike; "
            f"found {q.dtype}, {k.dtype}, {v.dtype}"
        )
    target = current_target()
    head_dim, tokens = q.shape[2:]
    blocks = tpu_blocks(tokens)
    settings = _Settings(scale, skip, blocks, VMEM.get(target.generation, min(VMEM.values())), target.interpret)
    rows, columns = -head_dim % _HEAD_DIM_UNIT, blocks.tokens - tokens
    if rows or columns:
        q, k, v = (jnp.pad(x, ((0, 0), (0, 0), (0, rows), (0, columns))) for x in (q, k, v))
        segment_ids = jnp.pad(segment_ids, ((0, 0), (0, columns)))
    output, log_sum_exp = _attention(settings, q, k, v, slopes, segment_ids)
    return output[:, :, :head_dim, :tokens], log_sum_exp[:, :, :tokens]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(settings: _Settings, *inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    output, log_sum_exp, *_ = _forward(settings)(*inputs)
    return output, log_sum_exp * settings.scale


def _attention_fwd(settings: _Settings, *primals: Any) -> tuple[tuple[jax.Array, jax.Array], Any]:
    inputs = tuple(primal.value for primal in primals)
    output, log_sum_exp, *bound = _forward(settings)(*inputs)
    return (output, log_sum_exp * settings.scale), (inputs, output, log_sum_exp, bound)


def _attention_bwd(settings: _Settings, saved: Any, cotangents: tuple[jax.Array, jax.Array]) -> tuple[Any, ...]:
    inputs, output, log_sum_exp, bound = saved
    d_output, d_log_sum_exp = cotangents
    if isinstance(d_output, SymbolicZero):
        d_output = jnp.zeros_like(output)
    asked = [] if isinstance(d_log_sum_exp, SymbolicZero) else [d_log_sum_exp]
    gradients = _backward(settings, bool(asked))(*inputs, output, log_sum_exp, *bound, d_output, *asked)
    # Slopes are constants of the architecture and segment ids are integers: neither has a gradient.
    slopes, segment_ids = inputs[3:]
    return *gradients, jnp.zeros_like(slopes), np.zeros(segment_ids.shape, jax.dtypes.float0)


# Symbolic zeros, because hardly anyone differentiates the log-sum-exp: its cotangent need not be an array of zeros.
_attention.defvjp(_attention_fwd, _attention_bwd, symbolic_zeros=True)


@cache
def _forward(settings: _Settings) -> Callable[..., tuple[jax.Array, ...]]:
    """(q, k, v, slopes, segment ids) -> output, log-sum-exp over scale [B, H, T] and, of long rows, the bound S [B, H]."""
    blocks, scale, interpret = settings.blocks, settings.scale, settings.interpret

    def short(*inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        output, log_sum_exp = short_forward(*inputs, scale=scale, interpret=interpret)
        return output, log_sum_exp[:, :, 0]

    def long(
        q: jax.Array, k: jax.Array, v: jax.Array, slopes: jax.Array, segment_ids: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        bound = bound_of_norms(*longest_rows(q, k, segment_ids, interpret=interpret), scale)
        inputs = ForwardInputs(
            block_ranges(segment_ids, _radius(settings, bound, slopes), q.shape[1], blocks.queries, blocks.keys),
            (bound <= SAFE_BOUND).astype(jnp.int32),
            slopes,
            *(q, k, v),
            *tile.segment_features(segment_ids, q.dtype),
            tile.key_bias(slopes, scale, blocks.keys, q.dtype),
        )
        output, log_sum_exp = forward(
            inputs,
            scale=scale,
            queries=blocks.queries,
            resident=_fits(settings, q)[0],
            vmem=settings.vmem,
            interpret=interpret,
        )
        return output, log_sum_exp[:, :, 0], bound

    if blocks.tokens == tile.LANES:
        return mappable(per_shard(short, "bhdt,bhdt,bhdt,h,bt->bhdt,bht"))
    return mappable(per_shard(long, "bhdt,bhdt,bhdt,h,bt->bhdt,bht,bh"))


@cache
def _backward(settings: _Settings, differentiates_log_sum_exp: bool) -> Callable[..., tuple[jax.Array, ...]]:
    """(q, k, v, slopes, segment ids, O, log-sum-exp over scale, [S of long rows], dO, [d log-sum-exp]) -> dQ, dK, dV."""
    blocks, scale, interpret = settings.blocks, settings.scale, settings.interpret
    d_log_sum_exp = ",bht" if differentiates_log_sum_exp else ""

    def short(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        q, k, v, slopes, segment_ids, output, log_sum_exp, d_output, *d_log_sum_exp = arrays
        rows = jnp.stack([log_sum_exp, *d_log_sum_exp], axis=2)
        return short_backward(q, k, v, slopes, segment_ids, output, d_output, rows, scale=scale, interpret=interpret)

    def long(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        q, k, v, slopes, segment_ids, output, log_sum_exp, bound, d_output, *d_log_sum_exp = arrays
        # FlashAttention-2, equation for D: the row sum of dO * O replaces the row sum of dP * P. The log-sum-exp's
        # derivative is P itself, so that its cotangent goes in with the other sign.
        delta = row_products(d_output, output, interpret=interpret)
        if d_log_sum_exp:
            delta = delta - d_log_sum_exp[0][:, :, None]
        radius = _radius(settings, bound, slopes)
        inputs = BackwardInputs(
            block_ranges(segment_ids, radius, q.shape[1], blocks.backward_keys, blocks.backward_queries),
            slopes,
            *(q, k, v, d_output),
            log_sum_exp[:, :, None],
            delta,
            *tile.segment_features(segment_ids, q.dtype),
            tile.key_bias(slopes, scale, blocks.backward_keys, q.dtype),
        )
        return backward(
            inputs,
            scale=scale,
            queries=blocks.backward_queries,
            resident=_fits(settings, q)[1],
            vmem=settings.vmem,
            interpret=interpret,
        )

    if blocks.tokens == tile.LANES:
        return mappable(per_shard(short, f"bhdt,bhdt,bhdt,h,bt,bhdt,bht,bhdt{d_log_sum_exp}->bhdt,bhdt,bhdt"))
    return mappable(per_shard(long, f"bhdt,bhdt,bhdt,h,bt,bhdt,bht,bh,bhdt{d_log_sum_exp}->bhdt,bhdt,bhdt"))


def _fits(settings: _Settings, q: jax.Array) -> tuple[bool, bool]:
    return row_fits(q.shape[3], q.shape[2], q.dtype.itemsize, settings.vmem)


def _radius(settings: _Settings, bound: jax.Array, slopes: jax.Array) -> jax.Array | None:
    return skip_radius(bound, slopes, settings.blocks.tokens) if settings.skip else None
