"""Batches from the host to the devices: one transfer per device, regardless of the number of arrays in a batch.

The arrays of a batch travel side by side in one table, and a small program cuts it up again on the devices. Sending needs no
other process and may happen on any thread, ahead of time. Cutting is a program of all processes, which have to start their
programs in the same order; it therefore happens where the steps are started.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from numpy.typing import NDArray


@dataclass(frozen=True)
class _Form:
    """How a table is cut into arrays: one program for each form."""

    structure: Any
    shapes: tuple[tuple[int, ...], ...]  # of one row
    dtypes: tuple[np.dtype[Any], ...]
    sharding: NamedSharding


@dataclass(frozen=True)
class SentBatch:
    """A batch on its way to the devices, or there.

    Attributes:
        table: all arrays side by side, int32 [B, columns], spread by rows.
        form: how it is cut into arrays.
    """

    table: jax.Array
    form: _Form

    def arrays(self) -> Any:
        """The batch: its arrays on the devices, leaves [B, ...], spread by rows."""
        return _program(self.form)(self.table)


def send_batch(rows: Any, sharding: NamedSharding, here: NDArray[np.int64], batch_size: int) -> SentBatch:
    """Send this process's rows of a batch to its devices.

    Args:
        rows: a tree of arrays of numbers of 32 bits (of 64 bits: they lose half, as everywhere in jax), [rows here, ...].
        sharding: spreads the rows.
        here: the rows of the batch that this process has, ascending.
        batch_size: rows of the whole batch, over all processes.
    """
    leaves, structure = jax.tree.flatten(rows)
    leaves = [leaf.astype(jax.dtypes.canonicalize_dtype(leaf.dtype), copy=False) for leaf in leaves]
    table = np.concatenate([leaf.reshape(len(here), -1).view(np.int32) for leaf in leaves], axis=1)

    def shard(index: tuple[slice, ...] | None) -> NDArray[np.int32]:
        assert index is not None
        return table[np.searchsorted(here, np.arange(batch_size)[index[0]])]

    sent = jax.make_array_from_callback((batch_size, table.shape[1]), sharding, shard)
    form = _Form(structure, tuple(leaf.shape[1:] for leaf in leaves), tuple(leaf.dtype for leaf in leaves), sharding)
    return SentBatch(sent, form)


@cache
def _program(form: _Form) -> Callable[[jax.Array], Any]:
    """Cuts a table into the arrays of a batch."""
    widths = [math.prod(shape) for shape in form.shapes]
    ends = np.cumsum(widths).tolist()

    def cut(table: jax.Array) -> Any:
        arrays = [
            jax.lax.bitcast_convert_type(table[:, end - width : end].reshape(-1, *shape), dtype)
            for end, width, shape, dtype in zip(ends, widths, form.shapes, form.dtypes, strict=True)
        ]
        return jax.tree.unflatten(form.structure, arrays)

    return jax.jit(cut, out_shardings=form.sharding)
