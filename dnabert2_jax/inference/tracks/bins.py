"""Tracks of a classifier: the value of a bin is the mean prediction of the windows that cover it."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.data.intervals import Interval, letters_of
from dnabert2_jax.data.sequences import Sequences
from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.letters import BASES, LetterCounts
from dnabert2_jax.inference.interval_scan import windows_of
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.inference.prediction import predict
from dnabert2_jax.inference.scan import bases_of_a_chunk, starts_of_windows
from dnabert2_jax.inference.tracks.stretches import Piece, Stretches
from dnabert2_jax.progress import ProgressBar


@dataclass(frozen=True)
class _Bins:
    """Sums over the windows of one interval, in bins of ``step`` bases from its start (on its strand)."""

    interval: Interval
    edges: NDArray[np.int64]
    sums: NDArray[np.float64]
    windows: NDArray[np.int64]

    @classmethod
    def of(cls, interval: Interval, step: int, classes: int) -> "_Bins":
        offsets = np.arange(0, interval.end - interval.start, step)
        edges = (
            np.append(interval.start, interval.end - offsets[::-1])
            if interval.reverse
            else np.append(interval.start + offsets, interval.end)
        )
        return cls(interval, edges, np.zeros((len(offsets), classes)), np.zeros(len(offsets), np.int64))

    def add(self, start: int, end: int, values: NDArray[np.float32]) -> None:
        first, last = np.searchsorted(self.edges, (start, end))
        self.sums[first:last] += values
        self.windows[first:last] += 1

    def finish(self) -> Piece:
        scored = self.windows > 0
        means = self.sums[scored] / self.windows[scored, None]
        return Piece(
            self.interval.contig,
            self.interval.strand,
            self.edges[:-1][scored],
            self.edges[1:][scored],
            means.astype(np.float32),
        )


@dataclass
class ClassTrack:
    """Predictions of a classifier or regression in bins; iterate once.

    Windows with more unknown letters than A, C, G and T are not scored, and bins without a scored window have no value.

    Attributes:
        model: a classifier.
        stretches: the stretches to cover.
        window: bases per window, a multiple of ``step``.
        step: bases per bin, and from one window to the next.
        max_tokens: maximum input length in tokens; by default as in training.
        batch_tokens: tokens per batch; by default 4,096 on a CPU, 65,536 per device elsewhere.
        title: title of a progress bar; None shows none.
        unscored: number of windows that were not scored, once the track has been computed.

    Raises:
        UserError: not a classifier, or a window that is not a multiple of the step.
    """

    model: InferenceModel
    stretches: Stretches
    window: int
    step: int
    max_tokens: int | None = None
    batch_tokens: int | None = None
    title: str | None = None
    unscored: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.model.need("classifier", "a track of classes", "train one with `dnabert2 finetune`")
        if self.step < 1 or self.window < self.step or self.window % self.step:
            raise UserError(
                f"--window {self.window} --step {self.step}: a window must be a multiple of the step, so that it covers "
                "whole bins"
            )

    @property
    def channels(self) -> tuple[str, ...]:
        """Class names; the measurement's name for a regression."""
        return self.model.labels

    @property
    def windows(self) -> int:
        """Number of windows over all stretches."""
        return sum(len(starts_of_windows(i.end - i.start, self.window, self.step)) for i in self.stretches)

    def __iter__(self) -> Iterator[Piece]:
        """One piece per stretch, in order.

        Raises:
            UserError: out of memory.
        """
        bins: _Bins | None = None
        bar = ProgressBar(self.title, self.windows) if self.title else None
        with bar or nullcontext():
            for rows in self._chunks():
                for (interval, start, end, _), values in zip(rows, self._outputs(rows), strict=True):
                    if bins is None or bins.interval is not interval:
                        if bins is not None:
                            yield bins.finish()
                        bins = _Bins.of(interval, self.step, len(self.channels))
                    bins.add(start, end, values)
                if bar:
                    bar.advance(len(rows))
        if bins is not None:
            yield bins.finish()

    def _chunks(self) -> Iterator[list[tuple[Interval, int, int, str]]]:
        """Windows to score, in chunks that fit in memory."""
        self.unscored = 0
        most, rows, size = bases_of_a_chunk(self.batch_tokens), list[tuple[Interval, int, int, str]](), 0
        for interval in self.stretches:
            for start, end in windows_of(interval, self.window, self.step):
                letters = letters_of(self.stretches.reference, interval, start, end, LetterCounts())
                if 2 * sum(map(letters.count, BASES)) < len(letters):
                    self.unscored += 1
                    continue
                rows.append((interval, start, end, letters))
                size += end - start
                if size >= most:
                    yield rows
                    rows, size = [], 0
        if rows:
            yield rows

    def _outputs(self, rows: list[tuple[Interval, int, int, str]]) -> NDArray[np.float32]:
        names = [f"{interval.contig}:{start + 1}-{end}" for interval, start, end, _ in rows]
        sequences = Sequences(self.stretches.source, names, [row[3] for row in rows], None, LetterCounts())
        return predict(self.model, sequences, max_tokens=self.max_tokens, batch_tokens=self.batch_tokens).outputs
