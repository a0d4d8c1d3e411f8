"""Tracks of a model that labels every base: the probability of each label at each base.

Windows are read with flanking context that is not written, so that each base is written once, with context on both sides
except at the ends of contigs.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.data.base_windows import encode_bases
from dnabert2_jax.data.intervals import Interval, letters_of
from dnabert2_jax.data.packing import one_per_row
from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.letters import LetterCounts, base_codes
from dnabert2_jax.inference.interval_scan import windows_of
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.inference.predictor import default_batch_tokens
from dnabert2_jax.inference.scan import bases_of_a_chunk, starts_of_windows
from dnabert2_jax.inference.tracks.stretches import Piece, Stretches
from dnabert2_jax.progress import ProgressBar

CONTEXT = 8
"""One in this many bases of a window is context, on each side."""

LEAST_CONTEXT = 64
"""Minimum bases of context on each side, enough for the tokens of a window to be those of the whole contig."""


class _Window(NamedTuple):
    """A stretch of bases to be written and its context, on the interval's strand.

    Attributes:
        interval: its interval.
        start: first base to be written, in the contig, from 0.
        end: one past the last base.
        letters: the letters of the stretch and of its context.
        core: index in ``letters`` of the first base to be written.
    """

    interval: Interval
    start: int
    end: int
    letters: str
    core: int


@dataclass
class LabelTrack:
    """Probabilities of labels at every base; iterate to compute them.

    Bases that are not A, C, G or T have no value.

    Attributes:
        model: a model that labels every base.
        stretches: the stretches to cover.
        window: bases per window, context included; by default as in training.
        batch_tokens: tokens per batch; by default 4,096 on a CPU, 65,536 per device elsewhere.
        title: title of a progress bar; None shows none.

    Raises:
        UserError: another kind of model, or a window that is all context.
    """

    model: InferenceModel
    stretches: Stretches
    window: int | None = None
    batch_tokens: int | None = None
    title: str | None = None

    def __post_init__(self) -> None:
        self.model.need("base_classifier", "a track of labels", "train one with `dnabert2 finetune` and data.task=per_base")
        if self.read - 2 * self.context < 1:
            raise UserError(
                f"--window {self.read}: a window needs more than {2 * LEAST_CONTEXT} bases, because {LEAST_CONTEXT} on "
                "either side are context"
            )

    @property
    def read(self) -> int:
        """Bases of a window, context included."""
        return self.model.head.window if self.window is None else self.window

    @property
    def context(self) -> int:
        """Bases of context on each side of a window."""
        return max(LEAST_CONTEXT, self.read // CONTEXT)

    @property
    def written(self) -> int:
        """Bases of a window that are written."""
        return self.read - 2 * self.context

    @property
    def channels(self) -> tuple[str, ...]:
        """The labels, without the background class."""
        return self.model.labels[self._first :]

    @property
    def _first(self) -> int:
        return 0 if self.model.head.several else 1

    @property
    def windows(self) -> int:
        """Number of windows over all stretches."""
        return sum(len(starts_of_windows(i.end - i.start, self.written, self.written)) for i in self.stretches)

    def __iter__(self) -> Iterator[Piece]:
        """One piece for each window, in the order of the stretches.

        Raises:
            UserError: out of memory.
        """
        bar = ProgressBar(self.title, self.windows) if self.title else None
        with bar or nullcontext():
            for windows in self._chunks():
                yield from self._pieces(windows)
                if bar:
                    bar.advance(len(windows))

    def _chunks(self) -> Iterator[list[_Window]]:
        """Windows in chunks that fit in memory."""
        chunk, size, most = list[_Window](), 0, bases_of_a_chunk(self.batch_tokens)
        for interval in self.stretches:
            for start, end in windows_of(interval, self.written, self.written):
                chunk.append(self._window(interval, start, end))
                size += self.read
                if size >= most:
                    yield chunk
                    chunk, size = [], 0
        if chunk:
            yield chunk

    def _window(self, interval: Interval, start: int, end: int) -> _Window:
        reference = self.stretches.reference
        first, last = max(0, start - self.context), min(reference.lengths[interval.contig], end + self.context)
        letters = letters_of(reference, interval, first, last, LetterCounts())
        return _Window(interval, start, end, letters, last - end if interval.reverse else start - first)

    def _pieces(self, windows: Sequence[_Window]) -> Iterator[Piece]:
        """The values of the windows that have any."""
        known = [base_codes(w.letters)[w.core :][: w.end - w.start] >= 0 for w in windows]
        scored = [n for n, own in enumerate(known) if own.any()]
        if not scored:
            return
        for n, outputs in zip(scored, self._outputs([windows[n].letters for n in scored]), strict=True):
            window, places = windows[n], np.flatnonzero(known[n])
            values, starts = outputs[window.core + places], window.start + places
            if window.interval.reverse:
                starts, values = (window.end - 1 - places)[::-1], values[::-1]
            yield Piece(window.interval.contig, window.interval.strand, starts, starts + 1, values)

    def _outputs(self, letters: Sequence[str]) -> NDArray[np.float32]:
        """Probabilities of the channels, [windows, L, channels]."""
        encoded = encode_bases(letters, self.model.tokenizer, self.read)
        batches = one_per_row(encoded, self.batch_tokens or default_batch_tokens())
        return self.model.predictor.class_outputs(batches)[..., self._first :]
