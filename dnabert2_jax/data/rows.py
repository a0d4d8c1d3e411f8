"""The rows of a table as text fields: CSV, TSV, or semicolons; UTF-8 or UTF-16; plain, gzip, or an Excel workbook."""

import codecs
import csv
import importlib
import io
import re
from collections.abc import Iterator
from itertools import chain
from operator import ne
from pathlib import Path
from typing import Any, TextIO

from dnabert2_jax.errors import UserError, counted
from dnabert2_jax.storage.compressed import DAMAGED_GZIP, open_plain_or_gzip

_ZIP = b"PK\x03\x04"  # every .xlsx file is a zip archive
_OLD_EXCEL = b"\xd0\xcf\x11\xe0"
_DECLARED_SEPARATOR = re.compile(r"sep=(.)(?=[\r\n])", re.IGNORECASE)
_EXCEL_CELL = 32_767
"""The maximum number of characters in a cell of an Excel sheet; Excel truncates longer text."""

_LONGEST_FIELD = 2**31 - 1
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


NumberedRow = tuple[int, list[str]]
"""The line on which a row starts (in a workbook, its number) and its fields."""


class TableRows:
    """The rows of a table, one in memory at a time (except for a workbook).

    Each iteration reads the file from the beginning and yields its rows, header first, with fields without surrounding white
    space. Blank lines and remnants of spreadsheets are skipped: rows without any value, columns on the right without a name
    or values, and a first line ``sep=;``, which declares the separator.

    Args:
        path: the file.
        source: its name in messages.

    Attributes:
        notes: assumptions made while reading, complete once an iteration has finished.

    Raises:
        UserError: (from iteration) the file is missing, damaged or in an unknown encoding, or it is a workbook of Excel 97,
            or a newer one and openpyxl is not installed.
    """

    notes: tuple[str, ...]

    def __init__(self, path: Path, source: str) -> None:
        self._path, self._source = path, source
        self.notes = ()

    def __iter__(self) -> Iterator[NumberedRow]:
        notes: list[str] = []
        spaces = empty = 0
        width = cut = None
        for line, fields in self._raw(notes):
            values = [field.strip() for field in fields]
            spaces += sum(map(ne, fields, values))
            if len(values) > 1 and not any(values):
                empty += 1
                continue
            if width is None:
                width = next((n for n in range(len(values), 0, -1) if values[n - 1]), 0)
            if not any(values[width:]):
                values = values[:width]
            if cut is None and any(len(value) == _EXCEL_CELL for value in values):
                cut = line
            yield line, values
        if spaces:
            notes.append(f"spaces around {counted(spaces, 'value')} removed")
        if empty:
            notes.append(f"{counted(empty, 'row')} without values skipped")
        if cut is not None:
            notes.append(f"a value of exactly {_EXCEL_CELL:,} letters in line {cut}, where Excel truncates text: check it")
        self.notes = tuple(notes)

    def _raw(self, notes: list[str]) -> Iterator[NumberedRow]:
        """The fields as the file has them."""
        try:
            with open_plain_or_gzip(self._path) as file:
                start = file.read(4)
            if start == _OLD_EXCEL:
                raise UserError(
                    f"{self._source}: this is a workbook of Excel 97-2003, which is not read; save it as .xlsx or CSV"
                )
            if start == _ZIP:
                with open_plain_or_gzip(self._path) as file:
                    content = file.read()
                yield from _workbook(content, self._source, notes)
            else:
                encoding = "utf-16" if start.startswith(_UTF16) else "utf-8-sig"
                notes.extend(["UTF-16 text"] * (encoding == "utf-16"))
                yield from self._decoded(encoding, notes)
        except DAMAGED_GZIP as error:
            raise UserError(f"{self._source}: damaged gzip file ({error}); copy or download it again") from error
        except OSError as error:
            raise UserError(
                f"{self._source}: cannot be read ({error.strerror}); give the path of a CSV, TSV or Excel file"
            ) from error

    def _decoded(self, encoding: str, notes: list[str]) -> Iterator[NumberedRow]:
        try:
            with io.TextIOWrapper(open_plain_or_gzip(self._path), encoding, newline="") as text:
                yield from _split(text, self._source, notes)
        except UnicodeDecodeError as error:
            with open_plain_or_gzip(self._path) as file:
                data, name, place = file.read(), "UTF-16" if encoding == "utf-16" else "UTF-8", ""
            try:
                data.decode(encoding)
            except UnicodeDecodeError as found:  # which knows the position in the whole file
                line = data.count(b"\n", 0, found.start) + 1
                place = f", line {line}: byte 0x{found.object[found.start]:02x}"
            raise UserError(f"{self._source}{place} is not {name}; save the table as UTF-8 text (CSV or TSV)") from error


def _split(text: TextIO, source: str, notes: list[str]) -> Iterator[NumberedRow]:
    """The rows of a CSV or TSV file, each with the line it starts on."""
    head = [text.readline()]
    if declared := _DECLARED_SEPARATOR.match(head[0]):
        delimiter = declared[1]
        head = ["\n"]  # in place of that line, so that lines keep their numbers
    else:
        while head[-1] and not head[-1].strip("\r\n"):
            head.append(text.readline())
        delimiter = next((each for each in "\t,;" if each in head[-1]), ",")
    notes.extend(["columns separated by ';'"] * (delimiter == ";"))
    reader = csv.reader(chain(head, text), delimiter=delimiter, strict=True)
    line = 1
    while True:
        # The csv module rejects fields of more than 131,072 characters by default; the limit can only be set process-wide.
        limit = csv.field_size_limit(_LONGEST_FIELD)
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise UserError(f"{source}, line {line}: {error}; check the quotes of the record that starts there") from error
        finally:
            csv.field_size_limit(limit)
        if fields is None:
            return
        if fields:
            yield line, fields
        line = reader.line_num + 1


def _workbook(data: bytes, source: str, notes: list[str]) -> list[NumberedRow]:
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
        return []
    title, rows = filled[0]
    if len(filled) > 1:
        notes.append(f"sheet {title!r} of {len(filled)} read")
    width = len(rows[0][1])
    return [(number, fields + [""] * (width - len(fields))) for number, fields in rows]


def _filled(rows: Iterator[tuple[Any, ...]]) -> Iterator[NumberedRow]:
    """Row number and fields of the nonempty rows, without trailing empty cells."""
    for number, values in enumerate(rows, start=1):
        fields = ["" if value is None else str(value) for value in values]
        while fields and not fields[-1]:
            fields.pop()
        if fields:
            yield number, fields
