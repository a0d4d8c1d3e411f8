"""The three GPU kernels, lowered by Pallas through Triton: forward, gradient of queries, gradients of keys and values.

Each program owns one block of tokens of one head and loops over the blocks that it has to visit; no other program writes its
output, so results are bitwise reproducible.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from dnabert2_jax.kernels.attention.block_sizes import GpuBlocks
from dnabert2_jax.kernels.attention.gpu.tile import (
    BITS,
    BOUNDS,
    EDGE,
    FLOOR,
    KEYS_BEFORE,
    KEYS_BEHIND,
    GpuInputs,
    GradientRows,
    Head,
)


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

    def take(self, index: jax.Array, kind: int = EDGE) -> jax.Array:
        """Block ``index``, [block, d], with zeros past the end; inner tiles never reach it."""
        first = index * self.block
        at = self.ref.at[pl.ds(first, self.block), :]
        if not self.ragged or kind != EDGE:
            return plgpu.load(at)
        inside = _positions(first, self.block) < self.ref.shape[0]
        return plgpu.load(at, mask=inside[:, None], other=0.0)

    def put(self, index: jax.Array, value: jax.Array) -> None:
        """Write block ``index``, but nothing past the end."""
        first = index * self.block
        at = self.ref.at[pl.ds(first, self.block), :]
        inside = _positions(first, self.block) < self.ref.shape[0]
        plgpu.store(at, value.astype(self.ref.dtype), mask=inside[:, None] if self.ragged else None)


def _visit(bounds: Any, before: int, tile: Callable[[int, jax.Array, Any], Any], state: Any) -> Any:
    """Fold ``tile(kind, block, state)`` over the blocks to visit; ``before``: kind of inner tiles before the own block."""
    start, inner_start, own_start, own_stop, inner_stop, stop = (bounds[n] for n in range(BOUNDS))

    def edge(n: jax.Array, state: Any) -> Any:
        block = start + n
        block = block + jnp.where(block >= inner_start, own_start - inner_start, 0)
        block = block + jnp.where(block >= own_stop, inner_stop - own_stop, 0)
        return tile(EDGE, block, state)

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

    def scores(self, refs: GpuInputs) -> Callable[..., tuple[jax.Array, jax.Array]]:
        """``Head.scores`` of the program's head, which loads the segment ids itself."""
        head = Head(self.scale, refs.slopes[...] * BITS)

        def scores(kind: int, products: jax.Array, first_query: jax.Array, first_key: jax.Array, *, key_axis: int) -> Any:
            def numbers() -> tuple[jax.Array, jax.Array]:
                queries, keys = products.shape[1 - key_axis], products.shape[key_axis]
                of_queries = plgpu.load(refs.segment_ids.at[pl.ds(first_query, queries)])
                return of_queries, plgpu.load(refs.segment_ids.at[pl.ds(first_key, keys)])

            return head.scores(kind, products, first_query, first_key, numbers, key_axis=key_axis)

        return scores

    def mine(self, ref: Any) -> _Rows:
        return _Rows(ref, self.own, self.ragged)

    def others(self, ref: Any) -> _Rows:
        return _Rows(ref, self.other, self.ragged)


def _forward_kernel(call: _Call, refs: GpuInputs, _: Any, output: Any, log_sum_exp: Any) -> None:
    scores_of, index = call.scores(refs), pl.program_id(0)
    queries = call.mine(refs.q).take(index)

    def tile(kind: int, block: jax.Array, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        maximum, total, weighted = state
        products = _dot(queries, call.others(refs.k).take(block, kind).T)
        scores, shift = scores_of(kind, products, index * call.own, block * call.other, key_axis=1)
        new_maximum = jnp.maximum(maximum, scores.max(axis=1) - shift)
        weights = jnp.exp2(scores - (new_maximum + shift)[:, None])
        shrink = jnp.exp2(maximum - new_maximum)
        values = call.others(refs.v).take(block, kind)
        weighted = weighted * shrink[:, None] + _dot(weights.astype(values.dtype), values)
        return new_maximum, total * shrink + weights.sum(axis=1), weighted

    zeros = jnp.zeros(call.own, jnp.float32)
    maximum, total, weighted = _visit(
        refs.bounds, KEYS_BEFORE, tile, (zeros + FLOOR, zeros, jnp.zeros(queries.shape, jnp.float32))
    )
    # Rows with no visible key (padding) have total 0: they get output 0 and a finite log-sum-exp.
    total = jnp.where(total > 0, total, 1.0)
    call.mine(output).put(index, weighted / total[:, None])
    log_sum_exp[...] = maximum + jnp.log2(total)


def _query_gradient_kernel(call: _Call, refs: GpuInputs, rows: GradientRows, dq: Any) -> None:
    scores_of, index = call.scores(refs), pl.program_id(0)
    mine = pl.ds(index * call.own, call.own)
    queries, d_rows = call.mine(refs.q).take(index), call.mine(rows.d_output).take(index)
    reference, row_delta = plgpu.load(rows.bits.at[mine]), plgpu.load(rows.delta.at[mine])

    def tile(kind: int, block: jax.Array, gradient: jax.Array) -> jax.Array:
        keys = call.others(refs.k).take(block, kind)
        scores, shift = scores_of(kind, _dot(queries, keys.T), index * call.own, block * call.other, key_axis=1)
        weights = jnp.exp2(scores - (reference + shift)[:, None])
        d_weights = _dot(d_rows, call.others(refs.v).take(block, kind).T)
        d_scores = weights * (d_weights - row_delta[:, None])
        return gradient + _dot(d_scores.astype(keys.dtype), keys)

    gradient = _visit(refs.bounds, KEYS_BEFORE, tile, jnp.zeros(queries.shape, jnp.float32))
    call.mine(dq).put(index, gradient * call.scale)


def _key_gradient_kernel(call: _Call, refs: GpuInputs, rows: GradientRows, dk: Any, dv: Any) -> None:
    scores_of, index = call.scores(refs), pl.program_id(0)
    keys, values = call.mine(refs.k).take(index), call.mine(refs.v).take(index)

    def tile(kind: int, block: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        d_keys, d_values = state
        queries, d_rows = call.others(refs.q).take(block, kind), call.others(rows.d_output).take(block, kind)
        theirs = pl.ds(block * call.other, call.other)
        reference, row_delta = plgpu.load(rows.bits.at[theirs]), plgpu.load(rows.delta.at[theirs])
        # Keys first: the weights are then the left operand of both products without a transpose.
        scores, shift = scores_of(kind, _dot(keys, queries.T), block * call.other, index * call.own, key_axis=0)
        weights = jnp.exp2(scores - (reference + shift)[None, :])
        d_values = d_values + _dot(weights.astype(d_rows.dtype), d_rows)
        d_scores = weights * (_dot(values, d_rows.T) - row_delta[None, :])
        return d_keys + _dot(d_scores.astype(queries.dtype), queries), d_values

    zeros = jnp.zeros(keys.shape, jnp.float32)
    d_keys, d_values = _visit(refs.bounds, KEYS_BEHIND, tile, (zeros, zeros))
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
