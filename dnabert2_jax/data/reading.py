"""The reader for all sequence files: FASTA and FASTQ, and tables with or without labels.

A table has a header line and a column ``sequence`` or, for pairs, ``sequence1`` and ``sequence2``; a labeled table also has
a column ``label`` (the layout of GUE, Zhou et al. 2024). Unambiguous deviations are accepted with a note (see ``rows`` and
``columns``). Every error names the line as an editor shows it, so that it can be fixed there.
"""

import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dnabert2_jax.config.inference import STANDARD_STREAM, BadRecordPolicy, DuplicateNames
from dnabert2_jax.data.bad_records import BadRecords
from dnabert2_jax.data.records import Row, TableOfSequences, TableRecords
from dnabert2_jax.data.rows import TableRows
from dnabert2_jax.data.sequences import Sequences, Table, clean_sequence
from dnabert2_jax.errors import UserError, counted, nearest
from dnabert2_jax.genome.fasta import Layout, read_fasta
from dnabert2_jax.genome.letters import LetterCounts
from dnabert2_jax.storage.compressed import DAMAGED_GZIP, open_plain_or_gzip
from dnabert2_jax.storage.copies import local_copy

_LAYOUTS: dict[str, Layout] = {
    **dict.fromkeys((".fa", ".fasta", ".fna", ".ffn", ".frn", ".fas"), "fasta"),
    **dict.fromkeys((".fq", ".fastq"), "fastq"),
}
_COMPRESSED_SUFFIXES = {".gz", ".bgz", ".bz2", ".xz", ".zst"}
_WHOLE_NUMBER = re.compile(r"(-?\d+)\.0+")


def read_sequences(
    path: str | Path,
    *,
    sequence_column: str = "sequence",
    name_column: str | None = None,
    bad_records: BadRecordPolicy | None = None,
    duplicate_names: DuplicateNames | None = None,
) -> Sequences:
    """Read a FASTA or FASTQ file, or a table with a header.

    A FASTA file is recognized by its suffix (``.fa``, ``.fasta``, ``.fna`` ..., compressed or not) or by starting with
    ``>``; a FASTQ file likewise (``.fq``, ``.fastq``, ``@``); its qualities are ignored. A table needs a column of
    sequences, or two for pairs (the column's name followed by 1 and 2); its other columns are kept with the sequences.

    Args:
        path: the file; ``-`` for standard input.
        sequence_column: the table's column of sequences.
        name_column: the table's column of names; by default ``name`` if there is such a column, else rows are numbered
            from 1.
        bad_records: what to do with unusable records; None means ``error`` where skipping is not offered.
        duplicate_names: as for :func:`dnabert2_jax.genome.fasta.read_fasta`; rows of a table may share a name.

    Raises:
        UserError: the file is missing, damaged or empty; a column is missing; a sequence is empty or holds a letter that is
            not DNA.
    """
    with opened_file(path) as (file, source):
        reader = SequenceReader.open(file, source, sequence_column, name_column, duplicate_names)
        letters, bad = LetterCounts(), BadRecords(source, bad_records)
        rows = list(reader.rows(letters, bad))
        skipped = bad.finish(len(rows) + bad.count)
    return reader.gather(rows, letters, (*reader.notes(sum(row.numbered for row in rows)), *skipped))


def stream_sequences(
    path: Path,
    letters: LetterCounts,
    *,
    sequence_column: str = "sequence",
    name_column: str | None = None,
    duplicate_names: DuplicateNames | None = None,
) -> Iterator[tuple[str, str]]:
    """Names and clean letters of single sequences, one record in memory at a time.

    Args:
        path: as for :func:`read_sequences`.
        letters: the counts to add to.
        sequence_column: as for :func:`read_sequences`.
        name_column: as for :func:`read_sequences`.
        duplicate_names: as for :func:`read_sequences`.

    Raises:
        UserError: as for :func:`read_sequences`; or the table holds pairs.
    """
    reader = SequenceReader.open(local_copy(path), str(path), sequence_column, name_column, duplicate_names)
    if reader.table is not None and len(reader.table.columns) > 1:
        raise UserError(
            f"{path} holds pairs, but windows are cut from single sequences; choose one of the two columns "
            "(--sequence-column sequence1)"
        )
    bad, rows = BadRecords(str(path), None), 0
    for row in reader.rows(letters, bad):
        rows += 1
        yield row.name, row.texts[0]
    bad.finish(rows + bad.count)


