"""The job from file to file: check everything that can be checked, then score and write a part at a time.

Only one part of the input is in memory. The input is read twice: first to find what is wrong with it before hours of work,
and what its records are; then to score them.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from dnabert2_jax.config.inference import RefMismatch
from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.reference import Reference
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.inference.output import TABLE_SUFFIXES, check_output
from dnabert2_jax.inference.rows import writing_rows
from dnabert2_jax.progress import ProgressBar
from dnabert2_jax.variants.alleles import Allele, Status, differs, unwritten
from dnabert2_jax.variants.fields import KEY_PREFIX, AlleleScores
from dnabert2_jax.variants.output import annotated, check_vcf_output, header_lines, table_columns, writing_vcf
from dnabert2_jax.variants.records import Item, Record, VariantFile
from dnabert2_jax.variants.scoring import ScoringOptions, VariantScorer

_FIRST_RECORDS = 1000
_ANOTHER_ASSEMBLY = 0.1
_FEWEST_DIFFERENCES = 10
"""Of a handful of records, one or two that differ say nothing about the assembly."""


@dataclass
class Survey:
    """What a first reading found.

    Attributes:
        records: number of records.
        alleles: number of ALT alleles.
        contigs: the reference's name for each contig of the file, None where it has none.
        sorted_by_position: whether each contig is one block of ascending positions.
    """

    records: int = 0
    alleles: int = 0
    contigs: dict[str, str | None] = field(default_factory=dict)
    sorted_by_position: bool = True

    def renamed(self) -> str | None:
        """A remark on contigs that the reference calls by another name; None if there are none."""
        pairs = [f"{name} is {found}" for name, found in self.contigs.items() if found not in (None, name)]
        return (
            f"contigs of another name in the FASTA file: {', '.join(pairs[:5])}{', ...' * (len(pairs) > 5)}"
            if pairs
            else None
        )


@dataclass(frozen=True)
class Annotation:
    """A job that was checked; make it with :func:`plan_annotation`.

    Attributes:
        source: the variants.
        reference: the genome.
        scorer: scores them.
        survey: what is in the file.
    """

    source: VariantFile
    reference: Reference
    scorer: VariantScorer
    survey: Survey

    def run(self, out: Path | None, table: Path | None, title: str | None = None) -> Counter[Status]:
        """Score and write everything; returns how many alleles had which status.

        Args:
            out: VCF to write, if the input is one.
            table: table to write.
            title: shows progress.

        Raises:
            UserError: a file cannot be written, or out of memory.
        """
        statuses: Counter[Status] = Counter()
        fields = self.scorer.fields
        with ExitStack() as stack:
            vcf = stack.enter_context(writing_vcf(out, sorted_by_position=self.survey.sorted_by_position)) if out else None
            rows = stack.enter_context(writing_rows(table, TABLE_SUFFIXES)) if table else None
            bar = stack.enter_context(ProgressBar(title, self.survey.records)) if title else None
            defined = False
            for part in self.parts():
                records = [item for item in part if isinstance(item, Record)]
                scores = self.score(records)
                of_record = iter(scores)
                for item in part:
                    raw = item.raw if isinstance(item, Record) else item
                    if vcf is not None:
                        if not defined and not raw.startswith(b"##"):
                            vcf.write(header_lines(fields, raw[len(raw.rstrip(b"\r\n")) :] or b"\n"))
                            defined = True
                        vcf.write(annotated(raw, next(of_record), fields) if isinstance(item, Record) else raw)
                if rows is not None and records:
                    rows(table_columns(records, scores, fields, self.source.columns))
                statuses.update(own.status for of_one in scores for own in of_one)
                if bar:
                    bar.advance(len(records))
            if rows is not None and not self.survey.records:
                rows(table_columns([], [], fields, self.source.columns))
        return statuses

    def score(self, records: Sequence[Record]) -> list[list[AlleleScores]]:
        """The scores of each record's alleles; a record without any has one, ``missing``."""
        alleles = [
            Allele(self.survey.contigs[record.contig], record.position, record.ref, alt)
            for record in records
            for alt in record.alts
        ]
        scores = iter(self.scorer.score(alleles))
        return [[next(scores) for _ in record.alts] or [AlleleScores("missing", {})] for record in records]

    def parts(self) -> Iterator[list[Item]]:
        """The lines of the input, some at a time: as many records as fill the batches well."""
        part: list[Item] = []
        alleles = 0
        for item in self.source.items():
            part.append(item)
            alleles += len(item.alts) if isinstance(item, Record) else 0
            if alleles >= self.scorer.alleles_at_once:
                yield part
                part, alleles = [], 0
        if part:
            yield part


