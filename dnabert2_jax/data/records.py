"""The records of a table: rows that are checked one by one, so that every unusable one is named."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from dnabert2_jax.data.bad_records import BadRecords
from dnabert2_jax.data.columns import Header
from dnabert2_jax.data.rows import TableRows
from dnabert2_jax.data.sequences import clean_sequence
from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.letters import LetterCounts

_ERROR_VALUES = {"#N/A", "#NAME?", "#NULL!", "#NUM!", "#DIV/0!", "#REF!", "#VALUE!", "#SPILL!", "#CALC!"}
"""Cell values of failed formulas in spreadsheets."""


@dataclass(frozen=True)
class TableRecords:
    """A table as fields, one row in memory at a time; make it with :meth:`read`.

    Attributes:
        source: its name in messages.
        header: its columns.
        rows: its rows as fields, including the header.
    """

    source: str
    header: Header
    rows: TableRows

    @classmethod
    def read(cls, file: Path, source: str, expected: tuple[str, ...]) -> "TableRecords":
        """Read the header.

        Args:
            file: the table.
            source: its name in messages.
            expected: columns that messages name as an example.

        Raises:
            UserError: the file is missing, damaged, not text or empty.
        """
        rows = TableRows(file, source)
        first = next(iter(rows), None)
        if first is None:
            raise UserError(f"{source}: the file is empty; a table starts with a header such as {','.join(expected)}")
        return cls(source, Header(source, first[1], expected), rows)

    @property
    def notes(self) -> tuple[str, ...]:
        """Assumptions made, after all rows have been read."""
        return (*self.rows.notes, *self.header.notes)

    def cleaned(
        self, columns: list[int], label_at: int | None, letters: LetterCounts, bad: BadRecords
    ) -> Iterator[tuple[int, int, list[str], list[str]]]:
        """The number from 1, line, fields and cleaned sequences of each usable row."""
        number = 0
        for number, (line, fields) in enumerate(islice(self.rows, 1, None), start=1):
            own = LetterCounts()
            try:
                texts = self._sequences(line, fields, columns, label_at, own)
            except UserError as error:
                bad.add(error)
                continue
            letters.add(own)
            yield number, line, fields, texts
        if not number:
            raise UserError(f"{self.source}: the file has a header and no rows; add rows or name another file")

    def _sequences(
        self, line: int, fields: list[str], columns: list[int], label_at: int | None, letters: LetterCounts
    ) -> list[str]:
        names, where = self.header.names, f"{self.source}, line {line}"
        if len(fields) != len(names):
            raise UserError(
                f"{where}: {len(fields)} fields, but the header has {len(names)} ({', '.join(names)}); "
                "give every column a value, and quote a field that holds the delimiter"
            )
        for at in columns:
            if not fields[at]:
                raise UserError(f"{where}: column {names[at]!r} is empty; fill in the sequence or remove the row")
        if label_at is not None and not fields[label_at]:
            raise UserError(f"{where}: label '' is empty; write an integer or a name and nothing else")
        if label_at is not None and fields[label_at] in _ERROR_VALUES:
            raise UserError(
                f"{where}: label {fields[label_at]!r} is a spreadsheet's error value; correct it or remove the row"
            )
        return [clean_sequence(fields[at], letters, self.source, f"line {line}, column {names[at]!r}") for at in columns]


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
class TableOfSequences:
    """A table without labels; make it with :meth:`open`.

    Attributes:
        records: its fields.
        columns: positions of the sequence column, or of the two columns of pairs.
        name_at: position of the name column; None if rows are numbered.
        others_at: positions of the other columns.
    """

    records: TableRecords
    columns: list[int]
    name_at: int | None
    others_at: list[int]

    @classmethod
    def open(cls, file: Path, source: str, sequence_column: str, name_column: str | None) -> "TableOfSequences":
        """Read its header; arguments are those of :func:`~dnabert2_jax.data.reading.read_sequences`.

        Raises:
            UserError: as for :func:`~dnabert2_jax.data.reading.read_sequences`.
        """
        records = TableRecords.read(file, source, (sequence_column,))
        columns = records.header.sequence_columns(sequence_column)
        if name_column is None and records.header.has("name"):
            name_column = "name"
        name_at = None if name_column is None else records.header.column(name_column, "--name-column")
        others_at = [at for at in range(len(records.header.names)) if at not in (*columns, name_at)]
        return cls(records, columns, name_at, others_at)

    @property
    def others(self) -> list[str]:
        """Names of the other columns."""
        return [self.records.header.names[at] for at in self.others_at]

    @property
    def notes(self) -> tuple[str, ...]:
        """Assumptions made, after all rows have been read."""
        return self.records.notes

    def rows(self, letters: LetterCounts, bad: BadRecords) -> Iterator[Row]:
        """The usable rows.

        Args:
            letters: the counts to add to.
            bad: the collection to add unusable rows to.

        Raises:
            UserError: as for :func:`~dnabert2_jax.data.reading.read_sequences`.
        """
        for number, _, fields, texts in self.records.cleaned(self.columns, None, letters, bad):
            name = str(number) if self.name_at is None else fields[self.name_at]
            yield Row(name, texts, [fields[at] for at in self.others_at])
