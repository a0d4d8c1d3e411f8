"""Training batches whose rows hold several sequences each: hardly any padding, whatever the lengths.

A batch has as many sequences as an unpacked one, in an order drawn from (seed, epoch), so a step means the same. They are
spread over a fixed number of rows as evenly as they go, and a few widths, chosen over the whole run, hold all batches.
Tokens see their own segment only and ALiBi knows distances alone, so the loss is that of one sequence a row.
"""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.data.classification import EncodedTable, choose_lengths, epoch_order, epoch_seeds
from dnabert2_jax.tokenizer.special import PAD
from dnabert2_jax.types import ClassificationBatch, TokenBatch

# A position of a row this many times as wide as the hidden size costs twice that of a narrow one: attention grows with the
# width, and all else with the hidden size. Measured at hidden size 192, see ``data/packing.py``.
_DOUBLE_COST = 5
_SAMPLED_BATCHES = 200


@dataclass(frozen=True)
class PackedEpoch(Sequence[ClassificationBatch]):
    """The batches of one epoch, each assembled when it is asked for; batches of one width have one shape.

    Attributes:
        encoded: the table.
        plan: width and sequences of every batch, by their position in the table.
        batch_rows: rows of every batch.
        slots: P, sequences that a row may hold.
        dropout_seeds: one a sequence; a row has that of its first. [sequences].
    """

    encoded: EncodedTable
    plan: list[tuple[int, NDArray[np.int64]]]
    batch_rows: int
    slots: int
    dropout_seeds: NDArray[np.uint32]

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.plan)

    @property
    def widths(self) -> list[int]:
        """Widths of rows in use, ascending."""
        return sorted({width for width, _ in self.plan})

    @property
    def padding_share(self) -> float:
        """Share of all positions that is padding."""
        real = sum(int(self.encoded.lengths[members].sum()) for _, members in self.plan)
        return 1 - real / (self.batch_rows * sum(width for width, _ in self.plan))

    @overload
    def __getitem__(self, index: int) -> ClassificationBatch: ...
    @overload
    def __getitem__(self, index: slice) -> "PackedEpoch": ...
    def __getitem__(self, index: int | slice) -> "ClassificationBatch | PackedEpoch":
        """One batch, or the batches of a slice (to go on in the middle of an epoch)."""
        if isinstance(index, slice):
            return replace(self, plan=self.plan[index])
        width, members = self.plan[index]
        count, slots = self.batch_rows, self.slots
        tokens = TokenBatch(np.full((count, width), PAD, np.int32), *np.zeros((2, count, width), np.int32))
        starts = np.zeros((count, slots), np.int32)
        labels = np.zeros((count, slots, *self.encoded.labels.shape[1:]), self.encoded.labels.dtype)
        numbers = np.full((count, slots), -1, np.int32)
        for row, places in enumerate(_spread(self.encoded.lengths[members], count)):
            start = 0
            for slot, number in enumerate(members[places].tolist()):
                end = start + int(self.encoded.lengths[number])
                tokens.input_ids[row, start:end] = self.encoded.input_ids[number]
                tokens.segment_ids[row, start:end] = slot + 1
                tokens.token_type_ids[row, start + self.encoded.first_tokens[number] : end] = 1
                starts[row, slot], labels[row, slot], numbers[row, slot] = start, self.encoded.labels[number], number
                start = end
        return ClassificationBatch(
            tokens=tokens,
            labels=labels,
            weights=(numbers >= 0).astype(np.float32),
            dropout_seeds=np.where(numbers[:, 0] >= 0, self.dropout_seeds[numbers[:, 0]], np.uint32(0)),
            rows=numbers,
            starts=starts,
        )

    def __iter__(self) -> Iterator[ClassificationBatch]:
        """Batches in order."""
        return (self[index] for index in range(len(self)))


def pack_epochs(
    tables: Sequence[EncodedTable], batch_size: int, seed: int, *, hidden_size: int, max_shapes: int, parts: int = 1
) -> list[PackedEpoch]:
    """The training batches of all epochs: every sequence once an epoch, in an order drawn from (seed, epoch).

    Args:
        tables: the table as each epoch reads it (its rows may be on either strand).
        batch_size: sequences of a batch; the last one of an epoch may hold fewer.
        seed: the run's seed.
        hidden_size: of the encoder: how dear wide rows are.
        max_shapes: widths to use, at most; each is compiled.
        parts: the number of rows is a multiple of this, so that a batch can be cut.

    Returns:
        An epoch's batches for each table.
    """
    batches = [
        [order[at : at + batch_size] for at in range(0, len(table), batch_size)]
        for epoch, table in enumerate(tables)
        for order in [epoch_order(len(table), seed, epoch)]
    ]
    some = [tables[0].lengths[members] for members in batches[0][:_SAMPLED_BATCHES]]
    choices = [count for count in range(parts, batch_size + 1, parts) if batch_size % count == 0]
    count = min(choices, key=lambda rows: _cost(some, rows, hidden_size, max_shapes))
    needed = [
        np.array([_needed(table.lengths[members], count) for members in epoch])  # (width, slots) of each batch
        for table, epoch in zip(tables, batches, strict=True)
    ]
    widths = choose_lengths(np.concatenate(needed)[:, 0], max_shapes)
    slots = int(np.concatenate(needed)[:, 1].max())
    plans = [
        [(widths[n], members) for n, members in zip(np.searchsorted(widths, need[:, 0]).tolist(), epoch, strict=True)]
        for need, epoch in zip(needed, batches, strict=True)
    ]
    return [
        PackedEpoch(table, plan, count, slots, epoch_seeds(len(table), seed, epoch))
        for epoch, (table, plan) in enumerate(zip(tables, plans, strict=True))
    ]


def _spread(lengths: NDArray[np.integer], count: int) -> list[list[int]]:
    """Which sequences share each of ``count`` rows: the longest first, always into the row with most room (Graham 1969)."""
    rows: list[list[int]] = [[] for _ in range(count)]
    filled = [(0, row) for row in range(count)]
    for i in np.argsort(-lengths, kind="stable").tolist():
        tokens, row = filled[0]
        rows[row].append(i)
        heapq.heapreplace(filled, (tokens + int(lengths[i]), row))
    return rows


def _needed(lengths: NDArray[np.integer], count: int) -> tuple[int, int]:
    """(width, slots) that some sequences need in ``count`` rows."""
    rows = _spread(lengths, count)
    return max(int(lengths[row].sum()) for row in rows), max(map(len, rows))


def _cost(batches: list[NDArray[np.int32]], count: int, hidden_size: int, max_shapes: int) -> float:
    """An estimate of the time of some batches in ``count`` rows each, in positions of a narrow row."""
    needed = np.array([_needed(lengths, count)[0] for lengths in batches])
    widths = np.array(choose_lengths(needed, max_shapes))
    used = widths[np.searchsorted(widths, needed)]
    return float((count * used * (1 + used / (_DOUBLE_COST * hidden_size))).sum())
