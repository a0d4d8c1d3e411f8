"""Intervals of a genome as a labeled table: a column of the BED file holds the labels."""

from collections.abc import Mapping
from pathlib import Path

from dnabert2_jax.config.inference import BadRecordPolicy
from dnabert2_jax.data.bad_records import BadRecords
from dnabert2_jax.data.intervals import NAME_COLUMN, Intervals, letters_of
from dnabert2_jax.data.reading import mapped_labels
from dnabert2_jax.data.sequences import Table
from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.letters import LetterCounts
from dnabert2_jax.genome.reference import Reference


def read_labeled_intervals(
    reference: Reference,
    bed: Path,
    *,
    label_column: int = NAME_COLUMN,
    label_map: Mapping[str, str] | None = None,
    bad_records: BadRecordPolicy | None = None,
) -> Table:
    """Read the intervals of a BED file with their labels; those on ``-`` are reverse-complemented.

    Args:
        reference: the genome.
        bed: the BED file.
        label_column: its column of labels, from 1.
        label_map: names by label as written; must cover all labels.
        bad_records: what to do with intervals that cannot be used.

    Raises:
        UserError: an interval or letter cannot be used, a label is missing or not in the map, or there are no intervals.
    """
    intervals, letters = Intervals(reference, bed, (), bad_records, label_column), LetterCounts()
    names, sequences, labels, lines = list[str](), list[str](), list[str](), list[int]()
    missing = BadRecords(str(bed), bad_records)
    for line, interval in intervals.numbered():
        if interval.name == ".":
            missing.add(
                UserError(f"{bed}, line {line}: column {label_column} holds no label; fill it in or remove the line")
            )
            continue
        names.append(f"{interval.contig}:{interval.start + 1}-{interval.end}")
        sequences.append(letters_of(reference, interval, interval.start, interval.end, letters))
        labels.append(interval.name)
        lines.append(line)
    notes = (*intervals.notes, *missing.finish(len(labels) + missing.count))
    if label_map:
        labels = mapped_labels(labels, lines, label_map, str(bed))
    return Table(str(bed), names, sequences, None, letters, labels, lines, notes=notes)
