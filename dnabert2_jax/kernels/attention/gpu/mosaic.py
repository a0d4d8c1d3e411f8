"""The three GPU kernels for Hopper, lowered by Pallas through Mosaic: forward, gradient of queries, of keys and values.

Each program owns one block of tokens of one head and visits the blocks that skipping leaves. Its warpgroups are specialized:
one copies the blocks to visit into a ring of buffers, ahead of time (TMA), and each of the others multiplies 64 of the own
tokens with them (wgmma) and holds its sums in registers. Barriers say which buffers are full and which may be filled again.
No other program writes the same output, so results are bitwise reproducible.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

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
    along,
)

_ROWS = 64
"""Rows of a warpgroup's product."""

_PRODUCER_REGISTERS, _CONSUMER_REGISTERS = 24, 240
"""Registers per thread: copying needs few, and what it leaves goes to those who multiply. 128 threads each."""

_AXES = ("row", "head", "block", "warpgroup")


class _Visits(NamedTuple):
    """The ``bounds`` of :class:`~.tile.GpuInputs` for one block, and the order in which it visits others."""

    start: Any
    inner_start: Any
    own_start: Any
    own_stop: Any
    inner_stop: Any
    stop: Any

    @property
    def total(self) -> Any:
        """Blocks to visit."""
        return self.stop - self.start

    @property
    def edges(self) -> Any:
        """Blocks to visit that are not inner ones; they come first."""
        return self.total - (self.own_start - self.inner_start) - (self.inner_stop - self.own_stop)

    def block(self, n: Any) -> Any:
        """The block of visit ``n``: first the edge blocks, then the inner ones before, then the inner ones after."""
        before = n - self.edges
        behind = before - (self.own_start - self.inner_start)
        edge = self.start + n
        edge = edge + jnp.where(edge >= self.inner_start, self.own_start - self.inner_start, 0)
        edge = edge + jnp.where(edge >= self.own_stop, self.inner_stop - self.own_stop, 0)
        inner = jnp.where(behind >= 0, self.own_stop + behind, self.inner_start + before)
        return jnp.where(before >= 0, inner, edge)

    def fold(self, before: int, tile: Callable[[int, Any, Any], Any], state: Any) -> Any:
        """Fold ``tile(kind, n, state)`` over all visits; ``before``: kind of inner tiles before the own block."""
        behind = self.edges + (self.own_start - self.inner_start)
        state = jax.lax.fori_loop(0, self.edges, partial(tile, EDGE), state)
        state = jax.lax.fori_loop(self.edges, behind, partial(tile, before), state)
        return jax.lax.fori_loop(behind, self.total, partial(tile, -before), state)


class _Task(NamedTuple):
    """What a warpgroup that multiplies works on: its own tokens, and the ring of blocks that it visits."""

    head: Head
    first: Any  # position of the first of its own tokens
    own: tuple[Any, ...]  # references to its own tokens in shared memory
    ring: tuple[Any, ...]  # the same for the visited blocks: [stages, ...]
    interpret: bool

    def product(self, a: Any, b: Any, *, transposed: bool = False, total: jax.Array | None = None) -> jax.Array:
        """Add a @ b, or a @ b.T, to ``total``, in float32; a is a value or a reference, b a reference."""
        if self.interpret:  # the interpreter has no wgmma of values, and does not look for races in one of references
            a, b = (x if isinstance(x, jax.Array) else x[...] for x in (a, b))
            exact = partial(jnp.dot, precision="highest", preferred_element_type=jnp.float32)
            product = exact(a.astype(jnp.float32), (b.T if transposed else b).astype(jnp.float32))
            return product if total is None else total + product
        b = b.transpose((1, 0)) if transposed else b
        if total is not None:
            start = plgpu.WGMMAAccumulatorRef.init(total)  # type: ignore[no-untyped-call]
            return pl.run_state(lambda sums: plgpu.wgmma(sums, a, b))(start)

        def multiply(sums: Any) -> jax.Array:
            plgpu.wgmma(sums, a, b)
            return sums[...]

        return pl.run_scoped(multiply, plgpu.WGMMAAccumulatorRef((a.shape[0], b.shape[1]), jnp.float32))