def read_table(
    path: str | Path,
    *,
    sequence_column: str = "sequence",
    label_column: str = "label",
    label_map: Mapping[str, str] | None = None,
    bad_records: BadRecordPolicy | None = None,
) -> Table:
    """Read a labeled table: CSV, TSV or an Excel workbook, plain or gzip.

    A tab in the header makes the file a TSV; a semicolon and no comma makes it semicolon-separated. Quoted fields, CRLF, a
    byte order mark, UTF-16, blank lines and spaces around values are accepted. Class numbers written as 1.0 are read as 1.

    Args:
        path: the file; ``-`` for standard input.
        sequence_column: name of the sequence column; pairs are in the columns with that name followed by 1 and 2.
        label_column: name of the label column.
        label_map: label names, keyed by the labels as the table has them; must cover all labels.
        bad_records: what to do with unusable rows; None means ``error`` where skipping is not offered.

    Raises:
        UserError: the file is missing, damaged, not text or has no rows; a column is missing; a row has a different number
            of fields than the header, an empty sequence or label, or a letter that is not DNA.
    """
    with opened_file(path) as (file, source):
        records = TableRecords.read(file, source, (sequence_column, label_column))
        header = records.header
        columns, label_at = header.sequence_columns(sequence_column), header.column(label_column)
        letters, bad = LetterCounts(), BadRecords(source, bad_records)
        good = list(records.cleaned(columns, label_at, letters, bad))
        skipped = bad.finish(len(good) + bad.count)
    numbers, lines, fields, texts = map(list, zip(*good, strict=True))
    firsts, *seconds = map(list, zip(*texts, strict=True))
    labels, notes = _labels([own[label_at] for own in fields])
    if label_map:
        labels = mapped_labels(labels, lines, label_map, source)
    return Table(
        source,
        list(map(str, numbers)),
        firsts,
        seconds[0] if seconds else None,
        letters,
        labels,
        lines,
        notes=(*records.notes, *notes, *skipped),
    )


def count_rows(path: Path) -> int:
    """Rows of a table without its header; their content is not checked.

    Raises:
        UserError: the file is missing, damaged or not text.
    """
    return sum(1 for _ in TableRows(path, str(path))) - 1


