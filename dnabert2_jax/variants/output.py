"""Scores written as tables, and into VCF without changing any other byte."""

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.htslib import pysam, quiet_pysam
from dnabert2_jax.progress import remark
from dnabert2_jax.storage.atomic import atomic_file
from dnabert2_jax.storage.unfinished import Finish, moved
from dnabert2_jax.variants.alleles import MEANINGS
from dnabert2_jax.variants.fields import KEY_PREFIX, AlleleScores, Field
from dnabert2_jax.variants.records import VCF_SUFFIXES, Record

STATUS_KEY = f"{KEY_PREFIX}STATUS"
_INFO = 7


def header_lines(fields: Sequence[Field], ending: bytes) -> bytes:
    """The lines of a VCF header that define our INFO keys."""
    statuses = "; ".join(f"{status}: {meaning}" for status, meaning in MEANINGS.items())
    keys = [(field.key, field.type, field.description) for field in fields]
    keys.append((STATUS_KEY, "String", f"Status of the allele ({statuses})"))
    return b"".join(
        f'##INFO=<ID={key},Number=A,Type={kind},Description="{_quoted(text)}">'.encode() + ending for key, kind, text in keys
    )


def annotated(raw: bytes, scores: Sequence[AlleleScores], fields: Sequence[Field]) -> bytes:
    """A VCF line with our keys appended to its INFO column, or in place of ``.`` if the column was empty.

    Args:
        raw: the line, including its line ending.
        scores: one for each ALT.
        fields: the fields to write; those without a value for any allele are omitted.
    """
    body = raw.rstrip(b"\r\n")
    columns = body.split(b"\t", _INFO + 1)
    entries = [f"{STATUS_KEY}={','.join(own.status for own in scores)}"]
    for field in fields:
        values = [own.values.get(field.column) for own in scores]
        if values.count(None) < len(values):
            entries.append(f"{field.key}={','.join(map(_text, values))}")
    ours = ";".join(entries).encode()
    columns[_INFO] = ours if columns[_INFO] == b"." else columns[_INFO] + b";" + ours
    return b"\t".join(columns) + raw[len(body) :]


def table_columns(
    records: Sequence[Record], scores: Sequence[Sequence[AlleleScores]], fields: Sequence[Field], columns: Sequence[str]
) -> dict[str, Any]:
    """Columns of a table with one row for each allele: the variant, its status and its values.

    Args:
        records: the records.
        scores: the scores of each record's alleles.
        fields: the fields to write.
        columns: names of the input table's columns, all kept; empty for a VCF, whose chrom, pos, id, ref and alt are kept.
    """
    rows = [
        (record, alt, own)
        for record, of_record in zip(records, scores, strict=True)
        for alt, own in zip(record.alts or (".",), of_record, strict=True)
    ]
    if columns:
        given: dict[str, Any] = {name: [record.fields[at] for record, _, _ in rows] for at, name in enumerate(columns)}
    else:
        given = {
            "chrom": [record.contig for record, _, _ in rows],
            "pos": np.array([record.position + 1 for record, _, _ in rows], np.int64),
            "id": [record.name for record, _, _ in rows],
            "ref": [record.ref or "." for record, _, _ in rows],
            "alt": [alt for _, alt, _ in rows],
        }
    ours: dict[str, Any] = {"status": [own.status for _, _, own in rows]}
    for field in fields:
        values = [own.values.get(field.column) for _, _, own in rows]
        # A column has the same type in every chunk; missing values are NaN or the empty string.
        ours[field.column] = (
            ["" if value is None else str(value) for value in values]
            if field.type == "String"
            else np.array([np.nan if value is None else value for value in values], np.float64)
        )
    return given | {f"db2_{name}" if name in given else name: values for name, values in ours.items()}


def check_vcf_output(path: Path) -> None:
    """Check in advance that a VCF can be written.

    Raises:
        UserError: another suffix, or no such directory.
    """
    if not path.name.endswith(VCF_SUFFIXES):
        raise UserError(f"{path}: accepted for --out are {', '.join(VCF_SUFFIXES)}; tables go to --table")
    if path.is_dir():
        raise UserError(f"{path} is a directory; name a file")
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no directory {path.parent}; create it first")


def vcf_finish(path: Path, *, sorted_by_position: bool) -> Finish:
    """The function that turns the complete text of a VCF into the output file.

    Args:
        path: ``.vcf``, ``.vcf.gz`` (BGZF) or ``.bcf``; the latter two get an index if the records are sorted.
        sorted_by_position: whether the records are sorted.
    """
    if path.suffix == ".vcf":
        return moved

    def finish(unfinished: Path, path: Path) -> None:
        with atomic_file(path) as partial:
            if path.suffix == ".bcf":
                _convert_to_bcf(unfinished, partial, path)
            else:
                with unfinished.open("rb") as plain, pysam().BGZFile(str(partial), "wb") as compressed:
                    shutil.copyfileobj(plain, compressed)
        for suffix in (".tbi", ".csi"):  # an index of the replaced file
            with suppress(OSError):
                os.unlink(f"{path}{suffix}")
        if sorted_by_position:
            _index(path)

    return finish


def _convert_to_bcf(text: Path, bcf: Path, path: Path) -> None:
    # pysam's own writer adds an undefined END to symbolic alleles, and then cannot read the file.
    library = pysam()
    try:
        library.bcftools.view("--no-version", "-O", "b", "-o", str(bcf), str(text), catch_stdout=False)
    except library.SamtoolsError as error:
        raise UserError(
            f"{path}: BCF cannot hold these records; their header must define every contig, FILTER, INFO and FORMAT key: "
            "complete it, or write .vcf.gz, which keeps any text"
        ) from error


def _index(path: Path) -> None:
    with quiet_pysam() as package:
        try:
            if path.suffix == ".bcf":
                package.tabix_index(str(path), preset="bcf", force=True)
            else:
                package.tabix_index(str(path), preset="vcf", force=True, keep_original=True)
        except (OSError, ValueError, package.SamtoolsError) as error:
            remark(f"{path}: no index was made ({error})")


def _text(value: float | int | str | None) -> str:
    if value is None:
        return "."
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
