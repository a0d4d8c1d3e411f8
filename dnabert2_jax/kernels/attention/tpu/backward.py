"""Backward pass of the TPU kernel: dQ, dK and dV in one pass over the tiles that the forward pass visited.

One grid step loops one block of keys over its blocks of queries; dK and dV of the block are accumulated along the way, and
dQ of the whole row stays on the chip until the last block of keys has added to it. Five products per tile (Dao 2023,
algorithm 2).
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
from dnabert2_jax.kernels.attention.tpu.tile import BEFORE, BEHIND, DIAGONAL, Tiling
from dnabert2_jax.kernels.attention.tpu.visits import Stream, repeat, visits_of


def _kernel(
    # scalars
    start_ref: Any,
    stop_ref: Any,
    slopes_ref: Any,
    # inputs for the block of keys
    k_ref: Any,
    v_ref: Any,
    key_segments_ref: Any,
    key_bias_ref: Any,
    # inputs for the row
    q_ref: Any,
    d_output_ref: Any,
    log_sum_exp_ref: Any,
    delta_ref: Any,
    query_segments_ref: Any,
    *outputs_and_scratch: Any,
    scale: float,
    queries: int,
    resident: bool,
    interpret: bool,
) -> None:
    if not resident:  # dQ is also an input: zeros aliased with the output, to be accumulated into
        outputs_and_scratch = outputs_and_scratch[1:]
    dq_ref, dk_ref, dv_ref, keys_ref, values_ref, table_ref, dk_sum_ref, dv_sum_ref, *row_scratch = outputs_and_scratch
    dot = functools.partial(tile.dot, interpret=interpret)
    head, row, block = pl.program_id(0), pl.program_id(1), pl.program_id(2)
    heads, blocks = pl.num_programs(0), pl.num_programs(2)
    keys = k_ref.shape[3]
    dtype = k_ref.dtype
    slope = slopes_ref[head] / scale
    to_exponent = tile.exponent_scale(scale)
    step = (row * heads + head) * blocks + block
    first_key = block * keys
    visits = visits_of(start_ref[step], stop_ref[step], first_key, keys, queries)

    def tokens(query_block: jax.Array) -> Any:
        return pl.ds(pl.multiple_of(query_block * queries, queries), queries)

    row_refs = (q_ref, d_output_ref, log_sum_exp_ref, delta_ref)
    if resident:
        (dq_sum_ref,) = row_scratch
        query_blocks = q_ref.shape[3] // queries

        def clear_dq(query_block: jax.Array) -> None:
            dq_sum_ref[:, tokens(query_block)] = jnp.zeros((dq_sum_ref.shape[0], queries), jnp.float32)

        repeat(jnp.where(block == 0, query_blocks, 0), clear_dq)

        def take(visit: jax.Array) -> list[jax.Array]:
            at = tokens(visits.block(visit))
            return [*(ref[0, 0, :, at] for ref in row_refs), query_segments_ref[0, :, at]]

        def add_dq(visit: jax.Array, dq: jax.Array, taken: list[jax.Array]) -> None:
            del taken  # the previous content is already here
            dq_sum_ref[:, tokens(visits.block(visit))] += dq
    else:
        *buffers, dq_sums_ref, semaphores, dq_semaphores = row_scratch
        sources = [
            *(lambda query_block, ref=ref: ref.at[row, head, :, tokens(query_block)] for ref in row_refs),
            lambda query_block: query_segments_ref.at[row, :, tokens(query_block)],
            lambda query_block: dq_ref.at[row, head, :, tokens(query_block)],
        ]
        stream = Stream(visits, sources, buffers, semaphores)
        stream.fetch(jnp.int32(0))
        take = stream.take

        def sum_copy(visit: jax.Array) -> Any:
            slot, at = jax.lax.rem(visit, 2), tokens(visits.block(visit))
            return pltpu.make_async_copy(dq_sums_ref.at[slot], dq_ref.at[row, head, :, at], dq_semaphores.at[slot])

        def add_dq(visit: jax.Array, dq: jax.Array, taken: list[jax.Array]) -> None:
            repeat((visit >= 2).astype(jnp.int32), lambda _: sum_copy(visit - 2).wait())
            dq_sums_ref[jax.lax.rem(visit, 2)] = taken[-1] + dq
            sum_copy(visit).start()

    repeat(((row == 0) & (block == 0)).astype(jnp.int32), lambda _: tile.fill_distance_table(table_ref, slope))

    k = k_ref[0, 0]
    keys_ref[...] = jnp.concatenate([k, key_bias_ref[0], key_segments_ref[0]], axis=0).T
    values_ref[...] = v_ref[0, 0].T
    dk_sum_ref[...] = jnp.zeros_like(dk_sum_ref)
    dv_sum_ref[...] = jnp.zeros_like(dv_sum_ref)

    def visit_one(visit: jax.Array, side: jax.Array | int, bias: jax.Array | None, shift: jax.Array | float) -> None:
        taken = take(visit)
        q, d_output, log_sum_exp, delta, segments = taken[:5]
        rows = jnp.concatenate([q, tile.query_bias(side, queries, dtype), segments], axis=0)
        differences = dot(keys_ref[...], rows, 1, 0) - (log_sum_exp + shift)
        if bias is not None:
            differences = differences + bias
        weights = jnp.exp2(differences * to_exponent)
        d_scores = (weights * (dot(values_ref[...], d_output, 1, 0) - delta)).astype(dtype)
        dv_sum_ref[...] += dot(d_output, weights.astype(dtype), 1, 1)
        dk_sum_ref[...] += dot(q, d_scores, 1, 1)
        add_dq(visit, dot(k, d_scores, 1, 0), taken)

    def beside(visit: jax.Array) -> None:
        query_block = visits.block(visit)
        side = jnp.where(visits.is_before(query_block), BEHIND, BEFORE)  # keys lie after queries that are before them
        visit_one(visit, side, None, slope * tile.query_shift(side, query_block * queries, first_key, keys, queries))

    def across(n: jax.Array) -> None:
        visit = visits.beside + n
        bias = tile.distance_bias(table_ref, visits.block(visit) * queries, first_key, queries, keys)
        visit_one(visit, DIAGONAL, bias, 0.0)

    repeat(visits.beside, beside)
    repeat(visits.on_diagonal, across)

    dk_ref[0, 0] = (dk_sum_ref[...] * scale).astype(dtype)
    dv_ref[0, 0] = dv_sum_ref[...].astype(dtype)

    if resident:

        def write_dq(query_block: jax.Array) -> None:
            at = tokens(query_block)
            dq_ref[0, 0, :, at] = (dq_sum_ref[:, at] * scale).astype(dtype)

        repeat(jnp.where(block == blocks - 1, query_blocks, 0), write_dq)
    else:
        last = jnp.minimum(visits.total, 2)
        repeat(last, lambda n: sum_copy(visits.total - last + n).wait())


def backward(
    inputs: Inputs, ranges: BlockRanges, d_output: jax.Array, log_sum_exp: jax.Array, delta: jax.Array, tiling: Tiling
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients of q, k and v, [B, H, d, T] each.

    Args:
        inputs: inputs of the forward pass, T a multiple of both block sizes.
        ranges: blocks of queries to visit, int32 [B, H, T / keys].
        d_output: cotangent of the output, [B, H, d, T].
        log_sum_exp: log-sum-exp divided by the scale, float32 [B, H, 1, T].
        delta: row sums of dO * O, float32 [B, H, 1, T].
        tiling: how the kernel is launched.
    """
    q, k, v, slopes, segment_ids = inputs
    scale, queries, keys, resident, _, interpret = tiling
    _, heads, head_dim, tokens = q.shape
    dtype = q.dtype
    query_segments, key_segments = tile.segment_features(segment_ids, dtype)
    segments = key_segments.shape[1]
    bias = tile.key_bias(slopes, scale, keys, dtype)

    def of_row(rows: int) -> pl.BlockSpec:
        return pl.BlockSpec((1, 1, rows, tokens), lambda h, b, i, *_: (b, h, 0, 0))

    of_block = pl.BlockSpec((1, 1, head_dim, keys), lambda h, b, i, *_: (b, h, 0, i))
    scalars = [ranges.start.reshape(-1), ranges.stop.reshape(-1), slopes]
    arrays = [k, v, key_segments, bias, q, d_output, log_sum_exp, delta, query_segments]
    if resident:
        of_segments = pl.BlockSpec((1, segments, tokens), lambda h, b, i, *_: (b, 0, 0))
        row_specs = [of_row(head_dim), of_row(head_dim), of_row(1), of_row(1), of_segments]
        dq_spec, dq_dtype = of_row(head_dim), dtype
        row_scratch = [pltpu.VMEM((head_dim, tokens), jnp.float32)]
        aliases = {}
    else:
        row_specs = [pl.BlockSpec(memory_space=pl.ANY)] * 6
        dq_spec, dq_dtype = pl.BlockSpec(memory_space=pl.ANY), jnp.float32
        types = [(head_dim, dtype), (head_dim, dtype), (1, jnp.float32), (1, jnp.float32), (segments, dtype)]
        types += [(head_dim, jnp.float32)] * 2  # dQ as it is read and as it is written
        row_scratch = [pltpu.VMEM((2, rows, queries), of_type) for rows, of_type in types]
        row_scratch += [pltpu.SemaphoreType.DMA((6, 2)), pltpu.SemaphoreType.DMA((2,))]
        aliases = {len(scalars) + len(arrays): 0}
        arrays.append(jnp.zeros(q.shape, jnp.float32))
    dq, dk, dv = pl.pallas_call(
        functools.partial(_kernel, scale=scale, queries=queries, resident=resident, interpret=bool(interpret)),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(scalars),
            grid=(heads, len(q), tokens // keys),
            in_specs=[
                of_block,
                of_block,
                pl.BlockSpec((1, segments, keys), lambda h, b, i, *_: (b, 0, i)),
                pl.BlockSpec((1, *bias.shape[1:]), lambda h, b, i, *_: (h, 0, 0)),
                *row_specs,
            ],
            out_specs=[dq_spec, of_block, of_block],
            scratch_shapes=[
                pltpu.VMEM((keys, head_dim + tile.FEATURES), dtype),
                pltpu.VMEM((keys, head_dim), dtype),
                pltpu.VMEM(tile.distance_table_shape(queries, keys), jnp.float32),
                pltpu.VMEM((head_dim, keys), jnp.float32),
                pltpu.VMEM((head_dim, keys), jnp.float32),
                *row_scratch,
            ],
        ),
        out_shape=[tile.result(q.shape, d) for d in (dq_dtype, dtype, dtype)],
        input_output_aliases=aliases,
        compiler_params=tiling.compiler_params,
        interpret=interpret,
        name="alibi_attention_backward",
    )(*scalars, *arrays)
    return (dq if resident else (dq * scale).astype(dtype)), dk, dv
