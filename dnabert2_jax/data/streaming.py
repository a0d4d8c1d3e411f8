"""Sequences of a file of any size: read once to check it, and then again, some at a time."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dnabert2_jax.config.inference import BadRecordPolicy, DuplicateNames
from dnabert2_jax.data.bad_records import BadRecords
from dnabert2_jax.data.reading import TableOfSequences, layout_of, numbered_names, opened_file
from dnabert2_jax.data.sequences import Sequences, clean_sequence, given_sequences
from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.fasta import Layout, read_fasta
from dnabert2_jax.genome.letters import LetterCounts


class Row(NamedTuple):
    """One sequence or pair, cleaned by the letters policy.

    Attributes:
        name: its name.
        texts: its sequence, or both of a pair.
        others: the values of a table's other columns.
        numbered: whether its name was given a number.
    """

    name: str
    texts: list[str]
    others: list[str]
    numbered: bool = False

    @property
    def bases(self) -> int:
        """Bases, of both sequences of a pair."""
        return sum(map(len, self.texts))


@dataclass(frozen=True)
class _Reading:
    """How a file is read."""

    path: Path
    source: str
    layout: Layout | None
    table: TableOfSequences | None
    duplicate_names: DuplicateNames | None

    def rows(self, letters: LetterCounts, bad: BadRecords) -> Iterator[Row]:
        """The usable rows, from the beginning of the file."""
        if self.table is not None:
            for name, texts, others in self.table.rows(letters, bad):
                yield Row(name, texts, others)
            return
        records = read_fasta(
            self.path, layout=self.layout or "fasta", source=self.source, duplicate_names=self.duplicate_names
        )
        for record in records:
            try:
                text = clean_sequence(record.sequence, letters, self.source, f"record {record.name!r}")
            except UserError as error:
                bad.add(error)
            else:
                yield Row(record.name, [text], [], record.numbered)


@dataclass(frozen=True)
class SequenceFile:
    """A file whose every record was read and checked; make it with :func:`checked_file`.

    Attributes:
        reading: how it is read.
        rows: usable sequences, or pairs.
        longest: the longest of them.
        letters: what the letters policy saw and changed.
        notes: assumptions made and records skipped.
    """

    reading: _Reading
    rows: int
    longest: Row
    letters: LetterCounts
    notes: tuple[str, ...]

    @property
    def path(self) -> Path:
        """Where it is read."""
        return self.reading.path

    @property
    def pairs(self) -> bool:
        """Whether rows are pairs."""
        return len(self.longest.texts) > 1

    def summary(self) -> str:
        """A line about what was read and changed, for the terminal."""
        source = self.reading.source
        unit = ("pair" if self.pairs else "sequence") + "s" * (self.rows != 1)
        changes = Sequences(source, [], [], None, self.letters, notes=self.notes).changes()
        return "; ".join([f"{source}: {self.rows:,} {unit}, {self.letters.bases:,} bases", *changes])

    def chunks(self, bases: int) -> Iterator[Sequences]:
        """All sequences in the order of the file, in chunks of at least ``bases`` bases (the last one may have fewer)."""
        rows: list[Row] = []
        size = 0
        for row in self.reading.rows(LetterCounts(), BadRecords(self.reading.source, "skip")):
            rows.append(row)
            size += row.bases
            if size >= bases:
                yield self._sequences(rows)
                rows, size = [], 0
        if rows:
            yield self._sequences(rows)

    def _sequences(self, rows: list[Row]) -> Sequences:
        firsts, *seconds = map(list, zip(*(row.texts for row in rows), strict=True))
        others = self.reading.table.others if self.reading.table else []
        return Sequences(
            self.reading.source,
            [row.name for row in rows],
            firsts,
            seconds[0] if seconds else None,
            LetterCounts(),
            columns={name: [row.others[at] for row in rows] for at, name in enumerate(others)},
        )


def given_in_chunks(sequences: Iterable[str] | Mapping[Any, str], bases: int) -> Iterator[Sequences]:
    """Sequences from Python, some at a time: a generator is read as far as a chunk needs.

    Args:
        sequences: as for :func:`~dnabert2_jax.data.sequences.given_sequences`.
        bases: least bases of a chunk (the last one may have fewer).

    Raises:
        UserError: as for :func:`~dnabert2_jax.data.sequences.given_sequences`; a chunk names its own sequences.
    """
    named = isinstance(sequences, Mapping)
    pairs = sequences.items() if isinstance(sequences, Mapping) else enumerate(sequences)
    chunk: dict[Any, str] = {}
    size = 0
    for key, text in pairs:
        chunk[key] = text
        size += len(text) if isinstance(text, str | bytes) else 0
        if size >= bases:
            yield given_sequences(chunk, names=None if named else [str(number + 1) for number in chunk])
            chunk, size = {}, 0
    if chunk:
        yield given_sequences(chunk, names=None if named else [str(number + 1) for number in chunk])


@contextmanager
def checked_file(
    path: str | Path,
    *,
    sequence_column: str = "sequence",
    name_column: str | None = None,
    bad_records: BadRecordPolicy | None = None,
    duplicate_names: DuplicateNames | None = None,
) -> Iterator[SequenceFile]:
    """Read a file once, to find what is wrong with it before anything is computed.

    Arguments, and what is accepted, are those of :func:`~dnabert2_jax.data.reading.read_sequences`; standard input is kept
    in a temporary file as long as the block lasts.

    Raises:
        UserError: as for :func:`~dnabert2_jax.data.reading.read_sequences`.
    """
    with opened_file(path) as (file, source):
        layout = layout_of(file)
        table = None if layout else TableOfSequences.open(file, source, sequence_column, name_column)
        reading = _Reading(file, source, layout, table, duplicate_names)
        letters, bad = LetterCounts(), BadRecords(source, bad_records)
        rows, numbered, longest = 0, 0, Row("", [""], [])
        for row in reading.rows(letters, bad):
            rows, numbered = rows + 1, numbered + row.numbered
            longest = max(longest, row, key=lambda each: each.bases)
        notes = (*(table.notes if table else ()), *numbered_names(numbered), *bad.finish(rows + bad.count))
        yield SequenceFile(reading, rows, longest, letters, notes)
