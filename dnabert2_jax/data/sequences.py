"""Sequences without labels: FASTA files and tables in, with the name of each; the input of prediction and embedding."""

import gzip
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dnabert2_jax.data.tables import read_records, read_text
from dnabert2_jax.errors import UserError, nearest
from dnabert2_jax.genome.fasta import read_fasta
from dnabert2_jax.genome.letters import LetterCounts, clean_letters

_FASTA_SUFFIXES = {".fa", ".fasta", ".fna", ".ffn", ".frn", ".fas"}
_COMPRESSED_SUFFIXES = {".gz", ".bgz", ".bz2", ".xz", ".zst"}


@dataclass(frozen=True)
class Sequences:
    """Clean sequences in file order.

    Attributes:
        source: the file, or what else they came from, for messages.
        names: name of each sequence.
        sequences: upper-case letters of each; the first sequence where rows are pairs.
        pairs: the second sequence of each row, or None.
        letters: what the letters policy saw and changed.
    """

    source: str
    names: list[str]
    sequences: list[str]
    pairs: list[str] | None
    letters: LetterCounts

    def __len__(self) -> int:
        """Number of sequences (or pairs)."""
        return len(self.sequences)

    def summary(self) -> str:
        """One line about what was read and changed, for people."""
        unit = ("sequence" if self.pairs is None else "pair") + "s" * (len(self) != 1)
        line = f"{self.source}: {len(self):,} {unit}, {self.letters.bases:,} bases"
        if self.letters.lower_case:
            line += f"; {self.letters.lower_case:,} lower-case letters upper-cased"
        if ambiguous := sum(self.letters.ambiguous.values()):
            line += f"; {ambiguous:,} ambiguity codes read as [UNK]"
        return line


def read_sequences(path: Path, *, sequence_column: str = "sequence", name_column: str | None = None) -> Sequences:
    """Read a FASTA file, or a CSV or TSV table with a header.

    A FASTA file is one whose name says so (``.fa``, ``.fasta``, ``.fna`` ..., compressed or not) or that starts with ``>``.
    A table needs a column of sequences, or two for pairs (the column's name followed by 1 and 2). Other columns are ignored.

    Args:
        path: the file.
        sequence_column: the table's column of sequences.
        name_column: the table's column of names; by default ``name`` where there is such a column, else rows are named by
            their number, from 1.

    Raises:
        UserError: the file is missing, damaged or empty; a column is missing; a sequence is empty or holds a letter that is
            not DNA.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a directory; a FASTA, CSV or TSV file is wanted")
    return _read_fasta(path) if _is_fasta(path) else _read_table(path, sequence_column, name_column)


def given_sequences(
    sequences: Sequence[str], pairs: Sequence[str] | None = None, names: Sequence[str] | None = None
) -> Sequences:
    """Sequences from Python, cleaned by the letters policy.

    Args:
        sequences: DNA in either case, IUPAC codes allowed.
        pairs: the second sequence of each pair, if rows are pairs.
        names: a name for each; the numbers from 1 where left out.

    Raises:
        UserError: none, an empty one, a letter that is not DNA, or lists of unequal length.
    """
    for argument, values in (("sequences", sequences), ("pairs", pairs), ("names", names)):
        if isinstance(values, str):
            raise UserError(f"{argument} is one text; a list of them is wanted: [{argument}]")
        if values is not None and len(values) != len(sequences):
            raise UserError(f"{len(values)} {argument} for {len(sequences)} sequences; one each is wanted")
    if not len(sequences):
        raise UserError("there are no sequences; give at least one")
    letters = LetterCounts()
    firsts = [_clean(text, letters, "sequences", f"sequences[{n}]") for n, text in enumerate(sequences)]
    seconds = None if pairs is None else [_clean(text, letters, "pairs", f"pairs[{n}]") for n, text in enumerate(pairs)]
    chosen = [str(n + 1) for n in range(len(firsts))] if names is None else list(names)
    return Sequences("sequences", chosen, firsts, seconds, letters)


def _clean(text: str | bytes, letters: LetterCounts, source: str, record: str) -> str:
    if not text:
        raise UserError(f"{source}, {record}: the sequence is empty; fill it in or remove it")
    clean, counts = clean_letters(text, source=source, record=record)
    letters.add(counts)
    return clean.tobytes().decode("ascii")


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


def _read_fasta(path: Path) -> Sequences:
    letters = LetterCounts()
    names, sequences = [], []
    for record in read_fasta(path):
        names.append(record.name)
        sequences.append(_clean(record.sequence, letters, str(path), f"record {record.name!r}"))
    return Sequences(str(path), names, sequences, None, letters)


def _read_table(path: Path, sequence_column: str, name_column: str | None) -> Sequences:
    records = read_records(path, read_text(path))
    if not records:
        raise UserError(f"{path}: the file is empty; accepted are FASTA, and tables that start with a header")
    _, header = records[0]
    columns = _sequence_columns(path, header, sequence_column)
    name_at = _name_column(path, header, name_column)
    letters = LetterCounts()
    names: list[str] = []
    texts: list[list[str]] = [[] for _ in columns]
    for number, (line, fields) in enumerate(records[1:], start=1):
        if len(fields) != len(header):
            raise UserError(
                f"{path}, line {line}: {len(fields)} fields, but the header has {len(header)} ({', '.join(header)}); "
                "give every column a value, and quote a field that holds the delimiter"
            )
        for column, column_texts in zip(columns, texts, strict=True):
            where = f"line {line}, column {header[column]!r}"
            column_texts.append(_clean(fields[column], letters, str(path), where))
        names.append(str(number) if name_at is None else fields[name_at])
    if not names:
        raise UserError(f"{path}: the file has a header and no rows; add rows or name another file")
    return Sequences(str(path), names, texts[0], texts[1] if len(texts) == 2 else None, letters)


def _name_column(path: Path, header: list[str], name: str | None) -> int | None:
    if name is None:
        return header.index("name") if "name" in header else None
    if name not in header:
        raise UserError(
            f"{path}: no column {name!r} of names; the header has {', '.join(map(repr, header))}{nearest(name, header)}"
        )
    return header.index(name)


def _sequence_columns(path: Path, header: list[str], name: str) -> list[int]:
    pair = [f"{name}1", f"{name}2"]
    wanted = [name] if name in header or not set(pair) & set(header) else pair
    if name in header and set(pair) & set(header):
        raise UserError(f"{path}: the header has both {name!r} and {pair[0]!r} or {pair[1]!r}; keep one of the two layouts")
    for column in wanted:
        if header.count(column) != 1:
            found = f"{header.count(column)} columns are called" if column in header else "there is no column"
            raise UserError(
                f"{path}: {found} {column!r}; the header has {', '.join(map(repr, header))}; accepted are FASTA files, and "
                f"tables with a column {name!r} (or {pair[0]!r} and {pair[1]!r}): rename a column or say which one to use"
                f"{nearest(column, header)}"
            )
    return [header.index(column) for column in wanted]