Tile = Callable[[int, Any, Any, Any], Any]
"""(kind, position of the visited block's first token, slot in the ring, state) -> state."""

Fold = Callable[[Tile, Any], Any]
"""Fold a tile over all visits from an initial state."""


def _forward(task: _Task, fold: Fold) -> tuple[jax.Array, ...]:
    queries, own_numbers = task.own
    keys, values, numbers = task.ring

    def tile(kind: int, first: Any, slot: Any, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        maximum, total, weighted = state
        products = task.product(queries, keys.at[slot], transposed=True)
        both = lambda: (own_numbers[...], numbers[slot])  # noqa: E731
        scores, shift = task.head.scores(kind, products, task.first, first, both, key_axis=1)
        new_maximum = jnp.maximum(maximum, scores.max(axis=1) - shift)
        weights = jnp.exp2(scores - along(new_maximum + shift, scores.shape, 0))
        shrink = jnp.exp2(maximum - new_maximum)
        weighted = weighted * along(shrink, weighted.shape, 0)
        weighted = task.product(weights.astype(values.dtype), values.at[slot], total=weighted)
        return new_maximum, total * shrink + weights.sum(axis=1), weighted

    zeros = jnp.zeros(_ROWS, jnp.float32)
    maximum, total, weighted = fold(tile, (zeros + FLOOR, zeros, jnp.zeros(queries.shape, jnp.float32)))
    # Rows with no visible key (padding) have total 0: they get output 0 and a finite log-sum-exp.
    total = jnp.where(total > 0, total, 1.0)
    return weighted / along(total, weighted.shape, 0), maximum + jnp.log(total) * BITS


def _query_gradient(task: _Task, fold: Fold) -> tuple[jax.Array, ...]:
    queries, d_rows, reference, row_delta, own_numbers = task.own
    keys, values, numbers = task.ring

    def tile(kind: int, first: Any, slot: Any, gradient: jax.Array) -> jax.Array:
        products = task.product(queries, keys.at[slot], transposed=True)
        both = lambda: (own_numbers[...], numbers[slot])  # noqa: E731
        scores, shift = task.head.scores(kind, products, task.first, first, both, key_axis=1)
        weights = jnp.exp2(scores - along(reference[...] + shift, scores.shape, 0))
        d_weights = task.product(d_rows, values.at[slot], transposed=True)
        d_scores = weights * (d_weights - along(row_delta[...], scores.shape, 0))
        return task.product(d_scores.astype(keys.dtype), keys.at[slot], total=gradient)

    return (fold(tile, jnp.zeros(queries.shape, jnp.float32)) * task.head.scale,)


def _key_gradient(task: _Task, fold: Fold) -> tuple[jax.Array, ...]:
    keys, values, own_numbers = task.own
    queries, d_rows, references, row_deltas, numbers = task.ring

    def tile(kind: int, first: Any, slot: Any, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        d_keys, d_values = state
        # Keys first: the weights are then the left operand of both products without a transpose.
        products = task.product(keys, queries.at[slot], transposed=True)
        both = lambda: (numbers[slot], own_numbers[...])  # noqa: E731
        scores, shift = task.head.scores(kind, products, first, task.first, both, key_axis=0)
        weights = jnp.exp2(scores - along(references[slot] + shift, scores.shape, 1))
        d_values = task.product(weights.astype(d_rows.dtype), d_rows.at[slot], total=d_values)
        d_weights = task.product(values, d_rows.at[slot], transposed=True)
        d_scores = weights * (d_weights - along(row_deltas[slot], scores.shape, 1))
        return task.product(d_scores.astype(queries.dtype), queries.at[slot], total=d_keys), d_values

    zeros = jnp.zeros(keys.shape, jnp.float32)
    d_keys, d_values = fold(tile, (zeros, zeros))
    return d_keys * task.head.scale, d_values


class _Program(NamedTuple):
    """A kernel's static parameters.

    Attributes:
        compute: what a warpgroup that multiplies does: its task and a fold over all visits -> its part of the outputs.
        before: kind of inner tiles before the own block.
        scale: factor of the products.
        blocks: block sizes.
        interpret: run in Mosaic's interpreter.
    """

    compute: Callable[[_Task, Fold], tuple[jax.Array, ...]]
    before: int
    scale: float
    blocks: GpuBlocks
    interpret: Any

    @property
    def consumers(self) -> int:
        """Warpgroups that multiply; one more fills the ring."""
        return self.blocks.own // _ROWS

    def __call__(self, slopes: Any, bounds: Any, own: Any, other: Any, outputs: Any, scratch: Any) -> None:
        """The kernel: references to arrays in global memory, and buffers and barriers in shared memory."""
        row, head, index, warpgroup = (jax.lax.axis_index(name) for name in _AXES)
        own_buffers, ring, results, loaded, full, empty = scratch
        visits = _Visits(*(bounds[row, head, index, n] for n in range(BOUNDS)))
        size, stages = self.blocks.other, self.blocks.stages

        def part(ref: Any, first: Any, count: int) -> Any:
            """Tokens of this row and head of [B, P, H, d], [B, H, P] or [B, P]."""
            tokens = pl.ds(first, count)
            if len(ref.shape) == 4:
                return ref.at[row, tokens, head]
            return ref.at[row, head, tokens] if len(ref.shape) == 3 else ref.at[row, tokens]

        @pl.when(warpgroup == self.consumers)
        def produce() -> None:
            plgpu.set_max_registers(_PRODUCER_REGISTERS, action="decrease")

            @pl.loop(0, visits.total)
            def load(n: Any) -> None:
                slot = jax.lax.rem(n, stages)
                pl.when(n >= stages)(lambda: plgpu.barrier_wait(empty.at[slot]))
                for ref, buffer in zip(other, ring, strict=True):
                    plgpu.copy_gmem_to_smem(part(ref, visits.block(n) * size, size), buffer.at[slot], full.at[slot])

        @pl.when(warpgroup < self.consumers)
        def consume() -> None:
            plgpu.set_max_registers(_CONSUMER_REGISTERS, action="increase")
            first = index * self.blocks.own + warpgroup * _ROWS
            mine = tuple(buffer.at[warpgroup] for buffer in own_buffers)
            for ref, buffer in zip(own, mine, strict=True):
                plgpu.copy_gmem_to_smem(part(ref, first, _ROWS), buffer, loaded.at[warpgroup])
            plgpu.barrier_wait(loaded.at[warpgroup])

            def fold(tile: Tile, state: Any) -> Any:
                def visit(kind: int, n: Any, state: Any) -> Any:
                    slot = jax.lax.rem(n, stages)
                    plgpu.barrier_wait(full.at[slot])
                    state = tile(kind, visits.block(n) * size, slot, state)

                    @pl.when(n + stages < visits.total)  # the buffers of the last visits are not filled again
                    def release() -> None:
                        plgpu.commit_smem()  # type: ignore[no-untyped-call]  # orders what was loaded before copies
                        plgpu.barrier_arrive(empty.at[slot])

                    return state

                return visits.fold(self.before, visit, state)

            task = _Task(Head(self.scale, slopes[head] * BITS), first, mine, ring, bool(self.interpret))
            for value, buffer in zip(self.compute(task, fold), results, strict=True):
                buffer[warpgroup] = value.astype(buffer.dtype)
            plgpu.commit_smem()  # type: ignore[no-untyped-call]
            for ref, buffer in zip(outputs, results, strict=True):
                plgpu.copy_smem_to_gmem(buffer.at[warpgroup], part(ref, first, _ROWS))
            plgpu.wait_smem_to_gmem(0)


def _launch(
    program: _Program,
    name: str,
    slopes: jax.Array,
    bounds: jax.Array,
    own: tuple[jax.Array, ...],
    other: tuple[jax.Array, ...],
    outputs: tuple[jax.Array | jax.ShapeDtypeStruct, ...],
) -> tuple[jax.Array, ...]:
    """Run one program for each block, head and row; blocks of the same head are adjacent, so they share its cache.

    Args:
        program: the kernel.
        name: its name.
        slopes: float32 [H].
        bounds: int32 [B, H, n, 6].
        own: arrays of which a program reads its own block: [B, P, H, d], [B, H, P] or [B, P].
        other: arrays of which it reads the blocks that it visits.
        outputs: what is like the arrays that it writes.
    """
    consumers, stages = program.consumers, program.blocks.stages

    def buffers(arrays: Any, count: int, tokens: int) -> tuple[Any, ...]:
        return tuple(plgpu.SMEM((count, tokens, *x.shape[3:]), x.dtype) for x in arrays)

    buffers_and_barriers = (
        buffers(own, consumers, _ROWS),
        buffers(other, stages, program.blocks.other),
        buffers(outputs, consumers, _ROWS),
        plgpu.Barrier(num_arrivals=len(own), num_barriers=consumers),
        plgpu.Barrier(num_arrivals=len(other), num_barriers=stages),
        plgpu.Barrier(num_arrivals=consumers, num_barriers=stages),
    )

    def body(slopes: Any, bounds: Any, own: Any, other: Any, *rest: Any) -> None:
        outputs, scratch = rest[: -len(buffers_and_barriers)], rest[-len(buffers_and_barriers) :]
        program(slopes, bounds, own, other, outputs, scratch)

    results: tuple[jax.Array, ...] = plgpu.kernel(
        body,
        out_type=tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in outputs),  # type: ignore[no-untyped-call]
        scratch_types=buffers_and_barriers,
        grid=bounds.shape[:3],
        grid_names=_AXES[:3],
        num_threads=consumers + 1,
        thread_name=_AXES[3],
        compiler_params=plgpu.CompilerParams(approx_math=True, lowering_semantics=plgpu.LoweringSemantics.Warpgroup),
        interpret=program.interpret,
        kernel_name=name,
    )(slopes, bounds, own, other)
    return results


def forward(inputs: GpuInputs, rows: None, *, scale: float, blocks: GpuBlocks, interpret: Any) -> tuple[jax.Array, ...]:
    """-> output, like q, and the log-sum-exp in bits, float32 [B, H, P]."""
    q, k, v, slopes, numbers, bounds = inputs
    shape = (q.shape[0], q.shape[2], q.shape[1])
    log_sum_exp = jax.ShapeDtypeStruct(shape, jnp.float32)  # type: ignore[no-untyped-call]
    program = _Program(_forward, KEYS_BEFORE, scale, blocks, interpret)
    return _launch(program, "alibi_attention_forward", slopes, bounds, (q, numbers), (k, v, numbers), (q, log_sum_exp))


def query_gradient(
    inputs: GpuInputs, rows: GradientRows, *, scale: float, blocks: GpuBlocks, interpret: Any
) -> tuple[jax.Array, ...]:
    """Reads dO, the log-sum-exp in bits and delta -> dq."""
    q, k, v, slopes, numbers, bounds = inputs
    program = _Program(_query_gradient, KEYS_BEFORE, scale, blocks, interpret)
    own = (q, *rows, numbers)
    return _launch(program, "alibi_attention_query_gradient", slopes, bounds, own, (k, v, numbers), (q,))


def key_gradient(
    inputs: GpuInputs, rows: GradientRows, *, scale: float, blocks: GpuBlocks, interpret: Any
) -> tuple[jax.Array, ...]:
    """Reads dO, the log-sum-exp in bits and delta -> dk and dv."""
    q, k, v, slopes, numbers, bounds = inputs
    program = _Program(_key_gradient, KEYS_BEHIND, scale, blocks, interpret)
    return _launch(program, "alibi_attention_key_gradient", slopes, bounds, (k, v, numbers), (q, *rows, numbers), (k, v))
