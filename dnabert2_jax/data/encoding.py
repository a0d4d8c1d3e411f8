"""From sequences to token rows: the only place where sequences and pairs are tokenized, truncated, or split into windows.

A row is one sequence as the encoder reads it: ``[CLS] A [SEP]``, or ``[CLS] A [SEP] B [SEP]`` for a pair. Training,
evaluation, prediction and embedding all use the rows made here.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import repeat
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.config.inference import LongSequences
from dnabert2_jax.data.labels import Labels
from dnabert2_jax.data.sequences import Sequences, Table
from dnabert2_jax.draws import Domain, hash64
from dnabert2_jax.errors import UserError
from dnabert2_jax.tokenizer.base import Tokenizer, worthwhile_threads
from dnabert2_jax.tokenizer.special import with_template
from dnabert2_jax.types import RowBases

NO_LIMIT = 2**30
"""A value of ``max_tokens`` that no sequence reaches."""

Raw = NDArray[np.int32]
"""Ids of one sequence without special tokens, [tokens]."""


@dataclass(frozen=True)
class EncodedRows:
    """Token rows.

    Attributes:
        input_ids: ids of each row, special tokens included, [tokens of the row] each.
        first_tokens: number of tokens of type 0 in each row: those before the second sequence of a pair. [rows].
    """

    input_ids: list[NDArray[np.int32]]
    first_tokens: NDArray[np.int32]

    @classmethod
    def of(cls, inputs: Iterable[NDArray[np.int32]]) -> "EncodedRows":
        """Rows of single sequences, from their ids, special tokens included."""
        rows = list(inputs)
        return EncodedRows(rows, np.array([len(ids) for ids in rows], np.int32))

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.input_ids)

    @cached_property
    def lengths(self) -> NDArray[np.int32]:
        """Tokens in each row. [rows]."""
        return np.array([len(ids) for ids in self.input_ids], np.int32)

    def on_either_strand(self, other: Self, seed: int, epoch: int) -> Self:
        """These rows with a random half replaced by their reverse complements, labels included.

        Args:
            other: the same rows on the other strand.
            seed: the run's seed.
            epoch: from 0; each epoch draws a different half.
        """
        take = (hash64(seed, Domain.ROW_STRAND, epoch, np.arange(len(self))) & np.uint64(1)).astype(bool)
        pairs = {field.name: (getattr(self, field.name), getattr(other, field.name)) for field in fields(self)}
        chosen = {
            name: np.where(take.reshape(-1, *[1] * (ours.ndim - 1)), theirs, ours)
            for name, (ours, theirs) in pairs.items()
            if isinstance(ours, np.ndarray)
        }
        ids = zip(self.input_ids, other.input_ids, take, strict=True)
        return replace(self, input_ids=[theirs if t else ours for ours, theirs, t in ids], **chosen)

    @property
    def places(self) -> tuple[int, ...]:
        """The axes of a head's outputs for a row, besides the C outputs: none, or its bases (L,)."""
        return ()

    def bases_of(self, rows: NDArray[np.integer]) -> RowBases | None:
        """The bases of some rows [B], -1 for an empty one, where every base has a label; None for other rows."""
        return None

    def targets_of(self, labels: NDArray[Any], rows: NDArray[np.integer]) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """The labels and weights of a batch.

        Args:
            labels: of all rows. [rows, ...].
            rows: those of the batch, -1 for an empty slot. [B] or [B, P].

        Returns:
            Labels, zeros in empty slots, [B, ...] or [B, P, ...]; and weights, 1 where a label counts. [B] or [B, P].
        """
        used = rows >= 0
        chosen = labels[rows]  # an unused slot's -1 reads the last row's label, which is then set to 0
        chosen[~used] = 0
        return chosen, used.astype(np.float32)


@dataclass(frozen=True)
class EncodedSequences(EncodedRows):
    """Sequences or pairs as token rows of at most ``max_tokens`` tokens; the rows of one sequence are adjacent.

    Attributes:
        windows: number of rows of each sequence; 1 unless it was too long and is read in windows. [sequences].
        full_lengths: tokens that each sequence would have without a limit. [sequences].
        cut_bases: bases truncated from the end of each sequence; for a pair, from both. [sequences].
        max_tokens: the limit.
    """

    windows: NDArray[np.int64]
    full_lengths: NDArray[np.int32]
    cut_bases: NDArray[np.int64]
    max_tokens: int


@dataclass(frozen=True)
class EncodedTable(EncodedSequences):
    """A labeled table, one token row per table row.

    Attributes:
        labels: class numbers [rows], 0 or 1 for each label [rows, C], or measurements [rows]; see
            :class:`~dnabert2_jax.types.ClassificationBatch`.
    """

    labels: NDArray[Any]

    @property
    def truncated_rows(self) -> int:
        """Number of rows truncated to ``max_tokens``."""
        return int(np.count_nonzero(self.full_lengths > self.lengths))

    def summary(self) -> str:
        """A line about lengths and truncation, for the terminal."""
        line = f"{len(self):,} rows, {int(self.lengths.sum()):,} tokens, longest row {int(self.lengths.max()):,} tokens"
        if self.truncated_rows:
            cut = int((self.full_lengths - self.lengths).sum())
            line += (
                f"; {self.truncated_rows:,} rows were cut to max_tokens {self.max_tokens:,} and lost {cut:,} tokens "
                f"({cut / self.full_lengths.sum():.1%}); max_tokens {int(self.full_lengths.max()):,} keeps everything"
            )
        return line


