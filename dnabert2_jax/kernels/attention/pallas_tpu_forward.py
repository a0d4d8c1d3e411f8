"""Forward pass of the TPU kernel: FlashAttention-2 (Dao 2023) over the blocks of keys that matter.

One grid step takes one block of queries through its blocks of keys. Softmax needs a reference to subtract from the scores
before 2^x; any will do that neither overflows nor underflows, and a running maximum is the dearest: each block of keys waits
for the one before. With S, the bound of the scores that :mod:`~.skipping` needs, a query's score with its own key is as
good: no score is above it by more than 2 S, and the own key's weight is 1. Then nothing in the loop waits, and the matrix
units never pause. Heads with S above SAFE_BOUND take the running maximum.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from dnabert2_jax.kernels.attention import pallas_tpu_tile as tile
from dnabert2_jax.kernels.attention.pallas_tpu_tile import BEFORE, BEHIND, DIAGONAL, FLOOR, repeat
from dnabert2_jax.kernels.attention.skipping import BlockRanges

SAFE_BOUND = 32.0
"""Largest S for which the own key's score serves as the softmax's reference: weights stay below 2^93, so that sums over 2^23
keys of values below 2^11 stay within float32."""


class ForwardInputs(NamedTuple):
    """What the forward kernel reads; T is a multiple of both block sizes."""

    ranges: BlockRanges  # of keys to visit, int32 [B, H, T / queries]
    bounded: jax.Array  # the own key's score may serve as reference, int32 [B, H]
    slopes: jax.Array  # float32 [H]
    q: jax.Array  # [B, H, d, T]
    k: jax.Array  # [B, H, d, T]
    v: jax.Array  # [B, H, d, T]
    query_segments: jax.Array  # [B, 48, T]
    key_segments: jax.Array  # [B, 48, T]
    key_bias: jax.Array  # [H, 16, keys]


def _kernel(
    # scalars
    start_ref: Any,
    stop_ref: Any,
    bounded_ref: Any,
    slopes_ref: Any,
    # inputs
    q_ref: Any,
    own_k_ref: Any,
    k_ref: Any,
    v_ref: Any,
    query_segments_ref: Any,
    key_segments_ref: Any,
    key_bias_ref: Any,
    # outputs
    output_ref: Any,
    log_sum_exp_ref: Any,
    # scratch
    keys_ref: Any,
    table_ref: Any,
    sum_ref: Any,
    weight_ref: Any,
    reference_ref: Any,
    *,
    scale: float,
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
    start, stop = start_ref[step], stop_ref[step]
    bounded = bounded_ref[row * heads + head] == 1
    first_query = block * queries

    def tokens(key_block: jax.Array) -> Any:
        return pl.ds(pl.multiple_of(key_block * keys, keys), keys)

    def turn_keys(key_block: jax.Array) -> None:
        at = tokens(key_block)
        keys_ref[at, :] = jnp.concatenate([k_ref[0, 0, :, at], key_bias_ref[0], key_segments_ref[0, :, at]], axis=0).T

    repeat(jnp.where(block == 0, k_ref.shape[3] // keys, 0), turn_keys)
    repeat(((row == 0) & (block == 0)).astype(jnp.int32), lambda _: tile.fill_distance_table(table_ref, slope))

    q = q_ref[0, 0]
    weight_ref[...] = jnp.zeros_like(weight_ref)
    sum_ref[...] = jnp.zeros_like(sum_ref)

    def scores(key_block: jax.Array, side: jax.Array | int) -> jax.Array:
        rows = jnp.concatenate([q, tile.query_bias(side, queries, dtype), query_segments_ref[0]], axis=0)
        return dot(keys_ref[tokens(key_block), :], rows, 1, 0)

    def add(key_block: jax.Array, differences: jax.Array) -> None:
        weights = jnp.exp2(differences * to_exponent)
        weight_ref[...] += jnp.sum(weights.reshape(-1, 8, queries), axis=0)
        sum_ref[...] += dot(v_ref[0, 0, :, tokens(key_block)], weights.astype(dtype), 1, 0)

    own = jnp.sum(q.astype(jnp.float32) * own_k_ref[0, 0].astype(jnp.float32), axis=0, keepdims=True)
    reference_ref[...] = jnp.where(bounded, own, FLOOR)
    diagonal_start = jnp.clip(jax.lax.div(first_query, keys), start, stop)
    diagonal_stop = jnp.clip(jax.lax.div(first_query + queries - 1, keys) + 1, start, stop)
    on_diagonal = diagonal_stop - diagonal_start

    def beside(n: jax.Array) -> None:
        key_block = start + n
        key_block = jnp.where(key_block < diagonal_start, key_block, key_block + on_diagonal)
        side = jnp.where(key_block < diagonal_start, BEFORE, BEHIND)
        shift = slope * tile.query_shift(side, first_query, key_block * keys, keys, queries)
        add(key_block, scores(key_block, side) - (own + shift))

    def across(n: jax.Array) -> None:
        key_block = diagonal_start + n
        bias = tile.distance_bias(table_ref, first_query, key_block * keys, queries, keys)
        add(key_block, scores(key_block, DIAGONAL) - own + bias)

    def unbounded(n: jax.Array) -> None:
        key_block = start + n
        biased = scores(key_block, DIAGONAL) - slope * _distances(first_query, key_block * keys, queries, keys)
        old = reference_ref[...]
        new = jnp.maximum(old, jnp.max(biased, axis=0, keepdims=True))
        shrink = jnp.exp2((old - new) * to_exponent)
        reference_ref[...] = new
        weight_ref[...] *= shrink
        sum_ref[...] *= shrink
        add(key_block, biased - new)

    repeat(jnp.where(bounded, stop - start - on_diagonal, 0), beside)
    repeat(jnp.where(bounded, on_diagonal, 0), across)
    repeat(jnp.where(bounded, 0, stop - start), unbounded)

    # Rows that see nothing (padding) have weight 0: they get output 0 and a log-sum-exp that is finite.
    weight = jnp.sum(weight_ref[...], axis=0, keepdims=True)
    weight = jnp.where(weight > 0, weight, 1.0)
    output_ref[0, 0] = (sum_ref[...] / weight).astype(output_ref.dtype)
    log_sum_exp_ref[0, 0] = reference_ref[...] + jnp.log2(weight) / to_exponent


def _distances(first_query: jax.Array, first_key: jax.Array, queries: int, keys: int) -> jax.Array:
    key = jax.lax.broadcasted_iota(jnp.int32, (keys, queries), 0)
    query = jax.lax.broadcasted_iota(jnp.int32, (keys, queries), 1)
    return jnp.abs(key - query + (first_key - first_query)).astype(jnp.float32)


def forward(
    inputs: ForwardInputs, *, scale: float, queries: int, vmem: int, interpret: Any = False
) -> tuple[jax.Array, jax.Array]:
    """Attention output [B, H, d, T] and log-sum-exp over scale, float32 [B, H, 1, T].

    Args:
        inputs: the arrays.
        scale: factor of the dot products.
        queries: tokens of a block of queries.
        vmem: bytes of on-chip memory to use.
        interpret: for `pallas_call`.
    """
    batch, heads, head_dim, tokens = inputs.q.shape
    keys = inputs.key_bias.shape[2]
    of_block = pl.BlockSpec((1, 1, head_dim, queries), lambda h, b, i, *_: (b, h, 0, i))
    of_row = pl.BlockSpec((1, 1, head_dim, tokens), lambda h, b, i, *_: (b, h, 0, 0))
    segments = tile.FEATURES - inputs.key_bias.shape[1]
    return pl.pallas_call(
        functools.partial(_kernel, interpret=bool(interpret), scale=scale),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=4,
            grid=(heads, batch, tokens // queries),
            in_specs=[
                of_block,
                of_block,
                of_row,
                of_row,
                pl.BlockSpec((1, segments, queries), lambda h, b, i, *_: (b, 0, i)),
                pl.BlockSpec((1, segments, tokens), lambda h, b, i, *_: (b, 0, 0)),
                pl.BlockSpec((1, *inputs.key_bias.shape[1:]), lambda h, b, i, *_: (h, 0, 0)),
            ],
            out_specs=[of_block, pl.BlockSpec((1, 1, 1, queries), lambda h, b, i, *_: (b, h, 0, i))],
            scratch_shapes=[
                pltpu.VMEM((tokens, head_dim + tile.FEATURES), inputs.k.dtype),
                pltpu.VMEM(tile.distance_table_shape(queries, keys), jnp.float32),
                pltpu.VMEM((head_dim, queries), jnp.float32),
                pltpu.VMEM((8, queries), jnp.float32),
                pltpu.VMEM((1, queries), jnp.float32),
            ],
        ),
        out_shape=[
            tile.result(inputs.q.shape, inputs.q.dtype),
            tile.result((batch, heads, 1, tokens), jnp.float32),
        ],
        # Rows of a head share its table, blocks of a row its turned keys; heads share nothing.
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary", "arbitrary"), vmem_limit_bytes=vmem
        ),
        interpret=interpret,
        name="alibi_attention_forward",
    )(
        inputs.ranges.start.reshape(-1),
        inputs.ranges.stop.reshape(-1),
        inputs.bounded.reshape(-1),
        inputs.slopes,
        inputs.q,
        inputs.k,
        inputs.k,
        inputs.v,
        inputs.query_segments,
        inputs.key_segments,
        inputs.key_bias,
    )
