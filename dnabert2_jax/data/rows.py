"""The rows of a table as text fields: CSV, TSV, or semicolons; UTF-8 or UTF-16; plain, gzip, or an Excel workbook."""

import codecs
import csv
import gzip
import importlib
import io
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnabert2_jax.errors import UserError

_ZIP = b"PK\x03\x04"  # every .xlsx file is a zip archive
_OLD_EXCEL = b"\xd0\xcf\x11\xe0"
_DECLARED_SEPARATOR = re.compile(r"sep=(.)(?=[\r\n])", re.IGNORECASE)
_EXCEL_CELL = 32_767
"""The most characters that a cell of an Excel sheet holds; it cuts longer texts."""

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True)
class Rows:
    """A file as fields without surrounding white space.

    Attributes:
        records: the line on which each record starts (the row, in a workbook) and its fields, header first.
        notes: assumptions made while reading.
    """

    records: list[tuple[int, list[str]]]
    notes: tuple[str, ...] = ()


def read_rows(path: Path, source: str) -> Rows:
    """Read a table.

    Skipped are blank lines and what spreadsheets leave behind: rows without any value, columns on the right without name and
    values, and a first line ``sep=;``, which declares the separator.

    Args:
        path: the file.
        source: its name in messages.

    Raises:
        UserError: the file is missing, damaged or in an unknown encoding, or a workbook of Excel 97,
            or a later one but openpyxl is not installed.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror}); give the path of a CSV, TSV or Excel file") from error
    if data.startswith(b"\x1f\x8b"):
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error) as error:
            raise UserError(f"{source}: damaged gzip file ({error}); copy or download it again") from error
    if data.startswith(_OLD_EXCEL):
        raise UserError(f"{source}: this is a workbook of Excel 97-2003, which is not read; save it as .xlsx or CSV")
    return _tidied(_workbook(data, source) if data.startswith(_ZIP) else _text_rows(data, source))


def _text_rows(data: bytes, source: str) -> Rows:
    """The rows of a CSV or TSV file."""
    text, notes = _decoded(data, source)
    if declared := _DECLARED_SEPARATOR.match(text):
        delimiter, text = declared[1], text[declared.end() :]  # the end of that line stays, so that lines keep their numbers
    else:
        delimiter = _delimiter(text)
    return Rows(_split(text, delimiter, source), (*notes, *(["columns separated by ';'"] if delimiter == ";" else [])))


def _tidied(rows: Rows) -> Rows:
    """Without what spreadsheets leave behind, see :func:`read_rows`."""
    spaces = sum(field != field.strip() for _, fields in rows.records for field in fields)
    stripped = [(line, [field.strip() for field in fields]) for line, fields in rows.records]
    filled = [(line, fields) for line, fields in stripped if len(fields) == 1 or any(fields)]
    width = len(filled[0][1]) if filled else 0
    while width and not filled[0][1][width - 1]:
        width -= 1
    records = [(line, fields if any(fields[width:]) else fields[:width]) for line, fields in filled]
    long = [line for line, fields in records for field in fields if len(field) == _EXCEL_CELL]
    return Rows(
        records,
        (
            *rows.notes,
            *([f"spaces around {_counted(spaces, 'value')} removed"] if spaces else []),
            *([f"{_counted(empty, 'row')} without values skipped"] if (empty := len(stripped) - len(filled)) else []),
            *([f"a value of exactly {_EXCEL_CELL:,} letters in line {long[0]}, where Excel cuts: check it"] if long else []),
        ),
    )


def _counted(number: int, unit: str) -> str:
    return f"{number:,} {unit}{'s' * (number != 1)}"


def _decoded(data: bytes, source: str) -> tuple[str, tuple[str, ...]]:
    """The text without a byte order mark, and a note if it is UTF-16; line endings are kept."""
    utf16 = data.startswith(_UTF16)
    try:
        return data.decode("utf-16" if utf16 else "utf-8-sig"), ("UTF-16 text",) if utf16 else ()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{source}, line {line}: byte 0x{data[error.start]:02x} is not {'UTF-16' if utf16 else 'UTF-8'}; save the table "
            "as UTF-8 text (CSV or TSV)"
        ) from error


def _delimiter(text: str) -> str:
    """The column separator: the first of tab, comma, and semicolon that occurs in the header."""
    header = text.lstrip("\r\n").splitlines()[0] if text.strip() else ""
    return next((each for each in "\t,;" if each in header), ",")


def _split(text: str, delimiter: str, source: str) -> list[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    # The csv module rejects fields of more than 131,072 characters by default; the limit can only be set process-wide.
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
        raise UserError(f"{source}, line {line}: {error}; check the quotes of the record that starts there") from error
    finally:
        csv.field_size_limit(limit)
    return records


def _workbook(data: bytes, source: str) -> Rows:
    """The first sheet of an Excel workbook that is not empty."""
    try:
        openpyxl = importlib.import_module("openpyxl")
    except ImportError as error:
        raise UserError(
            f"{source}: this is an Excel workbook, and the package openpyxl, which reads it, is not installed; run "
            'pip install "dnabert2_jax[excel]", or save the table as CSV'
        ) from error
    try:
        book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
        sheets = [(sheet.title, list(_filled(sheet.iter_rows(values_only=True)))) for sheet in book.worksheets]
    except Exception as error:  # zipfile, XML and openpyxl each raise their own
        raise UserError(f"{source}: this Excel workbook cannot be read ({error}); save the table as CSV") from error
    filled = [(title, rows) for title, rows in sheets if rows]
    if not filled:
        return Rows([])
    title, records = filled[0]
    width = len(records[0][1])
    padded = [(row, fields + [""] * (width - len(fields))) for row, fields in records]
    return Rows(padded, (f"sheet {title!r} of {len(filled)} read",) if len(filled) > 1 else ())


def _filled(rows: Iterator[tuple[Any, ...]]) -> Iterator[tuple[int, list[str]]]:
    """Row number and fields of the nonempty rows, without trailing empty cells."""
    for number, values in enumerate(rows, start=1):
        fields = ["" if value is None else str(value) for value in values]
        while fields and not fields[-1]:
            fields.pop()
        if fields:
            yield number, fields
