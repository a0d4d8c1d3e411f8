"""The one reader of sequence files: FASTA, and CSV or TSV tables with or without labels.

A table has a header line and a column ``sequence`` or, for pairs, ``sequence1`` and ``sequence2``; a labeled one has a
column ``label``, too (the layout of GUE, Zhou et al. 2024). Every error names the line that an editor would show, so it can
be fixed there.
"""

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dnabert2_jax.data.sequences import Sequences, Table, clean_sequence
from dnabert2_jax.errors import UserError, nearest
from dnabert2_jax.genome.fasta import read_fasta
from dnabert2_jax.genome.letters import LetterCounts

_FASTA_SUFFIXES = {".fa", ".fasta", ".fna", ".ffn", ".frn", ".fas"}
_COMPRESSED_SUFFIXES = {".gz", ".bgz", ".bz2", ".xz", ".zst"}
_LOOKS_LIKE_DNA = re.compile(r"[ACGTN]{8,}", re.IGNORECASE)


def read_sequences(path: Path, *, sequence_column: str = "sequence", name_column: str | None = None) -> Sequences:
    """Read a FASTA file, or a CSV or TSV table with a header.

    A FASTA file is one whose name says so (``.fa``, ``.fasta``, ``.fna`` ..., compressed or not) or that starts with ``>``.
    A table needs a column of sequences, or two for pairs (the column's name followed by 1 and 2). Other columns are ignored.

    Args:
        path: the file.
        sequence_column: the table's column of sequences.
        name_column: the table's column of names; by default ``name`` if there is such a column, else rows are named by
            their number, from 1.

    Raises:
        UserError: the file is missing, damaged or empty; a column is missing; a sequence is empty or holds a letter that is
            not DNA.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a directory; give a FASTA, CSV or TSV file")
    if not _is_fasta(path):
        records = _Records.read(path, (sequence_column,))
        columns = records.sequence_columns(sequence_column)
        if name_column is None and "name" in records.header:
            name_column = "name"
        name_at = None if name_column is None else records.column(name_column)
        sequences, pairs, letters = records.clean(columns)
        names = [str(n) if name_at is None else fields[name_at] for n, (_, fields) in enumerate(records.rows, start=1)]
        return Sequences(str(path), names, sequences, pairs, letters)
    letters, names, sequences = LetterCounts(), [], []
    for record in read_fasta(path):
        names.append(record.name)
        sequences.append(clean_sequence(record.sequence, letters, str(path), f"record {record.name!r}"))
    return Sequences(str(path), names, sequences, None, letters)


def stream_sequences(
    path: Path, letters: LetterCounts, *, sequence_column: str = "sequence", name_column: str | None = None
) -> Iterator[tuple[str, str]]:
    """Names and clean letters of single sequences, those of a FASTA file one in memory at a time.

    Args:
        path: as for :func:`read_sequences`.
        letters: the counts to add to.
        sequence_column: as for :func:`read_sequences`.
        name_column: as for :func:`read_sequences`.

    Raises:
        UserError: as :func:`read_sequences`; the table holds pairs.
    """
    path = Path(path)
    if path.is_file() and _is_fasta(path):
        for record in read_fasta(path):
            yield record.name, clean_sequence(record.sequence, letters, str(path), f"record {record.name!r}")
        return
    table = read_sequences(path, sequence_column=sequence_column, name_column=name_column)
    if table.pairs is not None:
        raise UserError(
            f"{path} holds pairs, but windows are those of one sequence; choose one of the two columns "
            "(--sequence-column sequence1)"
        )
    letters.add(table.letters)
    yield from zip(table.names, table.sequences, strict=True)


def read_table(path: Path, *, sequence_column: str = "sequence", label_column: str = "label") -> Table:
    """Read a labeled CSV or TSV file, plain or gzip.

    A tab in the header makes the file a TSV. Quoted fields, CRLF, a byte order mark and blank lines are understood; nothing
    else is forgiven.

    Args:
        path: the file.
        sequence_column: name of the column with the sequence; pairs are in the columns of that name followed by 1 and 2.
        label_column: name of the column with the label.

    Raises:
        UserError: the file is missing, damaged, not UTF-8 or has no rows; a column is missing; a row has another number of
            fields than the header, an empty sequence or label, or a letter that is not DNA.
    """
    path = Path(path)
    records = _Records.read(path, (sequence_column, label_column))
    columns, label_at = records.sequence_columns(sequence_column), records.column(label_column)
    sequences, pairs, letters = records.clean(columns)
    labels = [fields[label_at] for _, fields in records.rows]
    for (line, _), label in zip(records.rows, labels, strict=True):
        if not label or label != label.strip():
            raise UserError(
                f"{path}, line {line}: label {label!r} is {'surrounded by white space' if label.strip() else 'empty'}; "
                "write an integer or a name and nothing else"
            )
    ignored = tuple(name for at, name in enumerate(records.header) if at not in (*columns, label_at))
    names = [str(number) for number, _ in enumerate(labels, start=1)]
    return Table(str(path), names, sequences, pairs, letters, labels, [line for line, _ in records.rows], ignored)


def count_rows(path: Path) -> int:
    """Rows of a table, its header left out; nothing in them is checked.

    Raises:
        UserError: the file is missing, damaged or not UTF-8.
    """
    return len(_split_records(path, _read_text(path))) - 1


@dataclass(frozen=True)
class _Records:
    """A table as fields.

    Attributes:
        path: the file.
        expected: the columns that a header must have, for messages.
        header: names of the columns.
        rows: the line each row starts on and its fields, as many as the header has.
    """

    path: Path
    expected: tuple[str, ...]
    header: list[str]
    rows: list[tuple[int, list[str]]]

    @classmethod
    def read(cls, path: Path, expected: tuple[str, ...]) -> "_Records":
        records = _split_records(path, _read_text(path))
        if not records:
            raise UserError(f"{path}: the file is empty; a table starts with a header such as {','.join(expected)}")
        (_, header), *rows = records
        return cls(path, expected, header, rows)

    def column(self, name: str) -> int:
        """The position of a column, which must be there once."""
        if name not in self.header:
            remedy = f"rename a column, or name the one to use{nearest(name, self.header)}"
            if any(_LOOKS_LIKE_DNA.fullmatch(field) for field in self.header):
                remedy = f"the first line holds a sequence: put the header line {','.join(self.expected)} before it"
            elif len(self.header) < len(self.expected):
                remedy = "separate the columns by commas or tabs"
            raise UserError(f"{self.path}: no column {name!r}; the header has {', '.join(map(repr, self.header))}; {remedy}")
        if self.header.count(name) > 1:
            raise UserError(f"{self.path}: {self.header.count(name)} columns are called {name!r}; rename all but one")
        return self.header.index(name)

    def sequence_columns(self, name: str) -> list[int]:
        """Positions of the column of sequences, or of the two columns of pairs."""
        pair = [f"{name}1", f"{name}2"]
        if not set(pair) & set(self.header):
            return [self.column(name)]
        if name in self.header:
            raise UserError(
                f"{self.path}: the header has both {name!r} and {pair[0]!r} or {pair[1]!r}; keep one of the two layouts"
            )
        return [self.column(each) for each in pair]

    def clean(self, columns: list[int]) -> tuple[list[str], list[str] | None, LetterCounts]:
        """(sequences, pairs, letters) of the columns, after the letters policy."""
        letters = LetterCounts()
        texts: list[list[str]] = [[] for _ in columns]
        for line, fields in self.rows:
            where = f"{self.path}, line {line}"
            if len(fields) != len(self.header):
                raise UserError(
                    f"{where}: {len(fields)} fields, but the header has {len(self.header)} ({', '.join(self.header)}); "
                    "give every column a value, and quote a field that holds the delimiter"
                )
            for column, column_texts in zip(columns, texts, strict=True):
                name = self.header[column]
                if not fields[column]:
                    raise UserError(f"{where}: column {name!r} is empty; fill in the sequence or remove the row")
                record = f"line {line}, column {name!r}"
                column_texts.append(clean_sequence(fields[column], letters, str(self.path), record))
        if not self.rows:
            raise UserError(f"{self.path}: the file has a header and no rows; add rows or name another file")
        return texts[0], texts[1] if len(texts) == 2 else None, letters


def _read_text(path: Path) -> str:
    """The whole file as text, decompressed and without byte order mark; line ends stay as they are."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give the path of a CSV or TSV file") from error
    if data.startswith(b"\x1f\x8b"):
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error) as error:
            raise UserError(f"{path}: damaged gzip file ({error}); copy or download it again") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8; save the table as UTF-8 text (CSV or TSV)"
        ) from error


