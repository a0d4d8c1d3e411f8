"""Scores of variants in memory, for the Python API."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dnabert2_jax.errors import UserError
from dnabert2_jax.extras import optional_package
from dnabert2_jax.genome.reference import Reference
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.variants.annotation import plan_annotation
from dnabert2_jax.variants.output import table_columns
from dnabert2_jax.variants.records import Record, VariantFile, open_variants
from dnabert2_jax.variants.scoring import ScoringOptions

GivenVariant = tuple[str, int, str, str]
"""Contig, position (from 1), REF and ALT."""


@dataclass(frozen=True, repr=False)
class VariantScores:
    """One row for each allele, in the order of the input.

    Attributes:
        columns: the variant, its status and its values; missing values are NaN or the empty string.
    """

    columns: dict[str, Any]

    def __len__(self) -> int:
        """Number of alleles."""
        return len(self.columns["status"])

    def __getitem__(self, column: str) -> Any:
        """A column: an array of numbers, or a list of strings. [alleles]."""
        return self.columns[column]

    def __repr__(self) -> str:
        statuses = ", ".join(f"{count:,} {status}" for status, count in Counter(self.columns["status"]).most_common())
        return f"VariantScores({len(self):,} alleles{': ' * bool(statuses)}{statuses})"

    def to_pandas(self) -> Any:
        """The columns as a DataFrame.

        Raises:
            UserError: pandas is not installed.
        """
        return optional_package("pandas", "to_pandas needs", "pandas").DataFrame(self.columns)


def score_variants(
    model: InferenceModel, fasta: str | Path, variants: str | Path | Iterable[GivenVariant], options: ScoringOptions
) -> VariantScores:
    """Score variants and keep the results; arguments and errors are those of :func:`iterate_scores`."""
    parts = [scores.columns for scores in iterate_scores(model, fasta, variants, options)]
    return VariantScores({name: _joined([part[name] for part in parts]) for name in parts[0]})


def iterate_scores(
    model: InferenceModel, fasta: str | Path, variants: str | Path | Iterable[GivenVariant], options: ScoringOptions
) -> Iterator[VariantScores]:
    """Yield scores of variants as they are computed; the first part is empty and defines the columns.

    Args:
        model: any model.
        fasta: the reference genome.
        variants: a file, or tuples as in ``GivenVariant``.
        options: how to score.

    Raises:
        UserError: as :func:`~dnabert2_jax.variants.annotation.plan_annotation`; or an item is not a variant.
    """
    source = open_variants(variants) if isinstance(variants, str | Path) else _given(variants)
    with Reference(fasta) as reference:
        job = plan_annotation(model, reference, source, options)
        yield VariantScores(table_columns([], [], job.scorer.fields, source.columns))
        for part in job.parts():
            records = [item for item in part if isinstance(item, Record)]
            yield VariantScores(table_columns(records, job.score(records), job.scorer.fields, source.columns))


def _given(variants: Iterable[GivenVariant]) -> VariantFile:
    records = []
    for number, given in enumerate(variants):
        try:
            contig, position, ref, alt = given
            at = int(position)
        except (TypeError, ValueError):
            raise UserError(
                f"variants[{number}] is {given!r}; accepted are tuples of contig, position (from 1), REF and ALT: "
                "('chr1', 1000, 'A', 'G')"
            ) from None
        alts = ("",) if alt == "-" else (str(alt),)
        records.append(Record(number, str(contig), at - 1, ".", str(ref), alts))

    def items() -> Iterator[Record]:
        return iter(records)

    return VariantFile(Path("variants"), "table", (), items)


def _joined(parts: list[Any]) -> Any:
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    return [value for part in parts for value in part]
