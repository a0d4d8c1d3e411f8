"""From a fine-tuning table to batches of a few fixed shapes.

Rows are padded to one of a few lengths rather than to the longest row of the file: a jitted step is compiled once a length,
and short rows do not pay for a long one. What a batch holds is a pure function of (seed, epoch), so a run that resumes in
the middle of an epoch sees what it would have seen.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.data.labels import Labels
from dnabert2_jax.data.tables import Table
from dnabert2_jax.draws import Domain, hash64, record_seeds
from dnabert2_jax.errors import UserError
from dnabert2_jax.tokenizer.special import PAD, Ids, with_template
from dnabert2_jax.types import ClassificationBatch, TokenBatch

# Words that keep the draws for rows and for batches apart from each other and from every other use of the seed.


class RawEncoder(Protocol):
    """The part of a tokenizer that is needed here: token ids of sequences, no special tokens around them."""

    def encode_raw_batch(self, sequences: Sequence[str]) -> Sequence[Ids]:
        """Token ids of each sequence."""
        ...


@dataclass(frozen=True)
class EncodedTable:
    """A table as token ids, with the template CLS A SEP or CLS A SEP B SEP, each row no longer than ``max_tokens``.

    Attributes:
        input_ids: ids of each row, shape [tokens of the row].
        first_tokens: tokens of token type 0 in each row: CLS, the first sequence and its SEP. [rows].
        labels: class numbers [rows], 1 and 0 by label [rows, C] or measurements [rows], as in a ``ClassificationBatch``.
        lengths: tokens of each row. [rows].
        full_lengths: tokens each row would have without a limit. [rows].
        max_tokens: the limit.
    """

    input_ids: list[NDArray[np.int32]]
    first_tokens: NDArray[np.int32]
    labels: NDArray[Any]
    lengths: NDArray[np.int32]
    full_lengths: NDArray[np.int32]
    max_tokens: int

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.input_ids)

    def on_either_strand(self, other: "EncodedTable", seed: int, epoch: int) -> "EncodedTable":
        """This table with half of its rows, drawn from (seed, epoch), as the other strand reads them.

        Args:
            other: the same rows, reverse-complemented before they were tokenized.
            seed: the run's seed.
            epoch: from 0.
        """
        take = (hash64(seed, Domain.ROW_STRAND, epoch, np.arange(len(self))) & np.uint64(1)).astype(bool)
        return replace(
            self,
            input_ids=[theirs if t else ours for ours, theirs, t in zip(self.input_ids, other.input_ids, take, strict=True)],
            first_tokens=np.where(take, other.first_tokens, self.first_tokens),
            lengths=np.where(take, other.lengths, self.lengths),
            full_lengths=np.where(take, other.full_lengths, self.full_lengths),
        )

    @property
    def truncated_rows(self) -> int:
        """Rows that were cut to ``max_tokens``."""
        return int(np.count_nonzero(self.full_lengths > self.lengths))

    def summary(self) -> str:
        """One line about length and truncation, for people."""
        line = f"{len(self):,} rows, {int(self.lengths.sum()):,} tokens, longest row {int(self.lengths.max()):,} tokens"
        if self.truncated_rows:
            cut = int((self.full_lengths - self.lengths).sum())
            line += (
                f"; {self.truncated_rows:,} rows were cut to max_tokens {self.max_tokens:,} and lost {cut:,} tokens "
                f"({cut / self.full_lengths.sum():.1%}); max_tokens {int(self.full_lengths.max()):,} keeps everything"
            )
        return line


def encode_table(
    table: Table, tokenizer: RawEncoder, labels: Labels, max_tokens: int, *, token_types: bool = True
) -> EncodedTable:
    """Tokenize a table.

    A row that is too long loses the end of its sequence; a pair loses tokens from the longer sequence until both are equally
    long, then from both. CLS and SEP always stay.

    Args:
        table: the rows.
        tokenizer: gives the ids of a sequence.
        labels: what the training table's labels stand for.
        max_tokens: longest row, in tokens, special tokens included.
        token_types: the second sequence of a pair has token type 1; else type 0.

    Raises:
        UserError: ``max_tokens`` leaves no room for a token of each sequence, or a label is not among the classes.
    """
    special = 2 if table.pairs is None else 3
    room = max_tokens - special
    if room < special - 1:
        raise UserError(
            f"max_tokens {max_tokens} is too small for {table.path}: {special} special tokens and one of each sequence need "
            f"{2 * special - 1}; raise max_tokens"
        )
    first = tokenizer.encode_raw_batch(table.sequences)
    num_first = np.array([len(ids) for ids in first], np.int32)
    if table.pairs is None:
        full_lengths = num_first + special
        num_first = np.minimum(num_first, room)
        rows = [with_template(a[:n]) for a, n in zip(first, num_first, strict=True)]
    else:
        second = tokenizer.encode_raw_batch(table.pairs)
        num_second = np.array([len(ids) for ids in second], np.int32)
        full_lengths = num_first + num_second + special
        num_first = np.minimum(num_first, np.maximum(room - num_second, room - room // 2))
        num_second = np.minimum(num_second, room - num_first)
        rows = [with_template(a[:n], b[:m]) for a, n, b, m in zip(first, num_first, second, num_second, strict=True)]
    lengths = np.array([len(ids) for ids in rows], np.int32)
    first_tokens = num_first + 2 if token_types else lengths
    return EncodedTable(rows, first_tokens, labels.encode(table), lengths, full_lengths, max_tokens)


def choose_lengths(lengths: NDArray[np.integer], max_shapes: int = 3, multiple: int = 8) -> tuple[int, ...]:
    """The padded lengths, at most ``max_shapes``, that need the fewest padded tokens in all.

    Args:
        lengths: tokens of every row that will be batched. [rows].
        max_shapes: most lengths to use; each costs a compilation.
        multiple: every length is a multiple of this many tokens.

    Returns:
        Ascending lengths; the last one holds the longest row.
    """
    if max_shapes < 1 or multiple < 1 or not len(lengths):
        raise ValueError(f"max_shapes {max_shapes} and multiple {multiple} must be at least 1, of {len(lengths)} rows")
    rounded = -(-np.asarray(lengths, np.int64) // multiple) * multiple
    candidates, counts = np.unique(rounded, return_counts=True)
    rows_up_to = np.cumsum(counts)
    # best[j]: fewest padded tokens for the rows up to candidate j, candidate j being the longest length in use; one length
    # at first, one more each round. before[j]: the length used before j, or -1 where one more did not help.
    best = candidates * rows_up_to
    rounds: list[NDArray[np.int64]] = []
    for _ in range(max_shapes - 1):
        improved, before = best.copy(), np.full(len(candidates), -1)
        for j in range(1, len(candidates)):
            totals = best[:j] + candidates[j] * (rows_up_to[j] - rows_up_to[:j])
            i = int(np.argmin(totals))
            if totals[i] < best[j]:
                improved[j], before[j] = totals[i], i
        best = improved
        rounds.append(before)
    j = len(candidates) - 1
    chosen = [int(candidates[j])]
    for before in reversed(rounds):
        if before[j] >= 0:
            j = int(before[j])
            chosen.append(int(candidates[j]))
    return tuple(reversed(chosen))


@dataclass(frozen=True)
class Batches(Sequence[ClassificationBatch]):
    """A sequence of batches, each assembled when it is asked for; batches of one length have one shape.

    Attributes:
        encoded: the rows.
        batch_size: rows of every batch, fill rows included.
        plan: padded length and rows of every batch.
        dropout_seeds: one a row of the table. [rows].
    """

    encoded: EncodedTable
    batch_size: int
    plan: list[tuple[int, NDArray[np.int64]]]
    dropout_seeds: NDArray[np.uint32]

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.plan)

    @property
    def real_tokens(self) -> int:
        """Tokens of the rows, special tokens included."""
        return int(self.encoded.lengths.sum())

    @property
    def widths(self) -> list[int]:
        """Padded lengths in use, ascending."""
        return sorted({length for length, _ in self.plan})

    @property
    def padding_share(self) -> float:
        """Share of all positions that is padding, fill rows included."""
        return 1 - self.real_tokens / (self.batch_size * sum(length for length, _ in self.plan))

    @overload
    def __getitem__(self, index: int) -> ClassificationBatch: ...
    @overload
    def __getitem__(self, index: slice) -> "Batches": ...
    def __getitem__(self, index: int | slice) -> "ClassificationBatch | Batches":
        """One batch, or the batches of a slice (to go on in the middle of an epoch)."""
        if isinstance(index, slice):
            return Batches(self.encoded, self.batch_size, self.plan[index], self.dropout_seeds)
        length, rows = self.plan[index]
        shape = (self.batch_size, length)
        input_ids = np.full(shape, PAD, np.int32)
        segment_ids, token_type_ids = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        for at, row in enumerate(rows):
            ids = self.encoded.input_ids[row]
            input_ids[at, : len(ids)] = ids
            segment_ids[at, : len(ids)] = 1
            token_type_ids[at, self.encoded.first_tokens[row] : len(ids)] = 1
        fill = self.batch_size - len(rows)
        labels = np.zeros((self.batch_size, *self.encoded.labels.shape[1:]), self.encoded.labels.dtype)
        labels[: len(rows)] = self.encoded.labels[rows]
        return ClassificationBatch(
            tokens=TokenBatch(input_ids, segment_ids, token_type_ids),
            labels=labels,
            weights=np.pad(np.ones(len(rows), np.float32), (0, fill)),
            dropout_seeds=np.pad(self.dropout_seeds[rows], (0, fill)),
            rows=np.pad(rows.astype(np.int32), (0, fill), constant_values=-1),
        )

    def __iter__(self) -> Iterator[ClassificationBatch]:
        """Batches in order."""
        return (self[index] for index in range(len(self)))


def epoch_batches(encoded: EncodedTable, batch_size: int, seed: int, epoch: int, lengths: tuple[int, ...]) -> Batches:
    """The training batches of one epoch: every row once, in an order drawn from (seed, epoch).

    A batch is drawn at random from the rows of one padded length, and the batches of all lengths are shuffled together. The
    rows left over at one length (a random few, others each epoch) go up to the next length in use. So an epoch has
    ceil(rows / batch_size) steps whatever the lengths, and one short batch at most: a step over two or three rows would move
    the parameters as far as a full one, in a noisier direction.

    Args:
        encoded: the rows.
        batch_size: rows a batch.
        seed: the run's seed.
        epoch: from 0.
        lengths: padded lengths, from :func:`choose_lengths`.

    Returns:
        Batches whose dropout seeds come from the record index ``epoch * len(encoded) + row``, never from the batch.

    Raises:
        ValueError: a row is longer than the last length.
    """
    plan = _plan(encoded, epoch_order(len(encoded), seed, epoch), batch_size, lengths)
    order = np.argsort(hash64(seed, Domain.BATCH_ORDER, epoch, np.arange(len(plan))), kind="stable")
    return Batches(encoded, batch_size, [plan[i] for i in order], epoch_seeds(len(encoded), seed, epoch))


def epoch_order(rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The rows of a table in an order drawn from (seed, epoch). [rows]."""
    return np.argsort(hash64(seed, Domain.ROW_ORDER, epoch, np.arange(rows)), kind="stable")


