"""Forward pass of the TPU kernel: FlashAttention-2 (Dao 2023) over the blocks of keys that matter.

One grid step loops one block of queries over its blocks of keys. Softmax needs a reference to subtract from the scores
before 2^x; any reference that neither overflows nor underflows will do, and a running maximum is the most expensive: each
block of keys has to wait for the previous one. Given S, the bound on the scores that :mod:`~.skipping` needs, a query's
score with its own key serves as well: no score exceeds it by more than 2 S, and the own key's weight is 1. Nothing in the
loop then waits, and the matrix units never stall. Heads with S above SAFE_BOUND use the running maximum.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from dnabert2_jax.kernels.attention.kernel import Inputs
from dnabert2_jax.kernels.attention.skipping import BlockRanges
from dnabert2_jax.kernels.attention.tpu import tile
from dnabert2_jax.kernels.attention.tpu.tile import BEFORE, BEHIND, DIAGONAL, FLOOR, Tiling
from dnabert2_jax.kernels.attention.tpu.visits import Stream, repeat, visits_of

SAFE_BOUND = 32.0
"""Largest S for which the own key's score serves as the softmax reference: weights stay below 2^93, so sums over 2^23 keys
of values below 2^11 stay within float32."""


def _kernel(
    # scalars
    start_ref: Any,
    stop_ref: Any,
    bounded_ref: Any,
    slopes_ref: Any,
    # inputs
    q_ref: Any,
    own_k_ref: Any,
    query_segments_ref: Any,
    k_ref: Any,
    v_ref: Any,
    key_segments_ref: Any,
    key_bias_ref: Any,
    # outputs
    output_ref: Any,
    log_sum_exp_ref: Any,
    # scratch
    table_ref: Any,
    sum_ref: Any,
    weight_ref: Any,
    reference_ref: Any,
    *row_scratch: Any,
    scale: float,
    resident: bool,
    interpret: bool,
) -> None:
    dot = functools.partial(tile.dot, interpret=interpret)
    head, row, block = pl.program_id(0), pl.program_id(1), pl.program_id(2)
    heads, blocks = pl.num_programs(0), pl.num_programs(2)
    queries, keys = q_ref.shape[3], key_bias_ref.shape[2]
    dtype = q_ref.dtype
    slope = slopes_ref[head] / scale
    to_exponent = tile.exponent_scale(scale)
    step = (row * heads + head) * blocks + block
    bounded = bounded_ref[row * heads + head] == 1
    first_query = block * queries
    visits = visits_of(start_ref[step], stop_ref[step], first_query, queries, keys)

    def tokens(key_block: jax.Array) -> Any:
        return pl.ds(pl.multiple_of(key_block * keys, keys), keys)

    def turned(k: jax.Array, segments: jax.Array) -> jax.Array:
        return jnp.concatenate([k, key_bias_ref[0], segments], axis=0).T

    if resident:
        (keys_ref,) = row_scratch

        def turn(key_block: jax.Array) -> None:
            at = tokens(key_block)
            keys_ref[at, :] = turned(k_ref[0, 0, :, at], key_segments_ref[0, :, at])

        repeat(jnp.where(block == 0, k_ref.shape[3] // keys, 0), turn)

        def take(visit: jax.Array) -> tuple[jax.Array, jax.Array]:
            at = tokens(visits.block(visit))
            return keys_ref[at, :], v_ref[0, 0, :, at]
    else:
        *buffers, semaphores = row_scratch
        sources = [
            lambda key_block: k_ref.at[row, head, :, tokens(key_block)],
            lambda key_block: v_ref.at[row, head, :, tokens(key_block)],
            lambda key_block: key_segments_ref.at[row, :, tokens(key_block)],
        ]
        stream = Stream(visits, sources, buffers, semaphores)
        stream.fetch(jnp.int32(0))

        def take(visit: jax.Array) -> tuple[jax.Array, jax.Array]:
            k, v, segments = stream.take(visit)
            return turned(k, segments), v

    repeat(((row == 0) & (block == 0)).astype(jnp.int32), lambda _: tile.fill_distance_table(table_ref, slope))

    q = q_ref[0, 0]
    weight_ref[...] = jnp.zeros_like(weight_ref)
    sum_ref[...] = jnp.zeros_like(sum_ref)
    own = jnp.sum(q.astype(jnp.float32) * own_k_ref[0, 0].astype(jnp.float32), axis=0, keepdims=True)
    reference_ref[...] = jnp.where(bounded, own, FLOOR)

    def scores(turned_keys: jax.Array, side: jax.Array | int) -> jax.Array:
        rows = jnp.concatenate([q, tile.query_bias(side, queries, dtype), query_segments_ref[0]], axis=0)
        return dot(turned_keys, rows, 1, 0)

    def add(v: jax.Array, differences: jax.Array) -> None:
        weights = jnp.exp2(differences * to_exponent)
        weight_ref[...] += jnp.sum(weights.reshape(-1, 8, queries), axis=0)
        sum_ref[...] += dot(v, weights.astype(dtype), 1, 0)

    def beside(visit: jax.Array) -> None:
        turned_keys, v = take(visit)
        key_block = visits.block(visit)
        side = jnp.where(visits.is_before(key_block), BEFORE, BEHIND)
        shift = slope * tile.query_shift(side, first_query, key_block * keys, keys, queries)
        add(v, scores(turned_keys, side) - (own + shift))

    def across(n: jax.Array) -> None:
        visit = visits.beside + n
        turned_keys, v = take(visit)
        bias = tile.distance_bias(table_ref, first_query, visits.block(visit) * keys, queries, keys)
        add(v, scores(turned_keys, DIAGONAL) - own + bias)

    def unbounded(visit: jax.Array) -> None:
        turned_keys, v = take(visit)
        distances = _distances(first_query, visits.block(visit) * keys, queries, keys)
        biased = scores(turned_keys, DIAGONAL) - slope * distances
        old = reference_ref[...]
        new = jnp.maximum(old, jnp.max(biased, axis=0, keepdims=True))
        shrink = jnp.exp2((old - new) * to_exponent)
        reference_ref[...] = new
        weight_ref[...] *= shrink
        sum_ref[...] *= shrink
        add(v, biased - new)

    repeat(jnp.where(bounded, visits.beside, 0), beside)
    repeat(jnp.where(bounded, visits.on_diagonal, 0), across)
    repeat(jnp.where(bounded, 0, visits.total), unbounded)

    # Rows with no visible key (padding) have weight 0: they get output 0 and a finite log-sum-exp.
    weight = jnp.sum(weight_ref[...], axis=0, keepdims=True)
    weight = jnp.where(weight > 0, weight, 1.0)
    output_ref[0, 0] = (sum_ref[...] / weight).astype(output_ref.dtype)
    log_sum_exp_ref[0, 0] = reference_ref[...] + jnp.log2(weight) / to_exponent


def _distances(first_query: jax.Array, first_key: jax.Array, queries: int, keys: int) -> jax.Array:
    key = jax.lax.broadcasted_iota(jnp.int32, (keys, queries), 0)
    query = jax.lax.broadcasted_iota(jnp.int32, (keys, queries), 1)
    return jnp.abs(key - query + (first_key - first_query)).astype(jnp.float32)


def forward(inputs: Inputs, ranges: BlockRanges, bounded: jax.Array, tiling: Tiling) -> tuple[jax.Array, jax.Array]:
    """Attention output [B, H, d, T] and log-sum-exp divided by the scale, float32 [B, H, 1, T].

    Args:
        inputs: the arrays, T a multiple of both block sizes.
        ranges: blocks of keys to visit, int32 [B, H, T / queries].
        bounded: whether the own key's score may serve as the softmax reference, int32 [B, H].
        tiling: how the kernel is launched.
    """
    q, k, v, slopes, segment_ids = inputs
    scale, queries, keys, resident, _, interpret = tiling
    batch, heads, head_dim, tokens = q.shape
    dtype = q.dtype
    query_segments, key_segments = tile.segment_features(segment_ids, dtype)
    segments = key_segments.shape[1]
    bias = tile.key_bias(slopes, scale, keys, dtype)
    of_block = pl.BlockSpec((1, 1, head_dim, queries), lambda h, b, i, *_: (b, h, 0, i))
    if resident:
        of_row = pl.BlockSpec((1, 1, head_dim, tokens), lambda h, b, i, *_: (b, h, 0, 0))
        row_specs = [of_row, of_row, pl.BlockSpec((1, segments, tokens), lambda h, b, i, *_: (b, 0, 0))]
        row_scratch = [pltpu.VMEM((tokens, head_dim + tile.FEATURES), dtype)]
    else:
        row_specs = [pl.BlockSpec(memory_space=pl.ANY)] * 3
        buffers = [pltpu.VMEM((2, rows, keys), dtype) for rows in (head_dim, head_dim, segments)]
        row_scratch = [*buffers, pltpu.SemaphoreType.DMA((3, 2))]
    return pl.pallas_call(
        functools.partial(_kernel, scale=scale, resident=resident, interpret=bool(interpret)),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=4,
            grid=(heads, batch, tokens // queries),
            in_specs=[
                of_block,
                of_block,
                pl.BlockSpec((1, segments, queries), lambda h, b, i, *_: (b, 0, i)),
                *row_specs,
                pl.BlockSpec((1, *bias.shape[1:]), lambda h, b, i, *_: (h, 0, 0)),
            ],
            out_specs=[of_block, pl.BlockSpec((1, 1, 1, queries), lambda h, b, i, *_: (b, h, 0, i))],
            scratch_shapes=[
                pltpu.VMEM(tile.distance_table_shape(queries, keys), jnp.float32),
                pltpu.VMEM((head_dim, queries), jnp.float32),
                pltpu.VMEM((8, queries), jnp.float32),
                pltpu.VMEM((1, queries), jnp.float32),
                *row_scratch,
            ],
        ),
        out_shape=[tile.result(q.shape, dtype), tile.result((batch, heads, 1, tokens), jnp.float32)],
        compiler_params=tiling.compiler_params,
        interpret=interpret,
        name="alibi_attention_forward",
    )(
        *(x.reshape(-1) for x in (*ranges, bounded)),
        slopes,
        *(q, k, query_segments, k, v, key_segments, bias),
    )
