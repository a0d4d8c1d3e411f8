"""Sequences of a file of any size: read once to check it, and then again in chunks."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from dnabert2_jax.config.inference import BadRecordPolicy, DuplicateNames
from dnabert2_jax.data.bad_records import BadRecords
from dnabert2_jax.data.reading import SequenceReader, opened_file
from dnabert2_jax.data.records import Row
from dnabert2_jax.data.sequences import Sequences, given_sequences
from dnabert2_jax.errors import counted
from dnabert2_jax.genome.letters import LetterCounts

T = TypeVar("T")


def in_chunks(items: Iterable[T], size: Callable[[T], int], least: int) -> Iterator[list[T]]:
    """Consecutive items, taken as needed, in chunks whose sizes add up to ``least`` or more (the last may have less)."""
    chunk: list[T] = []
    total = 0
    for item in items:
        chunk.append(item)
        total += size(item)
        if total >= least:
            yield chunk
            chunk, total = [], 0
    if chunk:
        yield chunk


@dataclass(frozen=True)
class SequenceFile:
    """A file whose records have all been read and checked; make it with :func:`checked_file`.

    Attributes:
        reading: its reader.
        rows: number of usable sequences or pairs.
        longest: the longest of them.
        letters: letter counts and changes of the letters policy.
        notes: assumptions made and records skipped.
    """

    reading: SequenceReader
    rows: int
    longest: Row
    letters: LetterCounts
    notes: tuple[str, ...]

    @property
    def path(self) -> Path:
        """The file that is read."""
        return self.reading.path

    @property
    def pairs(self) -> bool:
        """Whether rows are pairs."""
        return len(self.longest.texts) > 1

    def summary(self) -> str:
        """A line about what was read and changed, for the terminal."""
        rows = counted(self.rows, "pair" if self.pairs else "sequence")
        counts = f"{self.reading.source}: {rows}, {self.letters.bases:,} bases"
        return "; ".join([counts, *self.letters.changes(), *self.notes])

    def chunks(self, bases: int) -> Iterator[Sequences]:
        """All sequences in file order, in chunks of at least ``bases`` bases (the last one may have fewer)."""
        rows = self.reading.rows(LetterCounts(), BadRecords(self.reading.source, "skip"))
        for chunk in in_chunks(rows, lambda row: row.bases, bases):
            yield self.reading.gather(chunk, LetterCounts())


def given_in_chunks(sequences: Iterable[str] | Mapping[Any, str], bases: int) -> Iterator[Sequences]:
    """Sequences from Python in chunks; a generator is consumed only as needed.

    Args:
        sequences: as for :func:`~dnabert2_jax.data.sequences.given_sequences`.
        bases: minimum bases per chunk (the last one may have fewer).

    Raises:
        UserError: as for :func:`~dnabert2_jax.data.sequences.given_sequences`; a chunk names its own sequences.
    """
    named = isinstance(sequences, Mapping)
    pairs = sequences.items() if isinstance(sequences, Mapping) else enumerate(sequences)
    for chunk in in_chunks(pairs, lambda pair: len(pair[1]) if isinstance(pair[1], str | bytes) else 0, bases):
        yield given_sequences(dict(chunk), names=None if named else [str(number + 1) for number, _ in chunk])


@contextmanager
def checked_file(
    path: str | Path,
    *,
    sequence_column: str = "sequence",
    name_column: str | None = None,
    bad_records: BadRecordPolicy | None = None,
    duplicate_names: DuplicateNames | None = None,
) -> Iterator[SequenceFile]:
    """Read a file once, to find problems before anything is computed.

    Arguments and accepted files are those of :func:`~dnabert2_jax.data.reading.read_sequences`; standard input is kept in a
    temporary file until the block ends.

    Raises:
        UserError: as for :func:`~dnabert2_jax.data.reading.read_sequences`.
    """
    with opened_file(path) as (file, source):
        reading = SequenceReader.open(file, source, sequence_column, name_column, duplicate_names)
        letters, bad = LetterCounts(), BadRecords(source, bad_records)
        rows, numbered, longest = 0, 0, Row("", [""], [])
        for row in reading.rows(letters, bad):
            rows, numbered = rows + 1, numbered + row.numbered
            longest = max(longest, row, key=lambda each: each.bases)
        notes = (*reading.notes(numbered), *bad.finish(rows + bad.count))
        yield SequenceFile(reading, rows, longest, letters, notes)
