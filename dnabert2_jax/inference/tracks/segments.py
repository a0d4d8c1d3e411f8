"""Segments, runs of bases with a high probability, as lines of a BED file."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dnabert2_jax.errors import UserError
from dnabert2_jax.inference.tracks.stretches import Piece


@dataclass(frozen=True)
class SegmentRules:
    """Rules that define segments.

    Attributes:
        threshold: bases with at least this probability form segments.
        merge: segments at most this many bases apart become one.
        min_length: minimum length in bases, after merging; shorter segments are dropped.

    Raises:
        UserError: a rule out of range.
    """

    threshold: float = 0.5
    merge: int = 0
    min_length: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise UserError(f"--threshold {self.threshold:g} is no probability; accepted are 0 to 1")
        if self.merge < 0 or self.min_length < 1:
            raise UserError(
                f"--merge {self.merge} --min-length {self.min_length}: accepted are 0 bases or more, and 1 base or more"
            )


@dataclass
class _Open:
    """A segment that the next bases may extend; sums are cumulative over the contig."""

    start: int
    end: int
    sum_before: float
    sum_after: float
    bases_before: int
    bases_after: int


class Segments:
    """The segments of one channel on one strand, found as pieces arrive in genome order.

    Args:
        channel: number of the channel in the pieces.
        name: of the channel; white space becomes ``_``.
        rules: the rules that define segments.
    """

    def __init__(self, channel: int, name: str, rules: SegmentRules) -> None:
        self._channel, self._name, self._rules = channel, re.sub(r"\s", "_", name), rules
        self._contig, self._strand = "", ""
        self._open: _Open | None = None
        self._sum, self._bases = 0.0, 0

    def add(self, piece: Piece) -> Iterator[str]:
        """Add a piece and yield the segments it completes as BED6 lines; scores are 1,000 times the mean probability."""
        if (piece.contig, piece.strand) != (self._contig, self._strand):
            yield from self.finish()
            self._contig, self._strand, self._sum, self._bases = piece.contig, piece.strand, 0.0, 0
        values = piece.values[:, self._channel].astype(np.float64)
        sums = self._sum + np.concatenate([[0.0], np.cumsum(values)])
        high = values >= self._rules.threshold
        joins = np.zeros(len(high) + 1, bool)  # whether a position continues the run of the one before it
        joins[1:-1] = high[1:] & high[:-1] & (piece.starts[1:] == piece.ends[:-1])
        firsts, lasts = np.flatnonzero(high & ~joins[:-1]), np.flatnonzero(high & ~joins[1:])
        for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True):
            start, end = int(piece.starts[first]), int(piece.ends[last])
            if self._open is None or start - self._open.end > self._rules.merge:
                yield from self.finish()
                self._open = _Open(start, end, sums[first], sums[last + 1], self._bases + first, self._bases + last + 1)
            else:
                self._open.end, self._open.sum_after = end, sums[last + 1]
                self._open.bases_after = self._bases + last + 1
        self._sum, self._bases = float(sums[-1]), self._bases + len(values)

    def finish(self) -> Iterator[str]:
        """The last segment, if it is long enough."""
        found, self._open = self._open, None
        if found is None or found.end - found.start < self._rules.min_length:
            return
        mean = (found.sum_after - found.sum_before) / (found.bases_after - found.bases_before)
        score = min(1000, round(1000 * mean))
        yield f"{self._contig}\t{found.start}\t{found.end}\t{self._name}\t{score}\t{self._strand}\n"