def epoch_seeds(rows: int, seed: int, epoch: int) -> NDArray[np.uint32]:
    """A dropout seed for every row, of the record index ``epoch * rows + row``. [rows]."""
    return record_seeds(seed, epoch * rows + np.arange(rows))


def evaluation_batches(encoded: EncodedTable, batch_size: int, lengths: tuple[int, ...]) -> Batches:
    """Batches of every row once, short rows first and otherwise in file order; ``rows`` puts results back in file order.

    Raises:
        ValueError: a row is longer than the last length.
    """
    rows = np.arange(len(encoded))
    return Batches(encoded, batch_size, _plan(encoded, rows, batch_size, lengths), np.zeros(len(encoded), np.uint32))


def _plan(
    encoded: EncodedTable, order: NDArray[np.int64], batch_size: int, lengths: tuple[int, ...]
) -> list[tuple[int, NDArray[np.int64]]]:
    """Padded length and rows of each batch, from rows in the given order; only the last batch may be short."""
    if encoded.lengths.max() > lengths[-1]:
        raise ValueError(f"a row of {encoded.lengths.max()} tokens does not fit the lengths {lengths}")
    bucket = np.searchsorted(lengths, encoded.lengths)[order]
    plan: list[tuple[int, NDArray[np.int64]]] = []
    rows = order[:0]
    for number in np.unique(bucket):
        rows = np.concatenate([rows, order[bucket == number]])
        while len(rows) >= batch_size or (len(rows) and number == bucket.max()):
            plan.append((lengths[number], rows[:batch_size]))
            rows = rows[batch_size:]
    return plan
