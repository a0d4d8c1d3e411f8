"""Training batches whose rows hold several sequences each, with hardly any padding for any mix of lengths.

A batch has as many sequences as an unpacked one, in an order drawn from (seed, epoch), so a step means the same. They are
distributed over a fixed number of rows as evenly as possible, and a few widths, chosen over the whole run, fit all batches.
Tokens attend only to their own segment, and ALiBi depends only on distances, so the loss is that of one sequence per row.
"""

import heapq
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.data.batches import Batches, BatchPlan, TrainingBatches
from dnabert2_jax.data.by_length import choose_lengths, epoch_order, epoch_seeds
from dnabert2_jax.data.encoding import EncodedTable

# A position in a row this many times as wide as the hidden size costs twice as much as one in a narrow row: attention grows
# with the width, everything else with the hidden size. Measured at hidden size 192, see ``data/packing.py``.
_DOUBLE_COST = 5
_SAMPLED_BATCHES = 200


def pack_epochs(
    tables: Sequence[EncodedTable], batch_size: int, seed: int, *, hidden_size: int, max_shapes: int, parts: int = 1
) -> list[TrainingBatches]:
    """The training batches of all epochs: every sequence once per epoch, in an order drawn from (seed, epoch).

    Args:
        tables: the table for each epoch (its rows may be on either strand).
        batch_size: sequences per batch; the last batch of an epoch may hold fewer.
        seed: the run's seed.
        hidden_size: the encoder's hidden size, which determines how expensive wide rows are.
        max_shapes: maximum number of widths; each is compiled.
        parts: the number of rows is a multiple of this, so that a batch can be divided.

    Returns:
        One epoch of batches per table. A row has the dropout seed of its first sequence.
    """
    drawn = [
        [order[at : at + batch_size] for at in range(0, len(table), batch_size)]
        for epoch, table in enumerate(tables)
        for order in [epoch_order(len(table), seed, epoch)]
    ]
    some = [tables[0].lengths[numbers] for numbers in drawn[0][:_SAMPLED_BATCHES]]
    choices = [height for height in range(parts, batch_size + 1, parts) if batch_size % height == 0]
    height = min(choices, key=lambda rows: _cost(some, rows, hidden_size, max_shapes))
    spread = [
        [[numbers[row] for row in _spread(table.lengths[numbers], height)] for numbers in epoch]
        for table, epoch in zip(tables, drawn, strict=True)
    ]
    needed = [
        [max(int(table.lengths[row].sum()) for row in rows) for rows in epoch]
        for table, epoch in zip(tables, spread, strict=True)
    ]
    widths = choose_lengths(np.concatenate(needed), max_shapes)
    slots = max(len(row) for epoch in spread for rows in epoch for row in rows)
    plans = [
        [BatchPlan(_fitting(widths, need), height, rows, slots) for need, rows in zip(needs, epoch, strict=True)]
        for needs, epoch in zip(needed, spread, strict=True)
    ]
    return [
        TrainingBatches(Batches(table, plan), table.labels, epoch_seeds(len(table), seed, epoch))
        for epoch, (table, plan) in enumerate(zip(tables, plans, strict=True))
    ]


def _fitting(widths: tuple[int, ...], tokens: int) -> int:
    return next(width for width in widths if width >= tokens)


def _spread(lengths: NDArray[np.integer], height: int) -> list[list[int]]:
    """Which sequences share each of ``height`` rows: longest first, always into the row with the most room (Graham 1969)."""
    rows: list[list[int]] = [[] for _ in range(height)]
    filled = [(0, row) for row in range(height)]
    for i in np.argsort(-lengths, kind="stable").tolist():
        tokens, row = filled[0]
        rows[row].append(i)
        heapq.heapreplace(filled, (tokens + int(lengths[i]), row))
    return rows


def _cost(batches: list[NDArray[np.int32]], height: int, hidden_size: int, max_shapes: int) -> float:
    """Estimated time of batches of ``height`` rows each, in positions of a narrow row."""
    needed = np.array([max(int(lengths[row].sum()) for row in _spread(lengths, height)) for lengths in batches])
    widths = np.array(choose_lengths(needed, max_shapes))
    used = widths[np.searchsorted(widths, needed)]
    return float((height * used * (1 + used / (_DOUBLE_COST * hidden_size))).sum())