@dataclass(frozen=True)
class SequenceReader:
    """A FASTA or FASTQ file, or a table of sequences, as rows; make it with :meth:`open`.

    Attributes:
        path: the file.
        source: its name in messages.
        layout: FASTA or FASTQ; None for a table.
        table: the table; None for FASTA or FASTQ.
        duplicate_names: as for :func:`read_sequences`.
    """

    path: Path
    source: str
    layout: Layout | None
    table: TableOfSequences | None
    duplicate_names: DuplicateNames | None

    @classmethod
    def open(
        cls,
        file: Path,
        source: str,
        sequence_column: str = "sequence",
        name_column: str | None = None,
        duplicate_names: DuplicateNames | None = None,
    ) -> "SequenceReader":
        """Detect the kind of file, and read the header of a table; arguments are those of :func:`read_sequences`.

        Raises:
            UserError: as for :func:`read_sequences`.
        """
        layout = layout_of(file)
        table = None if layout else TableOfSequences.open(file, source, sequence_column, name_column)
        return cls(file, source, layout, table, duplicate_names)

    def rows(self, letters: LetterCounts, bad: BadRecords) -> Iterator[Row]:
        """The usable rows, from the beginning of the file, one in memory at a time.

        Args:
            letters: the counts to add to.
            bad: the collection to add unusable records to.

        Raises:
            UserError: as for :func:`read_sequences`.
        """
        if self.table is not None:
            yield from self.table.rows(letters, bad)
            return
        names = self.duplicate_names
        for record in read_fasta(self.path, layout=self.layout or "fasta", source=self.source, duplicate_names=names):
            try:
                text = clean_sequence(record.sequence, letters, self.source, f"record {record.name!r}")
            except UserError as error:
                bad.add(error)
            else:
                yield Row(record.name, [text], [], record.numbered)

    def notes(self, numbered: int) -> tuple[str, ...]:
        """Assumptions made, once all rows have been read and some names were numbered."""
        repeated = f"{counted(numbered, 'repeated name')} numbered"
        return (*(self.table.notes if self.table else ()), *([repeated] if numbered else []))

    def gather(self, rows: list[Row], letters: LetterCounts, notes: tuple[str, ...] = ()) -> Sequences:
        """Convert one or more rows to sequences."""
        firsts, *seconds = map(list, zip(*(row.texts for row in rows), strict=True))
        others = {name: [row.others[at] for row in rows] for at, name in enumerate(self.table.others if self.table else ())}
        pairs, names = seconds[0] if seconds else None, [row.name for row in rows]
        return Sequences(self.source, names, firsts, pairs, letters, notes=notes, columns=others)


def _labels(labels: list[str]) -> tuple[list[str], tuple[str, ...]]:
    """Labels with 1.0 normalized to 1, if all are whole numbers: spreadsheets and data frames write them that way."""
    whole = [_WHOLE_NUMBER.fullmatch(label) for label in labels]
    if not any(whole) or not all(
        match or label.removeprefix("-").isdecimal() for match, label in zip(whole, labels, strict=True)
    ):
        return labels, ()
    read = [match[1] if match else label for match, label in zip(whole, labels, strict=True)]
    at = next(n for n, match in enumerate(whole) if match)
    return read, (f"labels such as {labels[at]!r} read as {read[at]!r}",)


def mapped_labels(labels: list[str], lines: list[int], names: Mapping[str, str], source: str) -> list[str]:
    """The names of labels, from a label map.

    Raises:
        UserError: a label is not in the map; the message names all such lines.
    """
    bad = BadRecords(source, None)
    for line, label in zip(lines, labels, strict=True):
        if label not in names:
            bad.add(
                UserError(
                    f"{source}, line {line}: label {label!r} is not in the label map ({', '.join(names)})"
                    f"{nearest(label, names)}; add it, or correct the row"
                )
            )
    bad.finish(len(labels))
    return [names[label] for label in labels]


@contextmanager
def opened_file(path: str | Path) -> Iterator[tuple[Path, str]]:
    """The file to read and its name in messages; standard input is first copied to a file, to inspect its beginning."""
    if str(path) != STANDARD_STREAM:
        yield local_copy(path), str(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "input"
        with copy.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        yield copy, "standard input"


def layout_of(path: Path) -> Layout | None:
    """FASTA or FASTQ, by the file's name or its first letter; None for a table.

    Raises:
        UserError: a directory.
    """
    if path.is_dir():
        raise UserError(f"{path} is a directory; give a FASTA, FASTQ, CSV or TSV file")
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compression = suffixes.pop() if suffixes and suffixes[-1] in _COMPRESSED_SUFFIXES else None
    if suffixes and suffixes[-1] in _LAYOUTS:
        return _LAYOUTS[suffixes[-1]]
    if compression not in (None, ".gz"):
        return "fasta"
    try:
        with open_plain_or_gzip(path) as file:
            head = file.read(64)
    except (OSError, *DAMAGED_GZIP):
        return None  # reading it as a table reports what is wrong with it
    if head.startswith(b"@"):
        return "fastq"
    return "fasta" if head.lstrip().startswith(b">") else None
