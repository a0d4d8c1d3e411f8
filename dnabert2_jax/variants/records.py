"""Files of variants: VCF as text, line by line; BCF through pysam; tables.

VCF lines are kept as raw bytes, and annotation only appends to the INFO column: libraries that parse and rewrite records
lose or change what they do not expect.
"""

import csv
import gzip
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dnabert2_jax.errors import UserError, counted, nearest
from dnabert2_jax.genome.fasta import check_bgzip_end
from dnabert2_jax.genome.htslib import pysam, quiet_pysam

VCF_SUFFIXES = (".vcf", ".vcf.gz", ".vcf.bgz", ".bcf")
TABLE_SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")

_VCF_COLUMNS = 8
_ALIASES = {
    "chrom": ("chrom", "#chrom", "chr", "contig", "chromosome", "seqid"),
    "pos": ("pos", "position"),
    "id": ("id", "name", "rsid"),
    "ref": ("ref", "reference", "reference_allele"),
    "alt": ("alt", "alternate", "alternative", "alternate_allele"),
}


@dataclass(frozen=True, slots=True)
class Record:
    """One variant as written in its file.

    Attributes:
        line: line of the file, from 1; for BCF, the number of the record.
        contig: name of the contig.
        position: first base of REF, from 0.
        name: ID column.
        ref: REF.
        alts: the ALT alleles; empty if the file has ``.``.
        raw: the whole line of a VCF.
        fields: the row of a table.
    """

    line: int
    contig: str
    position: int
    name: str
    ref: str
    alts: tuple[str, ...]
    raw: bytes = b""
    fields: tuple[str, ...] = ()


Item = bytes | Record
"""A line that is not a record (header, blank), or a record."""


@dataclass(frozen=True)
class VariantFile:
    """A file of variants, which can be read any number of times.

    Attributes:
        path: the file.
        kind: ``vcf`` or ``table``.
        columns: names of a table's columns.
        items: iterates over the file from its beginning.
    """

    path: Path
    kind: str
    columns: tuple[str, ...]
    items: Callable[[], Iterator[Item]]


def open_variants(path: str | Path) -> VariantFile:
    """Detect the format of a file by its name.

    Raises:
        UserError: it is missing, has an unsupported format, or is a table that lacks a required column.
    """
    path = Path(path)
    name = path.name.lower()
    if not path.is_file():
        raise UserError(
            f"{path} is not a file; give variants as {', '.join((*VCF_SUFFIXES, *TABLE_SUFFIXES))}: check the path"
        )
    if not path.stat().st_size:
        raise UserError(f"{path} is empty; check how it was made")
    if name.endswith(".bcf"):
        pysam()
        return VariantFile(path, "vcf", (), lambda: _read_bcf(path))
    if name.endswith(VCF_SUFFIXES):
        return VariantFile(path, "vcf", (), lambda: _read_vcf(path))
    if name.endswith(TABLE_SUFFIXES):
        header = next(_rows(path), None)
        if header is None:
            raise UserError(f"{path} is blank; give a table with the columns chrom, pos, ref and alt")
        columns = _columns(path, header[1])
        return VariantFile(path, "table", tuple(header[1]), lambda: _read_table(path, columns))
    raise UserError(f"{path}: accepted are {', '.join((*VCF_SUFFIXES, *TABLE_SUFFIXES))}; rename or convert it")


def parse_vcf_line(raw: bytes, source: str, line: int) -> Record:
    """The record on a VCF line.

    Raises:
        UserError: fewer than eight columns, or a position that is not a number.
    """
    fields = raw.rstrip(b"\r\n").split(b"\t", _VCF_COLUMNS)
    if len(fields) < _VCF_COLUMNS:
        raise UserError(
            f"{source}, line {line:,}: {counted(len(fields), 'column')}; a record has {_VCF_COLUMNS} or more, separated by "
            "tabs"
        )
    contig, position, name, ref, alts = b"\t".join(fields[:5]).decode("latin-1").split("\t")
    return Record(line, contig, _position(position, source, line), name, _allele(ref), _alternatives(alts), raw)


def _read_vcf(path: Path) -> Iterator[Item]:
    for number, raw in enumerate(_lines(path), start=1):
        yield raw if raw.startswith(b"#") or not raw.strip() else parse_vcf_line(raw, str(path), number)


def _read_bcf(path: Path) -> Iterator[Item]:
    number = 0
    with quiet_pysam() as package:
        try:
            with package.VariantFile(str(path)) as file:
                yield from str(file.header).encode("utf-8").splitlines(keepends=True)
                for number, record in enumerate(file, start=1):
                    yield parse_vcf_line(str(record).encode("utf-8"), str(path), number)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}, record {number + 1:,}: not BCF, or damaged ({error}); copy it again") from error


def _read_table(path: Path, at: dict[str, int | None]) -> Iterator[Item]:
    rows = _rows(path)
    width = len(next(rows)[1])
    for line, row in rows:
        if len(row) != width:
            raise UserError(
                f"{path}, line {line:,}: {counted(len(row), 'column')}, but the header has {width}; correct the line"
            )
        of = {name: "" if column is None else row[column].strip() for name, column in at.items()}
        yield Record(
            line,
            of["chrom"],
            _position(of["pos"], str(path), line),
            of["id"] or ".",
            _allele(of["ref"]),
            # A table may write a deletion without its anchor base, as `-`. For an insertion, this would be ambiguous.
            ("",) if of["alt"] == "-" else _alternatives(of["alt"]),
            fields=tuple(row),
        )


def _columns(path: Path, header: list[str]) -> dict[str, int | None]:
    names = [name.strip().lower() for name in header]
    at = {name: next((names.index(alias) for alias in known if alias in names), None) for name, known in _ALIASES.items()}
    for column in ("chrom", "pos", "ref", "alt"):
        if at[column] is None:
            raise UserError(
                f"{path}: there is no column {column!r} among {', '.join(map(repr, header))}{nearest(column, names)}; "
                "a table of variants needs chrom, pos (from 1), ref and alt"
            )
    return at


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    delimiter = "," if ".csv" in path.name.lower() else "\t"
    text = (line.decode("utf-8-sig" if number == 0 else "utf-8") for number, line in enumerate(_lines(path)))
    reader = csv.reader(text, delimiter=delimiter)
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"{path}, line {reader.line_num + 1:,}: not a table in UTF-8 ({error}); save it again as such"
        ) from error


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a plain or compressed file with their line endings, split only at line feeds."""
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    if not compressed:
        with path.open("rb") as file:
            yield from file
        return
    check_bgzip_end(path, str(path))
    try:
        with gzip.open(path) as unpacked:
            yield from unpacked
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: the compressed file is damaged or cut short ({error}); copy it again") from error


def _position(text: str, source: str, line: int) -> int:
    try:
        return int(text) - 1
    except ValueError:
        raise UserError(f"{source}, line {line:,}: POS is {text!r}; accepted is a whole number, from 1") from None


def _allele(text: str) -> str:
    return "" if text in (".", "-") else text


def _alternatives(text: str) -> tuple[str, ...]:
    return () if text in (".", "") else tuple(part or "." for part in text.split(","))
