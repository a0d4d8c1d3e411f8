"""The blocks that one step of a TPU kernel visits: their order, and how they reach it.

A row that fits is held on the chip as a whole. A longer one stays in HBM, and each block is copied while the one before it
is computed with.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu


def repeat(trips: jax.Array, body: Callable[[jax.Array], None]) -> None:
    """Run ``body(n)`` for n below ``trips``.

    A part of a kernel that runs under a condition is such a loop, too: a schedule then tells how often each part runs.
    """
    jax.lax.fori_loop(0, trips, lambda n, _: body(n), None)


class Visits(NamedTuple):
    """The visited blocks of one step: those beside the diagonal by position, then those on it."""

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
        """Blocks that share positions with the step's own block."""
        return self.diagonal_stop - self.diagonal_start

    @property
    def beside(self) -> jax.Array:
        """Blocks that share none."""
        return self.total - self.on_diagonal

    def block(self, visit: jax.Array) -> jax.Array:
        """Which block comes at a visit."""
        beside = self.start + visit
        beside = jnp.where(beside < self.diagonal_start, beside, beside + self.on_diagonal)
        return jnp.where(visit < self.beside, beside, self.diagonal_start + visit - self.beside)

    def is_before(self, block: jax.Array) -> jax.Array:
        """Whether a block beside the diagonal lies before the step's own."""
        return block < self.diagonal_start


def visits_of(start: jax.Array, stop: jax.Array, first: jax.Array, own: int, other: int) -> Visits:
    """Visits to blocks ``start`` to ``stop`` of ``other`` tokens, of a step that owns ``own`` tokens from ``first`` on."""
    diagonal_start = jnp.clip(jax.lax.div(first, other), start, stop)
    diagonal_stop = jnp.clip(jax.lax.div(first + own - 1, other) + 1, start, stop)
    return Visits(start, stop, diagonal_start, diagonal_stop)


class Stream(NamedTuple):
    """Copies of blocks from HBM, one visit ahead.

    Attributes:
        visits: in which order.
        sources: block number -> where in HBM it lies.
        buffers: two places for each source, [2, ...].
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
        """Start to copy what a visit needs, if there is such a visit."""

        @pl.when(visit < self.visits.total)
        def _() -> None:
            for copy in self._copies(visit):
                copy.start()

    def take(self, visit: jax.Array) -> list[jax.Array]:
        """The blocks of a visit, and start with those of the next."""
        self.fetch(visit + 1)
        for copy in self._copies(visit):
            copy.wait()
        slot = jax.lax.rem(visit, 2)
        return [buffer[slot] for buffer in self.buffers]
