"""Backward pass of the TPU kernel: dQ, dK and dV in one pass over the tiles that the forward pass visited.

One grid step takes one block of keys through its blocks of queries; dK and dV of the block are summed on the way, dQ of the
whole row stays on the chip until the last block of keys has added to it. Five products a tile (Dao 2023, algorithm 2).
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from dnabert2_jax.kernels.attention import pallas_tpu_tile as tile
from dnabert2_jax.kernels.attention.pallas_tpu_tile import BEFORE, BEHIND, DIAGONAL, repeat
from dnabert2_jax.kernels.attention.skipping import BlockRanges


class BackwardInputs(NamedTuple):
    """What the backward kernel reads; T is a multiple of both block sizes."""

    ranges: BlockRanges  # of queries to visit, int32 [B, H, T / keys]
    slopes: jax.Array  # float32 [H]
    q: jax.Array  # [B, H, d, T]
    k: jax.Array  # [B, H, d, T]
    v: jax.Array  # [B, H, d, T]
    d_output: jax.Array  # [B, H, d, T]
    log_sum_exp: jax.Array  # over scale, float32 [B, H, 1, T]
    delta: jax.Array  # row sums of dO * O, float32 [B, H, 1, T]
    query_segments: jax.Array  # [B, 48, T]
    key_segments: jax.Array  # [B, 48, T]
    key_bias: jax.Array  # [H, 16, keys]


def _kernel(
    # scalars
    start_ref: Any,
    stop_ref: Any,
    slopes_ref: Any,
    # inputs
    q_ref: Any,
    k_ref: Any,
    v_ref: Any,
    d_output_ref: Any,
    log_sum_exp_ref: Any,
    delta_ref: Any,
    query_segments_ref: Any,
    key_segments_ref: Any,
    key_bias_ref: Any,
    # outputs
    dq_ref: Any,
    dk_ref: Any,
    dv_ref: Any,
    # scratch
    keys_ref: Any,
    values_ref: Any,
    table_ref: Any,
    dq_sum_ref: Any,
    dk_sum_ref: Any,
    dv_sum_ref: Any,
    *,
    scale: float,
    queries: int,
    interpret: bool,
) -> None:
    dot = functools.partial(tile.dot, interpret=interpret)
    head, row, block = pl.program_id(0), pl.program_id(1), pl.program_id(2)
    heads, blocks = pl.num_programs(0), pl.num_programs(2)
    keys = k_ref.shape[3]
    query_blocks = q_ref.shape[3] // queries
    dtype = q_ref.dtype
    slope = slopes_ref[head] / scale
    to_exponent = tile.exponent_scale(scale)
    step = (row * heads + head) * blocks + block
    start, stop = start_ref[step], stop_ref[step]
    first_key = block * keys

    def tokens(query_block: jax.Array) -> Any:
        return pl.ds(pl.multiple_of(query_block * queries, queries), queries)

    def clear_dq(query_block: jax.Array) -> None:
        dq_sum_ref[:, tokens(query_block)] = jnp.zeros((dq_sum_ref.shape[0], queries), jnp.float32)

    repeat(jnp.where(block == 0, query_blocks, 0), clear_dq)
    repeat(((row == 0) & (block == 0)).astype(jnp.int32), lambda _: tile.fill_distance_table(table_ref, slope))

    k = k_ref[0, 0]
    keys_ref[...] = jnp.concatenate([k, key_bias_ref[0], key_segments_ref[0]], axis=0).T
    values_ref[...] = v_ref[0, 0].T
    dk_sum_ref[...] = jnp.zeros_like(dk_sum_ref)
    dv_sum_ref[...] = jnp.zeros_like(dv_sum_ref)

    def visit(query_block: jax.Array, side: jax.Array | int, bias: jax.Array | None, shift: jax.Array | float) -> None:
        at = tokens(query_block)
        q, d_output = q_ref[0, 0, :, at], d_output_ref[0, 0, :, at]
        rows = jnp.concatenate([q, tile.query_bias(side, queries, dtype), query_segments_ref[0, :, at]], axis=0)
        differences = dot(keys_ref[...], rows, 1, 0) - (log_sum_exp_ref[0, 0, :, at] + shift)
        if bias is not None:
            differences = differences + bias
        weights = jnp.exp2(differences * to_exponent)
        d_weights = dot(values_ref[...], d_output, 1, 0)
        d_scores = (weights * (d_weights - delta_ref[0, 0, :, at])).astype(dtype)
        dv_sum_ref[...] += dot(d_output, weights.astype(dtype), 1, 1)
        dk_sum_ref[...] += dot(q, d_scores, 1, 1)
        dq_sum_ref[:, at] += dot(k, d_scores, 1, 0)

    diagonal_start = jnp.clip(jax.lax.div(first_key, queries), start, stop)
    diagonal_stop = jnp.clip(jax.lax.div(first_key + keys - 1, queries) + 1, start, stop)
    on_diagonal = diagonal_stop - diagonal_start

    def beside(n: jax.Array) -> None:
        query_block = start + n
        side = jnp.where(query_block < diagonal_start, BEHIND, BEFORE)
        query_block = jnp.where(query_block < diagonal_start, query_block, query_block + on_diagonal)
        shift = slope * tile.query_shift(side, query_block * queries, first_key, keys, queries)
        visit(query_block, side, None, shift)

    def across(n: jax.Array) -> None:
        query_block = diagonal_start + n
        visit(query_block, DIAGONAL, tile.distance_bias(table_ref, query_block * queries, first_key, queries, keys), 0.0)

    repeat(stop - start - on_diagonal, beside)
    repeat(on_diagonal, across)

    dk_ref[0, 0] = (dk_sum_ref[...] * scale).astype(dk_ref.dtype)
    dv_ref[0, 0] = dv_sum_ref[...].astype(dv_ref.dtype)

    def write_dq(query_block: jax.Array) -> None:
        at = tokens(query_block)
        dq_ref[0, 0, :, at] = (dq_sum_ref[:, at] * scale).astype(dq_ref.dtype)

    repeat(jnp.where(block == blocks - 1, query_blocks, 0), write_dq)


def backward(
    inputs: BackwardInputs, *, scale: float, queries: int, vmem: int, interpret: Any = False
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients of q, k and v, [B, H, d, T] each.

    Args:
        inputs: the arrays.
        scale: factor of the dot products.
        queries: tokens of a block of queries.
        vmem: bytes of on-chip memory to use.
        interpret: for `pallas_call`.
    """
    batch, heads, head_dim, tokens = inputs.q.shape
    keys = inputs.key_bias.shape[2]
    segments = inputs.key_segments.shape[1]

    def of_block(rows: int) -> pl.BlockSpec:
        return pl.BlockSpec((1, 1, rows, keys), lambda h, b, i, *_: (b, h, 0, i))

    def of_row(rows: int) -> pl.BlockSpec:
        return pl.BlockSpec((1, 1, rows, tokens), lambda h, b, i, *_: (b, h, 0, 0))

    dtype = inputs.q.dtype
    return pl.pallas_call(
        functools.partial(_kernel, interpret=bool(interpret), scale=scale, queries=queries),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=3,
            grid=(heads, batch, tokens // keys),
            in_specs=[
                of_row(head_dim),
                of_block(head_dim),
                of_block(head_dim),
                of_row(head_dim),
                of_row(1),
                of_row(1),
                pl.BlockSpec((1, segments, tokens), lambda h, b, i, *_: (b, 0, 0)),
                pl.BlockSpec((1, segments, keys), lambda h, b, i, *_: (b, 0, i)),
                pl.BlockSpec((1, *inputs.key_bias.shape[1:]), lambda h, b, i, *_: (h, 0, 0)),
            ],
            out_specs=[of_row(head_dim), of_block(head_dim), of_block(head_dim)],
            scratch_shapes=[
                pltpu.VMEM((keys, head_dim + tile.FEATURES), dtype),
                pltpu.VMEM((keys, head_dim), dtype),
                pltpu.VMEM(tile.distance_table_shape(queries, keys), jnp.float32),
                pltpu.VMEM((head_dim, tokens), jnp.float32),
                pltpu.VMEM((head_dim, keys), jnp.float32),
                pltpu.VMEM((head_dim, keys), jnp.float32),
            ],
        ),
        out_shape=[tile.result(inputs.q.shape, dtype)] * 3,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary", "arbitrary"), vmem_limit_bytes=vmem
        ),
        interpret=interpret,
        name="alibi_attention_backward",
    )(
        inputs.ranges.start.reshape(-1),
        inputs.ranges.stop.reshape(-1),
        inputs.slopes,
        inputs.q,
        inputs.k,
        inputs.v,
        inputs.d_output,
        inputs.log_sum_exp,
        inputs.delta,
        inputs.query_segments,
        inputs.key_segments,
        inputs.key_bias,
    )
