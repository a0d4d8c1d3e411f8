"""Intervals of a genome, or windows over them, as inputs in chunks.

An interval on the minus strand is read as its reverse complement; coordinates are those of the plus strand. Its windows are
laid out along the reverse complement, so both strands are treated alike.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dnabert2_jax.data.intervals import Interval, Intervals, check_letters, letters_of
from dnabert2_jax.data.sequences import Sequences
from dnabert2_jax.errors import counted
from dnabert2_jax.genome.letters import LetterCounts
from dnabert2_jax.inference.scan import Chunk, checked_step, starts_of_windows


@dataclass(frozen=True)
class IntervalScan:
    """Intervals, or windows over them; make it with :func:`plan_intervals`.

    Attributes:
        intervals: the intervals, with their genome.
        window: bases of a window; None for whole intervals.
        step: bases from one window to the next.
        count: number of intervals.
        windows: number of windows over all intervals; without windows, of intervals.
        longest: bases of the longest interval.
        letters: letter counts and changes of the letters policy.
        notes: what was skipped or read under another name.
    """

    intervals: Intervals
    window: int | None
    step: int | None
    count: int
    windows: int
    longest: int
    letters: LetterCounts
    notes: tuple[str, ...]

    @property
    def rows(self) -> int:
        """Number of windows, or of intervals."""
        return self.windows

    @property
    def bases(self) -> int:
        """Total bases of the intervals."""
        return self.letters.bases

    def summary(self) -> str:
        """One line about the intervals and their windows, for the terminal."""
        counts = f"{self.intervals.source}: {counted(self.count, 'interval')}, {self.letters.bases:,} bases"
        places = (
            f"{counted(self.windows, 'window')} of {self.window:,} bases, one every {self.step:,}" if self.window else ""
        )
        return "; ".join(filter(None, [counts, *self.letters.changes(), *self.notes, places]))

    def chunks(self, bases: int) -> Iterator[Chunk]:
        """All windows, in the order of the intervals, in chunks of at least ``bases`` bases (the last may have fewer).

        Within an interval, windows are ordered by coordinates on either strand.
        """
        rows: list[tuple[Interval, int, int, str]] = []
        size = 0
        for interval in self.intervals:
            for start, end in windows_of(interval, self.window, self.step):
                letters = letters_of(self.intervals.reference, interval, start, end, LetterCounts())
                rows.append((interval, start, end, letters))
                size += end - start
                if size >= bases:
                    yield self._chunk(rows)
                    rows, size = [], 0
        if rows:
            yield self._chunk(rows)

    def _chunk(self, rows: list[tuple[Interval, int, int, str]]) -> Chunk:
        intervals, starts, ends, letters = zip(*rows, strict=True)
        names = [interval.contig for interval in intervals]
        return Chunk(
            Sequences(self.intervals.source, names, list(letters), None, LetterCounts()),
            np.array(starts, np.int64),
            np.array(ends, np.int64),
            {"interval": [each.name for each in intervals], "strand": [each.strand for each in intervals]},
        )


def windows_of(interval: Interval, window: int | None, step: int | None) -> Iterator[tuple[int, int]]:
    """(start, end) of an interval's windows in its contig, by start; the whole interval if ``window`` is None.

    On the minus strand they are laid out from the interval's end, where its reverse complement begins.
    """
    if window is None or step is None:
        yield interval.start, interval.end
        return
    offsets = starts_of_windows(interval.end - interval.start, window, step)
    if interval.reverse:
        for offset in reversed(offsets):
            yield max(interval.start, interval.end - offset - window), interval.end - offset
    else:
        for offset in offsets:
            yield interval.start + offset, min(interval.end, interval.start + offset + window)


def plan_intervals(intervals: Intervals, window: int | None = None, step: int | None = None) -> IntervalScan:
    """Read all intervals once, checking every letter, and count their windows.

    Args:
        intervals: the intervals, with their genome.
        window: bases of a window; None for one row per interval.
        step: bases from one window to the next, at most ``window``, the default.

    Raises:
        UserError: a window or step is out of range, an interval or letter cannot be used, or there are no intervals.
    """
    step = None if window is None else checked_step(window, step)
    letters = LetterCounts()
    count = windows = longest = 0
    for interval in intervals:
        count += 1
        bases = interval.end - interval.start
        longest = max(longest, bases)
        windows += 1 if window is None or step is None else len(starts_of_windows(bases, window, step))
        check_letters(intervals.reference, interval, letters)
    return IntervalScan(intervals, window, step, count, windows, longest, letters, intervals.notes)
