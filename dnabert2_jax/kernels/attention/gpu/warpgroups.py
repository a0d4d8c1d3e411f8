"""How a kernel for Hopper runs: specialized warpgroups, which hand blocks to each other through a ring of buffers.

Each program owns one block of tokens of one head and visits other blocks. One of its warpgroups copies the blocks to visit
into a ring of buffers, ahead of time (TMA). Each of the others multiplies 64 of the own tokens with them (wgmma) and holds
its sums in registers. Barriers say which buffers are full and which may be filled again. No other program writes the same
output.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from dnabert2_jax.kernels.attention.block_sizes import GpuBlocks
from dnabert2_jax.kernels.attention.gpu.tile import BITS, BOUNDS, EDGE, Head

ROWS = 64
"""Rows of a warpgroup's product."""

_PRODUCER_REGISTERS, _CONSUMER_REGISTERS = 24, 240
"""Registers per thread: copying needs few, and the rest go to the warpgroups that multiply. 128 threads each."""

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


class Task(NamedTuple):
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


class Program(NamedTuple):
    """A kernel's static parameters.

    Attributes:
        compute: what a warpgroup that multiplies does: its task and a fold over all visits -> its part of the outputs.
        before: kind of inner tiles before the own block.
        scale: factor of the products.
        blocks: block sizes.
        interpret: run in Mosaic's interpreter.
    """

    compute: Callable[[Task, Fold], tuple[jax.Array, ...]]
    before: int
    scale: float
    blocks: GpuBlocks
    interpret: Any

    @property
    def consumers(self) -> int:
        """Warpgroups that multiply; one more fills the ring."""
        return self.blocks.own // ROWS

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
            first = index * self.blocks.own + warpgroup * ROWS
            mine = tuple(buffer.at[warpgroup] for buffer in own_buffers)
            for ref, buffer in zip(own, mine, strict=True):
                plgpu.copy_gmem_to_smem(part(ref, first, ROWS), buffer, loaded.at[warpgroup])
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

            task = Task(Head(self.scale, slopes[head] * BITS), first, mine, ring, bool(self.interpret))
            for value, buffer in zip(self.compute(task, fold), results, strict=True):
                buffer[warpgroup] = value.astype(buffer.dtype)
            plgpu.commit_smem()  # type: ignore[no-untyped-call]
            for ref, buffer in zip(outputs, results, strict=True):
                plgpu.copy_smem_to_gmem(buffer.at[warpgroup], part(ref, first, ROWS))
            plgpu.wait_smem_to_gmem(0)


def launch(
    program: Program,
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
        buffers(own, consumers, ROWS),
        buffers(other, stages, program.blocks.other),
        buffers(outputs, consumers, ROWS),
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
