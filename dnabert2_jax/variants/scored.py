"""Reads written scores back for a report page."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.variants.consequences import Consequences
from dnabert2_jax.variants.fields import Field
from dnabert2_jax.variants.output import STATUS_KEY
from dnabert2_jax.variants.records import Record, VariantFile, open_variants


@dataclass(frozen=True)
class ScoredAlleles:
    """Statuses, scores and consequences of the alleles of a file.

    Attributes:
        statuses: number of alleles by status.
        scores: scores of the scored alleles by column; NaN where missing. [scored] each.
        consequences: consequence of each scored allele, empty if none is given; None if the file has none. [scored].
    """

    statuses: Counter[str]
    scores: dict[str, NDArray[np.float32]]
    consequences: list[str] | None


def read_back(path: Path, fields: Sequence[Field]) -> ScoredAlleles:
    """Read the scores of a VCF, BCF or table that :class:`~dnabert2_jax.variants.annotation.Annotation` wrote.

    Args:
        path: the file.
        fields: the scores to read.

    Raises:
        UserError: it cannot be read.
    """
    source = open_variants(path)
    statuses: Counter[str] = Counter()
    rows: list[NDArray[np.float32]] = []
    consequences: list[str] = []
    reader = None
    if source.kind == "vcf":
        lines = (item.decode("utf-8", "replace") for item in source.items() if not isinstance(item, Record))
        reader = Consequences.of_header(lines)
    for status, values, consequence in _alleles(source, fields, reader):
        statuses[status] += 1
        if status == "ok":
            rows.append(np.array([float(value) if value not in ("", ".") else np.nan for value in values], np.float32))
            consequences.append(consequence)
    table = np.array(rows, np.float32).reshape(len(rows), len(fields))
    scores = {field.column: table[:, number] for number, field in enumerate(fields)}
    return ScoredAlleles(statuses, scores, consequences if reader else None)


def _alleles(
    source: VariantFile, fields: Sequence[Field], reader: Consequences | None
) -> Iterator[tuple[str, list[str], str]]:
    """Status, scores as text, and consequence of each allele."""
    columns = source.columns
    at = [columns.index(f"db2_{name}" if f"db2_{name}" in columns else name) for name in _names(fields)] if columns else []
    for record in (item for item in source.items() if isinstance(item, Record)):
        if columns:
            status, *values = (record.fields[number] for number in at)
            yield status, values, ""
            continue
        info = record.raw.split(b"\t")[7].decode("utf-8", "replace").rstrip("\r\n")
        entries = dict(entry.split("=", 1) for entry in info.split(";") if "=" in entry)
        found = [entries.get(key, "").split(",") for key in (STATUS_KEY, *(field.key for field in fields))]
        terms = reader.of(info, record.ref, record.alts) if reader else []
        for number in range(len(record.alts) or 1):
            status, *values = (own[number] if number < len(own) else "" for own in found)
            yield status, values, terms[number] if number < len(terms) else ""


def _names(fields: Sequence[Field]) -> list[str]:
    return ["status", *(field.column for field in fields)]