def plan_annotation(
    model: InferenceModel,
    reference: Reference,
    source: VariantFile,
    options: ScoringOptions,
    *,
    ref_mismatch: RefMismatch = "skip",
) -> Annotation:
    """Check a job before its work.

    Args:
        model: what scores.
        reference: the genome.
        source: the variants.
        options: how to score.
        ref_mismatch: whether a REF that is not the reference's stops the job.

    Raises:
        UserError: the model cannot give a score, the file cannot be read or was annotated before, no contig is in common, or
            REF differs in too many records.
    """
    scorer = VariantScorer(model, reference, options)
    return Annotation(source, reference, scorer, _survey(source, reference, ref_mismatch))


def check_outputs(source: VariantFile, out: Path | None, table: Path | None) -> None:
    """Check before the work that the results can be written.

    Raises:
        UserError: no output, a VCF of a table, the input itself, or a place or format that cannot be written.
    """
    if out is None and table is None:
        raise UserError("nothing to write; give --out FILE.vcf, --table FILE.tsv or both")
    if out is not None:
        if source.kind == "table":
            raise UserError(f"{source.path} is a table, so it becomes a table: give --table instead of --out {out}")
        check_vcf_output(out)
    if table is not None:
        check_output(table, TABLE_SUFFIXES)
    for path in (out, table):
        if path is not None and path.exists() and path.samefile(source.path):
            raise UserError(f"{path} is the input; choose another name")


def _survey(source: VariantFile, reference: Reference, ref_mismatch: RefMismatch) -> Survey:
    survey = Survey()
    contig, position = "", -1
    differing: list[str] = []
    for line, item in enumerate(source.items(), start=1):
        if not isinstance(item, Record):
            if item.startswith(f"##INFO=<ID={KEY_PREFIX}".encode()):
                raise UserError(
                    f"{source.path}, line {line:,}: this file has our annotation ({KEY_PREFIX}...) already; annotate the "
                    f"original, or remove the keys first (`bcftools annotate -x INFO/{KEY_PREFIX}STATUS,...`)"
                )
            continue
        survey.records += 1
        survey.alleles += len(item.alts)
        if item.contig not in survey.contigs:
            survey.contigs[item.contig] = reference.contig(item.contig)
        elif item.contig != contig or item.position < position:
            survey.sorted_by_position = False
        contig, position = item.contig, item.position
        if ref_mismatch == "error" or survey.records <= _FIRST_RECORDS:
            found = _difference(item, survey.contigs[contig], reference)
            if found is not None:
                differing.append(
                    f"line {item.line:,}, {contig}:{position + 1} REF {item.ref}, FASTA {found or 'has no such position'}"
                )
        if differing and ref_mismatch == "error":
            raise UserError(
                f"{source.path}, {differing[0]}; correct the record, or mark such records with --ref-mismatch skip"
            )
        if survey.records == _FIRST_RECORDS:
            _check_assembly(source, reference, differing, survey.records)
    if survey.records < _FIRST_RECORDS:
        _check_assembly(source, reference, differing, survey.records)
    if survey.contigs and not any(survey.contigs.values()):
        raise no_common_contig(str(source.path), survey.contigs, reference)
    return survey


def _difference(record: Record, contig: str | None, reference: Reference) -> str | None:
    """What the FASTA file has in place of REF; None if they agree, or there is nothing to compare."""
    scorable = [alt for alt in record.alts if unwritten(record.ref, alt) is None]
    if contig is None or not scorable:
        return None
    return differs(reference, Allele(contig, record.position, record.ref, scorable[0]))


def _check_assembly(source: VariantFile, reference: Reference, differing: list[str], records: int) -> None:
    if len(differing) > _ANOTHER_ASSEMBLY * records and len(differing) >= _FEWEST_DIFFERENCES:
        raise UserError(
            f"{source.path}: REF differs from {reference.path} in {len(differing):,} of the first {records:,} records "
            f"(first: {differing[0]}); is it another assembly?"
        )


def no_common_contig(source: str, names: Iterable[str], reference: Reference) -> UserError:
    """The error for a file that speaks of other contigs than the reference."""
    return UserError(
        f"{source} and {reference.path} share no contig: the one has {_some(names)}, the other {_some(reference.lengths)}; "
        "give the FASTA file that the variants were called on"
    )


def _some(names: Iterable[str]) -> str:
    listed = sorted(names, key=lambda name: re.sub("[0-9]+", lambda number: number[0].zfill(9), name))
    return ", ".join(listed[:5]) + (f", ... ({len(listed):,})" if len(listed) > 5 else "")
