"""Annotation from file to file: check everything that can be checked, then score and write one part at a time.

Only one part of the input is in memory. The input is read twice: first to find errors before hours of work and to survey
its records, then to score them.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from dnabert2_jax.config.inference import RefMismatch
from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.reference import Reference
from dnabert2_jax.inference.formats import FORMATS, Format
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.inference.output import TABLE_SUFFIXES, check_output
from dnabert2_jax.inference.record import Record, save_record_beside
from dnabert2_jax.progress import ProgressBar, remark
from dnabert2_jax.storage.unfinished import resuming
from dnabert2_jax.variants.alleles import Allele, Status, differs, unwritten
from dnabert2_jax.variants.fields import KEY_PREFIX, AlleleScores
from dnabert2_jax.variants.output import annotated, check_vcf_output, header_lines, table_columns, vcf_finish
from dnabert2_jax.variants.records import Item, VariantFile
from dnabert2_jax.variants.records import Record as VariantRecord
from dnabert2_jax.variants.scoring import ScoringOptions, VariantScorer

_FIRST_RECORDS = 1000
_ANOTHER_ASSEMBLY = 0.1
_FEWEST_DIFFERENCES = 10
"""In a small file, one or two differing records do not indicate another assembly."""


@dataclass
class Survey:
    """The result of the first pass over a file.

    Attributes:
        records: number of records.
        alleles: number of ALT alleles.
        contigs: the reference's name for each contig of the file; None if it has none.
        sorted_by_position: whether each contig is one block of ascending positions.
    """

    records: int = 0
    alleles: int = 0
    contigs: dict[str, str | None] = field(default_factory=dict)
    sorted_by_position: bool = True

    def renamed(self) -> str | None:
        """A remark on contigs that have another name in the reference; None if there are none."""
        pairs = [f"{name} is {found}" for name, found in self.contigs.items() if found not in (None, name)]
        return (
            f"contigs of another name in the FASTA file: {', '.join(pairs[:5])}{', ...' * (len(pairs) > 5)}"
            if pairs
            else None
        )


@dataclass
class _Progress:
    """The progress of a job.

    Attributes:
        parts: number of parts written.
        records: number of records in these parts.
        defined: whether the definitions of our keys have been written.
        statuses: number of alleles by status.
    """

    parts: int = 0
    records: int = 0
    defined: bool = False
    statuses: dict[Status, int] = field(default_factory=dict)

    def add(self, records: Sequence[VariantRecord], scores: Sequence[Sequence[AlleleScores]]) -> None:
        """Count a part."""
        self.parts, self.records = self.parts + 1, self.records + len(records)
        for own in (own for of_record in scores for own in of_record):
            self.statuses[own.status] = self.statuses.get(own.status, 0) + 1


@dataclass(frozen=True)
class Annotation:
    """A checked job; make it with :func:`plan_annotation`.

    Attributes:
        source: the variants.
        reference: the genome.
        scorer: scores the alleles.
        survey: the contents of the file.
    """

    source: VariantFile
    reference: Reference
    scorer: VariantScorer
    survey: Survey

    def run(
        self, out: Path | None, table: Path | None, record: Record, *, force: bool = False, title: str | None = None
    ) -> Counter[Status]:
        """Score and write everything; returns the number of alleles by status.

        Parts that were written survive a crash of this process, and the same job resumes after them.

        Args:
            out: VCF to write, if the input is one.
            table: table to write.
            record: how they were made, see :mod:`dnabert2_jax.inference.record`.
            force: discard unfinished output of another job.
            title: label of the progress bar.

        Raises:
            UserError: a file cannot be written, or out of memory.
        """
        paths = [path for path in (out, table) if path is not None]
        rows = FORMATS[table.suffix] if table else None
        finishes = [vcf_finish(out, sorted_by_position=self.survey.sorted_by_position)] if out else []
        finishes += [rows.finish(record)] if rows else []
        with ExitStack() as stack:
            unfinished = stack.enter_context(resuming(paths, {**record, "job": self._job()}, force=force))
            progress = _Progress(**unfinished.state)
            if progress.parts:
                remark(f"resuming after {progress.records:,} records, which an earlier process of this job has scored")
            bar = stack.enter_context(ProgressBar(title, self.survey.records, progress.records)) if title else None
            for part in islice(self.parts(), progress.parts, None):
                records = [item for item in part if isinstance(item, VariantRecord)]
                scores = self.score(records)
                written = [self._vcf_lines(part, scores, progress)] if out else []
                written += [self._table_rows(rows, records, scores, progress) if records else b""] if rows else []
                progress.add(records, scores)
                unfinished.write(*written)
                unfinished.commit(asdict(progress))
                if bar:
                    bar.advance(len(records))
            if rows and not self.survey.records:
                unfinished.write(*[b""] * (len(paths) - 1), self._table_rows(rows, [], [], progress))
            for path in paths:
                save_record_beside(path, record)
            unfinished.finish(*finishes)
        return Counter(progress.statuses)

    def _vcf_lines(self, part: list[Item], scores: list[list[AlleleScores]], progress: "_Progress") -> bytes:
        """The annotated lines of a part, with the definitions of our keys before the column header."""
        lines: list[bytes] = []
        of_record = iter(scores)
        for item in part:
            raw = item.raw if isinstance(item, VariantRecord) else item
            if not progress.defined and not raw.startswith(b"##"):
                lines.append(header_lines(self.scorer.fields, raw[len(raw.rstrip(b"\r\n")) :] or b"\n"))
                progress.defined = True
            lines.append(annotated(raw, next(of_record), self.scorer.fields) if isinstance(item, VariantRecord) else raw)
        return b"".join(lines)

    def _table_rows(
        self, rows: Format, records: list[VariantRecord], scores: list[list[AlleleScores]], progress: "_Progress"
    ) -> bytes:
        """The rows of a part."""
        return rows.encode(table_columns(records, scores, self.scorer.fields, self.source.columns), not progress.records)

    def _job(self) -> dict[str, Any]:
        """What the scores depend on in addition to the job's record, to decide whether the job can be resumed."""
        files = [path.stat() for path in (self.source.path, self.reference.path)]
        return {
            "content": [[file.st_size, file.st_mtime_ns] for file in files],
            "alleles_at_once": self.scorer.alleles_at_once,
        }

    def score(self, records: Sequence[VariantRecord]) -> list[list[AlleleScores]]:
        """The scores of each record's alleles; a record without ALT alleles gets a single ``missing``."""
        alleles = [
            Allele(self.survey.contigs[record.contig], record.position, record.ref, alt)
            for record in records
            for alt in record.alts
        ]
        scores = iter(self.scorer.score(alleles))
        return [[next(scores) for _ in record.alts] or [AlleleScores("missing", {})] for record in records]

    def parts(self) -> Iterator[list[Item]]:
        """The lines of the input in parts, each with enough records to fill the batches well."""
        part: list[Item] = []
        alleles = 0
        for item in self.source.items():
            part.append(item)
            alleles += len(item.alts) if isinstance(item, VariantRecord) else 0
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
    """Check a job before it runs.

    Args:
        model: the model.
        reference: the genome.
        source: the variants.
        options: how to score.
        ref_mismatch: whether a REF that differs from the reference stops the job.

    Raises:
        UserError: the model cannot compute a score, the file cannot be read or was annotated before, no contig is shared, or
            REF differs in too many records.
    """
    scorer = VariantScorer(model, reference, options)
    return Annotation(source, reference, scorer, _survey(source, reference, ref_mismatch))


def check_outputs(source: VariantFile, out: Path | None, table: Path | None) -> None:
    """Check in advance that the results can be written.

    Raises:
        UserError: no output, VCF output for a table, the input itself, or a path or format that cannot be written.
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
        if not isinstance(item, VariantRecord):
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


def _difference(record: VariantRecord, contig: str | None, reference: Reference) -> str | None:
    """The FASTA file's bases at REF if they differ; None if they agree or there is nothing to compare."""
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
    """The error for a file that shares no contig with the reference."""
    return UserError(
        f"{source} and {reference.path} share no contig: the one has {_some(names)}, the other {_some(reference.lengths)}; "
        "give the FASTA file that the variants were called on"
    )


def _some(names: Iterable[str]) -> str:
    listed = sorted(names, key=lambda name: re.sub("[0-9]+", lambda number: number[0].zfill(9), name))
    return ", ".join(listed[:5]) + (f", ... ({len(listed):,})" if len(listed) > 5 else "")
