"""The stretches of a genome that a track covers: intervals in genome order, without overlaps on a strand."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.config.inference import TrackStrand
from dnabert2_jax.data.intervals import Interval, Intervals, check_letters
from dnabert2_jax.genome.letters import LetterCounts
from dnabert2_jax.genome.reference import Reference


class Piece(NamedTuple):
    """Some consecutive values of a track.

    Attributes:
        contig: its name in the FASTA file.
        strand: ``+`` or ``-``.
        starts: first base of each value's stretch in the contig, from 0, ascending. [n].
        ends: one past its last base; stretches do not overlap. [n].
        values: one number for each channel of the track. [n, channels].
    """

    contig: str
    strand: str
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    values: NDArray[np.float32]


@dataclass(frozen=True)
class Stretches:
    """The stretches that a track covers; make it with :func:`plan_stretches`.

    Attributes:
        reference: the genome.
        intervals: ordered by strand, contig (as in the genome) and start; their strand is ``+`` or ``-``.
        letters: letter counts and changes of the letters policy, each strand counted separately.
        notes: what was skipped, merged, or read under another name.
        source: their origin, for messages.
    """

    reference: Reference
    intervals: tuple[Interval, ...]
    letters: LetterCounts
    notes: tuple[str, ...]
    source: str

    def __iter__(self) -> Iterator[Interval]:
        return iter(self.intervals)

    @property
    def strands(self) -> tuple[str, ...]:
        """The strands that occur, ``+`` first."""
        return tuple(dict.fromkeys(interval.strand for interval in self.intervals))

    @property
    def bases(self) -> int:
        """Total bases of all intervals, each strand counted separately."""
        return sum(interval.end - interval.start for interval in self.intervals)

    def summary(self) -> str:
        """One line about the stretches, for the terminal."""
        plural = "es" * (len(self.intervals) != 1)
        counts = (
            f"{self.source}: {len(self.intervals):,} stretch{plural}, {self.bases:,} bases on {' and '.join(self.strands)}"
        )
        return "; ".join([counts, *self.letters.changes(), *self.notes])


def plan_stretches(intervals: Intervals, strand: TrackStrand) -> Stretches:
    """Read all intervals, put them in order, merge those that overlap, and check every letter.

    Args:
        intervals: a BED file or regions; if neither, the whole genome is covered.
        strand: which strands to read; see :data:`~dnabert2_jax.config.inference.TrackStrand`.

    Raises:
        UserError: an interval or a letter that cannot be used, or there are no intervals.
    """
    reference = intervals.reference
    if intervals.bed is None and not intervals.regions:
        found = [Interval(name, 0, bases, name, ".") for name, bases in reference.lengths.items()]
    else:
        found = list(intervals)
    wanted = {"both": ("+", "-"), "bed": ("+", "-"), "+": ("+",), "-": ("-",)}[strand]
    kept: list[Interval] = []
    merged = 0
    for each in wanted:
        own = [i for i in found if strand != "bed" or i.reverse == (each == "-")]
        disjoint = _disjoint(own, each, reference)
        merged += len(own) - len(disjoint)
        kept += disjoint
    notes = list(intervals.notes)
    if merged:
        notes.append(f"overlapping intervals merged: {merged:,} into others, since a track has one value at a base")
    letters = LetterCounts()
    for interval in kept:
        check_letters(reference, interval, letters)
    return Stretches(reference, tuple(kept), letters, tuple(notes), intervals.source or str(reference.path))


def _disjoint(intervals: Iterable[Interval], strand: str, reference: Reference) -> list[Interval]:
    """Intervals in genome order, read on one strand, with overlapping ones merged."""
    order = {name: number for number, name in enumerate(reference.lengths)}
    disjoint: list[Interval] = []
    for interval in sorted(intervals, key=lambda i: (order[i.contig], i.start, i.end)):
        if disjoint and disjoint[-1].contig == interval.contig and interval.start < disjoint[-1].end:
            last = disjoint.pop()
            disjoint.append(last._replace(end=max(last.end, interval.end)))
        else:
            disjoint.append(interval._replace(strand=strand))
    return disjoint