def encode_table(
    table: Table, tokenizer: Tokenizer, labels: Labels, max_tokens: int, *, token_types: bool = True
) -> EncodedTable:
    """Tokenize a labeled table; rows that are too long are truncated, see :func:`encode_sequences`.

    Args:
        table: the rows.
        tokenizer: the tokenizer.
        labels: the meaning of the training table's labels.
        max_tokens: maximum row length in tokens, special tokens included.
        token_types: whether the second sequence of a pair has token type 1 rather than 0.

    Raises:
        UserError: ``max_tokens`` leaves no room for one token of each sequence, or a label is not among the classes.
    """
    encoded = encode_sequences(table, tokenizer, max_tokens, long="cut", token_types=token_types)
    return EncodedTable(**vars(encoded), labels=labels.encode(table))


def encode_sequences(
    sequences: Sequences,
    tokenizer: Tokenizer,
    max_tokens: int = NO_LIMIT,
    *,
    long: LongSequences = "windows",
    overlap: float = 0.5,
    token_types: bool = True,
) -> EncodedSequences:
    """Tokenize sequences or pairs as rows of at most ``max_tokens`` tokens, special tokens included.

    Windows begin and end at token boundaries of the whole sequence and have equal numbers of tokens. They are therefore also
    windows of bases: BPE never merged across such a boundary, so a window has the same tokens as its bases on their own.

    Args:
        sequences: sequences or pairs.
        tokenizer: the tokenizer.
        max_tokens: maximum row length in tokens.
        long: what to do with sequences that are too long. Pairs can only be truncated, because a pair of windows would be
            meaningless: tokens are removed from the longer sequence until both have the same length, then from both.
        overlap: minimum window overlap as a fraction of a window, in [0, 1).
        token_types: whether the second sequence of a pair has token type 1 rather than 0.

    Raises:
        UserError: there is no room for one token of each sequence, the overlap is out of range, or a long pair may not be
            truncated.
    """
    special = 2 if sequences.pairs is None else 3
    room = max_tokens - special
    if room < special - 1:
        raise UserError(
            f"max_tokens {max_tokens} is too small for {sequences.source}: {special} special tokens and one of each "
            f"sequence need {2 * special - 1}; raise max_tokens"
        )
    if not 0 <= overlap < 1:
        raise UserError(f"overlap {overlap} is out of range; it is a fraction of a window: 0 or more, and less than 1")
    count = len(sequences)
    rows: list[NDArray[np.int32]] = []
    first_tokens: list[int] = []
    windows, cut_bases = np.ones(count, np.int64), np.zeros(count, np.int64)
    full_lengths = np.zeros(count, np.int32)
    for n, (a, b) in enumerate(_raw_ids(sequences, tokenizer)):
        full = len(a) + (0 if b is None else len(b))
        full_lengths[n] = full + special
        pieces = [(a, b)]
        if full > room and long == "windows":
            if b is not None:
                raise UserError(
                    f"{sequences.where(n)}: this pair has {full + special:,} tokens, over max_tokens {max_tokens:,}, and "
                    "pairs are not read in windows; raise --max-tokens, or cut them (--long cut)"
                )
            pieces = [(a[start : start + room], None) for start in window_starts(len(a), room, overlap)]
        elif full > room:
            keep_a = room if b is None else min(len(a), max(room - len(b), room - room // 2))
            pieces = [(a[:keep_a], None if b is None else b[: room - keep_a])]
            for ids, kept in zip((a, b), pieces[0], strict=True):
                if ids is not None and kept is not None:
                    cut_bases[n] += tokenizer.token_bases(ids)[len(kept) :].sum()
        windows[n] = len(pieces)
        rows += [with_template(*piece) for piece in pieces]
        first_tokens += [len(piece[0]) + 2 for piece in pieces]
    types = np.array(first_tokens if token_types else [len(row) for row in rows], np.int32)
    return EncodedSequences(rows, types, windows, full_lengths, cut_bases, max_tokens)


def _raw_ids(sequences: Sequences, tokenizer: Tokenizer) -> Iterator[tuple[Raw, Raw | None]]:
    threads = worthwhile_threads(sum(map(len, sequences.sequences)))
    first = tokenizer.encode_raw_batch(sequences.sequences, num_threads=threads)
    if sequences.pairs is None:
        return zip(first, repeat(None), strict=False)
    return zip(first, tokenizer.encode_raw_batch(sequences.pairs, num_threads=threads), strict=True)


def window_starts(tokens: int, window: int, overlap: float) -> list[int]:
    """Start positions of the fewest evenly spaced windows that cover ``tokens`` tokens with at least the given overlap.

    Args:
        tokens: tokens in the sequence, more than ``window``.
        window: tokens per window.
        overlap: minimum overlap as a fraction of a window, in [0, 1).
    """
    step = max(1, int(window * (1 - overlap)))
    count = 1 + -(-(tokens - window) // step)
    return [(tokens - window) * n // (count - 1) for n in range(count)]
