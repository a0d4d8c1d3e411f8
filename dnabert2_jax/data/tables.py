"""Fine-tuning tables: CSV or TSV files of sequences with a label.

A table has a header line and the columns ``sequence,label`` or, for pairs, ``sequence1,sequence2,label`` (the layout of GUE,
Zhou et al. 2024). Every error names the line an editor would show, so it can be mended there.
"""

import csv
import gzip
import io
import re
import zlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.config.model import TaskKind
from dnabert2_jax.data.labels import Labels, LabelSet, learn_labels
from dnabert2_jax.errors import UserError, nearest
from dnabert2_jax.genome.letters import LetterCounts, clean_letters

__all__ = ["LabelSet", "Splits", "Table", "load_splits", "read_records", "read_table", "read_text"]

_LOOKS_LIKE_DNA = re.compile(r"[ACGTN]{8,}", re.IGNORECASE)


@dataclass(frozen=True)
class Table:
    """The rows of one file, in file order.

    Attributes:
        path: the file.
        sequences: upper-case letters of each row; the first sequence where rows are pairs.
        pairs: the second sequence of each row, or None.
        labels: labels as they are written.
        lines: line of the file each row starts on, from 1.
        letters: what the letters policy saw and changed, both sequences together.
        ignored_columns: columns of the file that were not asked for.
    """

    path: Path
    sequences: list[str]
    pairs: list[str] | None
    labels: list[str]
    lines: list[int]
    letters: LetterCounts
    ignored_columns: tuple[str, ...]

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.sequences)

    def keys(self) -> list[Hashable]:
        """What a row reads, without its label: its sequence, or its pair."""
        return list(self.sequences if self.pairs is None else zip(self.sequences, self.pairs, strict=True))

    def take(self, rows: Sequence[int] | NDArray[np.integer]) -> "Table":
        """Some rows, with their lines in the file."""
        return replace(
            self,
            sequences=[self.sequences[row] for row in rows],
            pairs=None if self.pairs is None else [self.pairs[row] for row in rows],
            labels=[self.labels[row] for row in rows],
            lines=[self.lines[row] for row in rows],
        )

    def where(self, row: int) -> str:
        """File and line of a row, for a message."""
        return f"{self.path}, line {self.lines[row]}"


def read_table(path: Path, *, sequence_column: str = "sequence", label_column: str = "label") -> Table:
    """Read a CSV or TSV file, plain or gzip.

    A header with a tab in it makes the file a TSV. Quoted fields, CRLF, a byte order mark and blank lines are understood;
    nothing else is forgiven.

    Args:
        path: the file.
        sequence_column: name of the column with the sequence; pairs are in the columns of that name followed by 1 and 2.
        label_column: name of the column with the label.

    Raises:
        UserError: the file is missing, damaged, not UTF-8 or has no rows; a column is missing; a row has another number of
            fields than the header, an empty sequence or label, or a letter that is not DNA.
    """
    path = Path(path)
    records = read_records(path, read_text(path))
    if not records:
        raise UserError(f"{path}: the file is empty; a table starts with a header such as sequence,label")
    _, header = records[0]
    columns, label_at = _find_columns(path, header, sequence_column, label_column)

    texts: list[list[str]] = [[] for _ in columns]
    labels: list[str] = []
    lines: list[int] = []
    letters = LetterCounts()
    for line, fields in records[1:]:
        where = f"{path}, line {line}"
        if len(fields) != len(header):
            raise UserError(
                f"{where}: {len(fields)} fields, but the header has {len(header)} ({', '.join(header)}); "
                "give every column a value, and quote a field that holds the delimiter"
            )
        for column, column_texts in zip(columns, texts, strict=True):
            if not fields[column]:
                raise UserError(f"{where}: column {header[column]!r} is empty; fill in the sequence or remove the row")
            clean, counts = clean_letters(fields[column], source=str(path), record=f"line {line}, column {header[column]!r}")
            column_texts.append(clean.tobytes().decode("ascii"))
            letters.add(counts)
        label = fields[label_at]
        if not label or label != label.strip():
            raise UserError(
                f"{where}: label {label!r} is {'empty' if not label.strip() else 'surrounded by white space'}; "
                "write an integer or a name and nothing else"
            )
        labels.append(label)
        lines.append(line)
    if not labels:
        raise UserError(f"{path}: the file has a header and no rows; add rows or name another file")
    ignored = tuple(name for at, name in enumerate(header) if at not in (*columns, label_at))
    return Table(path, texts[0], texts[1] if len(texts) == 2 else None, labels, lines, letters, ignored)


def read_text(path: Path) -> str:
    """The whole file as text, unpacked and without byte order mark; line ends stay as they are."""
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


def read_records(path: Path, text: str) -> list[tuple[int, list[str]]]:
    """The line each record starts on and its fields, the header first; blank lines hold nothing and are passed over."""
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


def _find_columns(path: Path, header: list[str], sequence: str, label: str) -> tuple[list[int], int]:
    """Positions of the one or two sequence columns and of the label column."""
    pair = [f"{sequence}1", f"{sequence}2"]
    wanted = [*(pair if set(pair) & set(header) else [sequence]), label]
    if sequence in header and len(wanted) == 3:
        raise UserError(f"{path}: the header has both {sequence!r} and {wanted[0]!r}; keep one of the two layouts")
    for name in wanted:
        if name not in header:
            if any(_LOOKS_LIKE_DNA.fullmatch(field) for field in header):
                remedy = f"the first line holds a sequence: put the header line {','.join(wanted)} before it"
            elif len(header) == 1:
                remedy = "separate the columns by commas or tabs"
            else:
                remedy = f"rename the column that holds it{nearest(name, header)}"
            raise UserError(f"{path}: no column {name!r}; the header has {', '.join(map(repr, header))}; {remedy}")
        if header.count(name) > 1:
            raise UserError(f"{path}: {header.count(name)} columns are called {name!r}; rename all but one")
    return [header.index(name) for name in wanted[:-1]], header.index(label)


@dataclass(frozen=True)
class Splits:
    """The three tables of a task, checked against each other.

    Attributes:
        train: the rows to learn from.
        dev: the rows to choose by.
        test: the rows to report on.
        labels: what the label column stands for, from the training table.
    """

    train: Table
    dev: Table
    test: Table
    labels: Labels


def load_splits(train: Path, dev: Path, test: Path, *, task: TaskKind = "single_label") -> Splits:
    """Read the three tables of a task.

    Args:
        train: the rows to learn from.
        dev: the rows to choose by.
        test: the rows to report on.
        task: what their label column holds, see ``data/labels.py``.

    Raises:
        UserError: as :func:`read_table`; labels that the task cannot have; or some tables hold pairs and others do not.
    """
    train_table, dev_table, test_table = map(read_table, (train, dev, test))
    labels = learn_labels(task, train_table)
    for table in (dev_table, test_table):
        labels.encode(table)
        if (table.pairs is None) != (train_table.pairs is None):
            single, pair = (table, train_table) if table.pairs is None else (train_table, table)
            raise UserError(
                f"{single.path} has one sequence a row and {pair.path} has two; give all tables of a task the same columns"
            )
    return Splits(train_table, dev_table, test_table, labels)
