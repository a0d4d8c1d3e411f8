"""The blocks that one step of a TPU kernel visits: their order, and how they are loaded.

A row that fits is kept on the chip as a whole. A longer row stays in HBM, and each block is copied while the previous one is
being processed.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu


def repeat(trips: jax.Array, body: Callable[[jax.Array], None]) -> None:
    """Run ``body(n)`` for n below ``trips``.

    Conditional parts of a kernel are such loops, too: a schedule then shows how often each part runs.
    """
    jax.lax.fori_loop(0, trips, lambda n, _: body(n), None)


class Visits(NamedTuple):
    """The blocks visited in one step: first those off the diagonal by position, then those on it."""

    start: jax.Array
    stop: jax.Array
    diagonal_start: jax.Array
    diagonal_stop: jax.Array

    @property
    def total(self) -> jax.Array:
        """Blocks."""
        return self.stop - self.start

    @property
    def on_diagonal(self) -> jax.Array:
        """Number of blocks that share positions with the step's own block."""
        return self.diagonal_stop - self.diagonal_start

    @property
    def beside(self) -> jax.Array:
        """Number of blocks that share no positions with it."""
        return self.total - self.on_diagonal

    def block(self, visit: jax.Array) -> jax.Array:
        """The block of a visit."""
        beside = self.start + visit
        beside = jnp.where(beside < self.diagonal_start, beside, beside + self.on_diagonal)
        return jnp.where(visit < self.beside, beside, self.diagonal_start + visit - self.beside)

    def is_before(self, block: jax.Array) -> jax.Array:
        """Whether an off-diagonal block lies before the step's own block."""
        return block < self.diagonal_start


def visits_of(start: jax.Array, stop: jax.Array, first: jax.Array, own: int, other: int) -> Visits:
    """Visits to blocks ``start`` to ``stop`` of ``other`` tokens, for a step that owns ``own`` tokens from ``first`` on."""
    diagonal_start = jnp.clip(jax.lax.div(first, other), start, stop)
    diagonal_stop = jnp.clip(jax.lax.div(first + own - 1, other) + 1, start, stop)
    return Visits(start, stop, diagonal_start, diagonal_stop)


class Stream(NamedTuple):
    """Copies of blocks from HBM, one visit ahead.

    Attributes:
        visits: the order of the visits.
        sources: functions from block number to the block's location in HBM.
        buffers: two buffers for each source, [2, ...].
        semaphores: [sources, 2].
    """

    visits: Visits
    sources: Sequence[Callable[[jax.Array], Any]]
    buffers: Sequence[Any]
    semaphores: Any

    def _copies(self, visit: jax.Array) -> list[Any]:
        slot, block = jax.lax.rem(visit, 2), self.visits.block(visit)
        return [
            pltpu.make_async_copy(source(block), buffer.at[slot], self.semaphores.at[index, slot])
            for index, (source, buffer) in enumerate(zip(self.sources, self.buffers, strict=True))
        ]

    def fetch(self, visit: jax.Array) -> None:
        """Start copying what a visit needs, if there is such a visit."""

        @pl.when(visit < self.visits.total)
        def _() -> None:
            for copy in self._copies(visit):
                copy.start()

    def take(self, visit: jax.Array) -> list[jax.Array]:
        """Return the blocks of a visit, and start copying those of the next."""
        self.fetch(visit + 1)
        for copy in self._copies(visit):
            copy.wait()
        slot = jax.lax.rem(visit, 2)
        return [buffer[slot] for buffer in self.buffers]
