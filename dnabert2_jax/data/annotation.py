"""Features of a genome: labeled stretches from BED, GFF3 or GTF.

========= ======================= ==================================== ============================
format    label                   coordinates                          strand
========= ======================= ==================================== ============================
BED       column 4                from 0, end excluded                 column 6, ``.`` if missing
GFF3, GTF column 3, the type      from 1, end included                 column 7
========= ======================= ==================================== ============================

For GFF3 and GTF, the wanted types must be named; for BED, all labels are read unless some are named.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dnabert2_jax.config.inference import BadRecordPolicy
from dnabert2_jax.data.bad_records import BadRecords
from dnabert2_jax.data.intervals import Interval, Intervals, text_lines
from dnabert2_jax.errors import UserError, listed, nearest
from dnabert2_jax.genome.reference import Reference

_GFF_SUFFIXES, _BED_SUFFIXES = (".gff", ".gff3", ".gtf"), (".bed",)
_GFF_STRANDS = {"+": "+", "-": "-", ".": ".", "?": "."}
_NUMBER = re.compile(r"[0-9]{1,18}")
_COLUMNS = 9
_SHOWN = 12


@dataclass(frozen=True)
class Annotation:
    """Features of a genome, in the order of the file; the name of each is its label.

    Attributes:
        path: the file.
        features: on the reference's contigs.
        labels: the labels, in the order requested, or else alphabetically.
        notes: what was skipped, or read under another name.
    """

    path: Path
    features: tuple[Interval, ...]
    labels: tuple[str, ...]
    notes: tuple[str, ...]


def read_annotation(
    path: Path, reference: Reference, wanted: Sequence[str] = (), bad_records: BadRecordPolicy = "error"
) -> Annotation:
    """Read the features of a genome.

    Args:
        path: ``.bed``, ``.gff``, ``.gff3`` or ``.gtf``, plain or with ``.gz``.
        reference: the genome.
        wanted: the labels to read; required for GFF3 and GTF.
        bad_records: what to do with lines that cannot be used.

    Raises:
        UserError: another kind of file, a line that cannot be used, a label that no feature has, or no features.
    """
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix in _BED_SUFFIXES:
        features, notes = _read_bed(path, reference, bad_records)
    elif suffix not in _GFF_SUFFIXES:
        accepted = ", ".join(_BED_SUFFIXES + _GFF_SUFFIXES)
        raise UserError(f"{path}: an annotation is a file whose name ends in {accepted}, or one of these and .gz")
    elif not wanted:
        raise UserError(f'{path}: name the types of features that are labels, as in data.features=["CDS"]')
    else:
        features, notes = _read_gff(path, reference, wanted, bad_records)
    found = dict.fromkeys(feature.name for feature in features)
    if missing := [label for label in wanted if label not in found]:
        raise UserError(_lacking(path, missing[0], list(found)))
    kept = tuple(feature for feature in features if not wanted or feature.name in wanted)
    return Annotation(path, kept, tuple(dict.fromkeys(wanted)) or tuple(sorted(found)), notes)


def _read_bed(path: Path, reference: Reference, bad_records: BadRecordPolicy) -> tuple[list[Interval], tuple[str, ...]]:
    intervals = Intervals(reference, path, bad_records=bad_records)
    features = list(intervals)
    for feature in features:
        if feature.name == ".":
            raise UserError(
                f"{path}: {feature.contig}:{feature.start + 1}-{feature.end} has no label; write it into column 4, as in "
                "chr1, 1000, 2000, gene, 0, +"
            )
    return features, intervals.notes


def _read_gff(
    path: Path, reference: Reference, wanted: Sequence[str], bad_records: BadRecordPolicy
) -> tuple[list[Interval], tuple[str, ...]]:
    places, bad = Intervals(reference), BadRecords(str(path), bad_records)
    features: list[Interval] = []
    others: set[str] = set()
    lines = 0
    for number, line in text_lines(path, "GFF3 or GTF"):
        if line.startswith("##FASTA") or line.startswith(">"):
            break
        if not line.strip() or line.startswith("#"):
            continue
        lines += 1
        fields = line.split("\t")
        where = f"{path}, line {number}"
        try:
            if len(fields) != _COLUMNS:
                raise UserError(f"{where}: {len(fields)} columns; GFF3 and GTF have {_COLUMNS}, separated by tabs")
            if fields[2] not in wanted:
                others.add(fields[2])
                continue
            features.append(_feature(fields, places, where))
        except UserError as error:
            bad.add(error)
    notes = bad.finish(lines)
    present = {feature.name for feature in features}
    if missing := [label for label in wanted if label not in present]:
        raise UserError(_lacking(path, missing[0], sorted(others | present)))
    return features, (*notes, *places.notes)


def _feature(fields: Sequence[str], places: Intervals, where: str) -> Interval:
    contig, _, kind, first, last, _, strand, *_ = fields
    for what, text in (("start", first), ("end", last)):
        if not (text.isascii() and _NUMBER.fullmatch(text)) or not int(text):
            raise UserError(f"{where}: the {what} {text!r} is not a whole number above 0; GFF3 and GTF count bases from 1")
    if strand not in _GFF_STRANDS:
        raise UserError(f"{where}: the strand {strand!r} (column 7) is not one of {' '.join(_GFF_STRANDS)}")
    return places.place(contig, int(first) - 1, int(last), kind, _GFF_STRANDS[strand], where)


def _lacking(path: Path, label: str, found: Sequence[str]) -> str:
    shown = listed(found, _SHOWN) or "none"
    return f"{path} has no feature {label!r}{nearest(label, found)}; it has {shown}; correct data.features"