def _split_records(path: Path, text: str) -> list[tuple[int, list[str]]]:
    """The line each record starts on and its fields, the header first; blank lines are skipped."""
    header = text.lstrip("\r\n").partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if "\t" in header else ",", strict=True)
    # The csv module refuses fields of more than 131,072 characters unless told otherwise, and only for the whole process.
    limit = csv.field_size_limit()
    csv.field_size_limit(max(limit, len(text)))
    records = []
    line = 1
    try:
        for fields in reader:
            if fields:
                records.append((line, fields))
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}, line {line}: {error}; check the quotes of the record that starts there") from error
    finally:
        csv.field_size_limit(limit)
    return records


def _is_fasta(path: Path) -> bool:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compression = suffixes.pop() if suffixes and suffixes[-1] in _COMPRESSED_SUFFIXES else None
    if compression not in (None, ".gz") or (suffixes and suffixes[-1] in _FASTA_SUFFIXES):
        return True
    try:
        with path.open("rb") as file:
            head = file.read(64)
        if head.startswith(b"\x1f\x8b"):
            with gzip.open(path) as file:
                head = file.read(64)
    except (OSError, EOFError, zlib.error):
        return False  # reading it as a table tells what is wrong with it
    if head.startswith(b"@"):
        raise UserError(f"{path}: this looks like FASTQ; accepted are FASTA, CSV and TSV: convert it to FASTA first")
    return head.lstrip().startswith(b">")
