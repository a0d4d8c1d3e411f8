"""The three GPU kernels, lowered by Pallas through Triton: forward, gradient of queries, gradients of keys and values.

Each program owns one block of tokens of one head and loops over the blocks that it has to visit; no other program writes its
output, so results are bitwise reproducible. Scores are kept in bits (times log2 e), because a GPU computes 2^x.

Almost all tiles of a long row are *inner* tiles: whole blocks of one sequence, entirely before or entirely after the
diagonal. There |i - j| is linear, so the bias splits into a term per key and a term per query. The first is one addition
to each score, the second is folded into the softmax's own subtraction, and no segments are compared. The other tiles
(diagonal, ends of sequences, padding) are *edge* tiles.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from dnabert2_jax.kernels.attention.block_sizes import GpuBlocks

_FLOOR = -1e30  # initial value of a running maximum
_HIDDEN = -2e30  # score of a masked key: its weight is exactly 0, even relative to the floor
_BITS = float(np.log2(np.e))

_EDGE, _KEYS_BEFORE, _KEYS_BEHIND = 0, 1, -1
"""Kinds of tiles: all keys before the queries, all keys after them, or neither."""

BOUNDS = 6
"""Numbers that specify which blocks a block visits; see :class:`GpuInputs`."""


class GpuInputs(NamedTuple):
    """What all kernels read: arrays, or, inside a kernel, references to them.

    Attributes:
        q: queries, [B, T, H, d], d a power of two.
        k: keys, like q.
        v: values, like q.
        slopes: ALiBi slopes, float32 [H].
        segment_ids: 0 at padding, else the index of the sequence in its row, int32 [B, P]: T padded to whole blocks.
        bounds: int32 [B, H, n, 6], ascending: a block visits the blocks from bound 0 to bound 5, of which those from bound 1
            to 2 are inner blocks before it, and those from bound 3 to 4 are inner blocks after it.
    """

    q: Any
    k: Any
    v: Any
    slopes: Any
    segment_ids: Any
    bounds: Any


class GradientRows(NamedTuple):
    """What the gradient kernels read in addition.

    Attributes:
        d_output: like q.
        bits: the log-sum-exp in bits, float32 [B, H, P].
        delta: row sums of dO * O, float32 [B, H, P].
    """

    d_output: Any
    bits: Any
    delta: Any


def _positions(first: jax.Array | int, count: int) -> jax.Array:
    return first + jax.lax.iota(jnp.int32, count)


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """[m, n] x [n, p] -> float32 [m, p]; float32 is not rounded to TF32."""
    return jax.lax.dot(a, b, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32)


class _Rows(NamedTuple):
    """One row of one array, read and written in blocks of tokens."""

    ref: Any  # [T, d]
    block: int
    ragged: bool  # T is not a multiple of the block

    def take(self, index: jax.Array, kind: int = _EDGE) -> jax.Array:
        """Block ``index``, [block, d], with zeros past the end; inner tiles never reach it."""
        first = index * self.block
        at = self.ref.at[pl.ds(first, self.block), :]
        if not self.ragged or kind != _EDGE:
            return plgpu.load(at)
        inside = _positions(first, self.block) < self.ref.shape[0]
        return plgpu.load(at, mask=inside[:, None], other=0.0)

    def put(self, index: jax.Array, value: jax.Array) -> None:
        """Write block ``index``, but nothing past the end."""
        first = index * self.block
        at = self.ref.at[pl.ds(first, self.block), :]
        inside = _positions(first, self.block) < self.ref.shape[0]
        plgpu.store(at, value.astype(self.ref.dtype), mask=inside[:, None] if self.ragged else None)


class _Head(NamedTuple):
    """What turns the products q.k of one head into scores."""

    scale: float
    slope: jax.Array  # in bits
    segments: Any  # reference to [P]

    def scores(
        self, kind: int, products: jax.Array, first_query: jax.Array, first_key: jax.Array, *, key_axis: int
    ) -> tuple[jax.Array, jax.Array]:
        """Scores in bits except for one term per query, and that term, which is still to be subtracted."""

        def of_keys(x: jax.Array) -> jax.Array:
            return jnp.expand_dims(x, 1 - key_axis)

        def of_queries(x: jax.Array) -> jax.Array:
            return jnp.expand_dims(x, key_axis)

        keys, queries = products.shape[key_axis], products.shape[1 - key_axis]
        scaled = products * (self.scale * _BITS)
        # Both are counted from the first key, which keeps them small and exact.
        key = _positions(0, keys).astype(jnp.float32)
        query = _positions(first_query - first_key, queries).astype(jnp.float32)
        if kind != _EDGE:
            return scaled + of_keys(key * (kind * self.slope)), query * (kind * self.slope)
        scores = scaled - self.slope * jnp.abs(of_queries(query) - of_keys(key))
        numbers = plgpu.load(self.segments.at[pl.ds(first_key, keys)])
        # Padding has different ids as key and as query, so it neither attends nor is attended to.
        numbers = jnp.where(numbers > 0, numbers, -1)
        visible = of_queries(plgpu.load(self.segments.at[pl.ds(first_query, queries)])) == of_keys(numbers)
        return jnp.where(visible, scores, _HIDDEN), jnp.zeros(queries, jnp.float32)


def _visit(bounds: Any, before: int, tile: Callable[[int, jax.Array, Any], Any], state: Any) -> Any:
    """Fold ``tile(kind, block, state)`` over the blocks to visit; ``before``: kind of inner tiles before the own block."""
    start, inner_start, own_start, own_stop, inner_stop, stop = (bounds[n] for n in range(BOUNDS))

    def edge(n: jax.Array, state: Any) -> Any:
        block = start + n
        block = block + jnp.where(block >= inner_start, own_start - inner_start, 0)
        block = block + jnp.where(block >= own_stop, inner_stop - own_stop, 0)
        return tile(_EDGE, block, state)

    # Three loops rather than five: their bodies are compiled once per loop.
    edges = (stop - start) - (own_start - inner_start) - (inner_stop - own_stop)
    state = jax.lax.fori_loop(0, edges, edge, state)
    state = jax.lax.fori_loop(inner_start, own_start, partial(tile, before), state)
    return jax.lax.fori_loop(own_stop, inner_stop, partial(tile, -before), state)


class _Call(NamedTuple):
    """A kernel's static parameters; ``own`` tokens in a program's block, ``other`` in a block that it visits."""

    scale: float
    own: int
    other: int
    ragged: bool

    def head(self, refs: GpuInputs) -> _Head:
        return _Head(self.scale, refs.slopes[...] * _BITS, refs.segment_ids)

    def mine(self, ref: Any) -> _Rows:
        return _Rows(ref, self.own, self.ragged)

    def others(self, ref: Any) -> _Rows:
        return _Rows(ref, self.other, self.ragged)


def _forward_kernel(call: _Call, refs: GpuInputs, _: Any, output: Any, log_sum_exp: Any) -> None:
    head, index = call.head(refs), pl.program_id(0)
    queries = call.mine(refs.q).take(index)

    def tile(kind: int, block: jax.Array, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        maximum, total, weighted = state
        products = _dot(queries, call.others(refs.k).take(block, kind).T)
        scores, shift = head.scores(kind, products, index * call.own, block * call.other, key_axis=1)
        new_maximum = jnp.maximum(maximum, scores.max(axis=1) - shift)
        weights = jnp.exp2(scores - (new_maximum + shift)[:, None])
        shrink = jnp.exp2(maximum - new_maximum)
        values = call.others(refs.v).take(block, kind)
        weighted = weighted * shrink[:, None] + _dot(weights.astype(values.dtype), values)
        return new_maximum, total * shrink + weights.sum(axis=1), weighted

    zeros = jnp.zeros(call.own, jnp.float32)
    maximum, total, weighted = _visit(
        refs.bounds, _KEYS_BEFORE, tile, (zeros + _FLOOR, zeros, jnp.zeros(queries.shape, jnp.float32))
    )
    # Rows with no visible key (padding) have total 0: they get output 0 and a finite log-sum-exp.
    total = jnp.where(total > 0, total, 1.0)
    call.mine(output).put(index, weighted / total[:, None])
    log_sum_exp[...] = maximum + jnp.log2(total)


def _query_gradient_kernel(call: _Call, refs: GpuInputs, rows: GradientRows, dq: Any) -> None:
    head, index = call.head(refs), pl.program_id(0)
    mine = pl.ds(index * call.own, call.own)
    queries, d_rows = call.mine(refs.q).take(index), call.mine(rows.d_output).take(index)
    reference, row_delta = plgpu.load(rows.bits.at[mine]), plgpu.load(rows.delta.at[mine])

    def tile(kind: int, block: jax.Array, gradient: jax.Array) -> jax.Array:
        keys = call.others(refs.k).take(block, kind)
        scores, shift = head.scores(kind, _dot(queries, keys.T), index * call.own, block * call.other, key_axis=1)
        weights = jnp.exp2(scores - (reference + shift)[:, None])
        d_weights = _dot(d_rows, call.others(refs.v).take(block, kind).T)
        d_scores = weights * (d_weights - row_delta[:, None])
        return gradient + _dot(d_scores.astype(keys.dtype), keys)

    gradient = _visit(refs.bounds, _KEYS_BEFORE, tile, jnp.zeros(queries.shape, jnp.float32))
    call.mine(dq).put(index, gradient * call.scale)


def _key_gradient_kernel(call: _Call, refs: GpuInputs, rows: GradientRows, dk: Any, dv: Any) -> None:
    head, index = call.head(refs), pl.program_id(0)
    keys, values = call.mine(refs.k).take(index), call.mine(refs.v).take(index)

    def tile(kind: int, block: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        d_keys, d_values = state
        queries, d_rows = call.others(refs.q).take(block, kind), call.others(rows.d_output).take(block, kind)
        theirs = pl.ds(block * call.other, call.other)
        reference, row_delta = plgpu.load(rows.bits.at[theirs]), plgpu.load(rows.delta.at[theirs])
        # Keys first: the weights are then the left operand of both products without a transpose.
        scores, shift = head.scores(kind, _dot(keys, queries.T), block * call.other, index * call.own, key_axis=0)
        weights = jnp.exp2(scores - (reference + shift)[None, :])
        d_values = d_values + _dot(weights.astype(d_rows.dtype), d_rows)
        d_scores = weights * (_dot(values, d_rows.T) - row_delta[None, :])
        return d_keys + _dot(d_scores.astype(queries.dtype), queries), d_values

    zeros = jnp.zeros(keys.shape, jnp.float32)
    d_keys, d_values = _visit(refs.bounds, _KEYS_BEHIND, tile, (zeros, zeros))
    call.mine(dk).put(index, d_keys * call.scale)
    call.mine(dv).put(index, d_values)


def _launch(
    kernel: Callable[..., None],
    name: str,
    inputs: GpuInputs,
    rows: GradientRows | None,
    *,
    scale: float,
    blocks: GpuBlocks,
    outputs: int,
    log_sum_exp: bool = False,
    interpret: Any,
) -> tuple[jax.Array, ...]:
    """Run one program for each block, head and batch row; blocks of the same head are adjacent, so they share its cache.

    Args:
        kernel: one of the kernels above.
        name: name of the kernel.
        inputs: arrays read by all kernels.
        rows: what a gradient kernel reads in addition.
        scale: factor of the products.
        blocks: block sizes for this kernel.
        outputs: number of arrays like q that it writes.
        log_sum_exp: whether it also writes [B, H, P].
        interpret: run in Pallas' interpreter.
    """
    batch, tokens, heads, head_dim = inputs.q.shape
    padded = inputs.segment_ids.shape[1]
    call = _Call(scale, blocks.own, blocks.other, tokens % max(blocks.own, blocks.other) > 0)
    wide = pl.BlockSpec((None, tokens, None, head_dim), lambda n, h, b: (b, 0, h, 0))
    narrow = pl.BlockSpec((None, None, padded), lambda n, h, b: (b, h, 0))
    out_specs, results = [wide] * outputs, [(inputs.q.shape, inputs.q.dtype)] * outputs
    if log_sum_exp:
        out_specs.append(pl.BlockSpec((None, None, blocks.own), lambda n, h, b: (b, h, n)))
        results.append(((batch, heads, padded), jnp.dtype(jnp.float32)))
    return pl.pallas_call(
        partial(kernel, call),
        grid=(padded // blocks.own, heads, batch),
        in_specs=[
            GpuInputs(
                *(wide, wide, wide),
                slopes=pl.BlockSpec((None,), lambda n, h, b: (h,)),
                segment_ids=pl.BlockSpec((None, padded), lambda n, h, b: (b, 0)),
                bounds=pl.BlockSpec((None, None, None, BOUNDS), lambda n, h, b: (b, h, n, 0)),
            ),
            rows and GradientRows(wide, narrow, narrow),
        ],
        out_specs=out_specs,
        out_shape=[jax.ShapeDtypeStruct(*result) for result in results],  # type: ignore[no-untyped-call]
        compiler_params=plgpu.CompilerParams(num_warps=blocks.warps, num_stages=blocks.stages),
        interpret=interpret,
        name=name,
    )(inputs, rows)


forward = partial(_launch, _forward_kernel, "alibi_attention_forward", outputs=1, log_sum_exp=True)
"""-> output, like q, and the log-sum-exp in bits, float32 [B, H, P]."""

query_gradient = partial(_launch, _query_gradient_kernel, "alibi_attention_query_gradient", outputs=1)
"""Reads dO, the log-sum-exp in bits and delta -> dq."""

key_gradient = partial(_launch, _key_gradient_kernel, "alibi_attention_key_gradient", outputs=2)
"""Reads dO, the log-sum-exp in bits and delta -> dk and dv."""
