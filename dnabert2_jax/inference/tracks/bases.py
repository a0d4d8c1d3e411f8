"""Tracks of a masked language model: the probability of each base, given everything around its token.

Windows are read with flanking bases. Each of eight passes masks every eighth token, so that every token is masked once. The
model predicts pieces; the probability of a letter at a position of a token is the probability of the pieces with that letter
there, among the pieces of the token's length. Token boundaries thus stay those of the genome's sequence.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.config.inference import TrackValues
from dnabert2_jax.data.intervals import Interval, letters_of
from dnabert2_jax.data.packing import padded_width
from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.letters import BASES, LetterCounts, base_codes
from dnabert2_jax.inference.interval_scan import windows_of
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.inference.predictor import default_batch_tokens
from dnabert2_jax.inference.scan import bases_of_a_chunk, starts_of_windows
from dnabert2_jax.inference.tracks.stretches import Piece, Stretches
from dnabert2_jax.progress import ProgressBar
from dnabert2_jax.tokenizer.base import Tokenizer
from dnabert2_jax.tokenizer.bpe import BpeTokenizer
from dnabert2_jax.tokenizer.special import MASK, NUM_SPECIAL, PAD, UNK, with_template
from dnabert2_jax.types import TokenBatch

PASSES = 8
HALO = 64
"""Bases read on each side of a window. Within a few bases of a cut, the tokens are those of the whole sequence again (at
most 35 bases in 4,000 cuts of human DNA, with the released tokenizer); if 64 bases are not enough, more are read."""

CHANNELS: dict[TrackValues, tuple[str, ...]] = {
    "auto": ("logp", "entropy"),
    "logp": ("logp",),
    "entropy": ("entropy",),
    "logo": tuple(BASES),
}
"""The tracks for each choice of values."""


class _Window(NamedTuple):
    """A window of an interval, with its flanks as tokens, on the interval's strand.

    Attributes:
        interval: its interval.
        start: its first base in the contig, from 0.
        end: one past its last base.
        letters: its letters and those of its flanks.
        core: index in ``letters`` of its own first base.
        ids: tokens of ``letters``.
    """

    interval: Interval
    start: int
    end: int
    letters: str
    core: int
    ids: NDArray[np.int32]


class BaseProbabilities:
    """Converts probabilities of pieces to probabilities of bases.

    Args:
        tokenizer: a byte-pair tokenizer.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._lengths = tokenizer.piece_lengths
        pieces = {n: piece for n, piece in enumerate(tokenizer.pieces) if n >= NUM_SPECIAL and not piece.strip(BASES)}
        self._by_length = {
            length: self._table([n for n, piece in pieces.items() if len(piece) == length], tokenizer.pieces)
            for length in sorted({len(piece) for piece in pieces.values()})
        }

    def _table(self, numbers: list[int], pieces: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Pieces of one length, and the one-hot letters of their bases, [pieces, length x 4]."""
        letters = np.array([base_codes(pieces[n]) for n in numbers])
        return np.array(numbers), np.eye(len(BASES))[letters].reshape(len(numbers), -1)

    def __call__(self, ids: NDArray[np.int32], probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
        """Probabilities of A, C, G and T at each base of the tokens.

        Args:
            ids: the tokens, pieces of DNA. [n].
            probabilities: of every piece of the vocabulary at each token. [n, V].

        Returns:
            [bases of all n tokens, 4]; each row sums to 1. Rows are NaN where no piece of the length has a probability above
            0 in float32.
        """
        lengths = self._lengths[ids]
        ends = np.cumsum(lengths)
        found = np.empty((int(lengths.sum()), len(BASES)))
        for length in np.unique(lengths).tolist():
            numbers, letters = self._by_length[length]
            own = np.flatnonzero(lengths == length)
            masses = probabilities[own][:, numbers].astype(np.float64)
            with np.errstate(invalid="ignore"):
                shares = masses @ letters / masses.sum(1, keepdims=True)
            rows = (ends[own] - length)[:, None] + np.arange(length)
            found[rows] = shares.reshape(len(own), length, len(BASES))
        return found


@dataclass
class BaseTrack:
    """Values of a masked language model at every base; iterate to compute them.

    Bases in tokens of [UNK] (N and other codes) have no value.

    Attributes:
        model: a masked language model with a byte-pair tokenizer.
        stretches: the stretches to cover.
        window: bases per window, not counting the halo.
        values: what to compute.
        batch_tokens: tokens per batch; by default 4,096 on a CPU, 65,536 per device elsewhere.
        title: title of a progress bar; None shows none.

    Raises:
        UserError: another kind of model or tokenizer, or a window without bases.
    """

    model: InferenceModel
    stretches: Stretches
    window: int
    values: TrackValues = "auto"
    batch_tokens: int | None = None
    title: str | None = None

    def __post_init__(self) -> None:
        self.model.need("masked_lm", "a track of bases", "use the model directory of `dnabert2 pretrain`")
        if not isinstance(self.model.tokenizer, BpeTokenizer):
            raise UserError(
                f"{self.model.path} has a tokenizer of k-mers, whose neighbors give a masked token away or whose boundaries "
                "depend on where a window begins; a track of bases needs a byte-pair tokenizer"
            )
        if self.window < 1:
            raise UserError(f"--window {self.window}: a window needs at least 1 base")

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the tracks."""
        return CHANNELS[self.values]

    @property
    def windows(self) -> int:
        """Number of windows over all stretches."""
        return sum(len(starts_of_windows(i.end - i.start, self.window, self.window)) for i in self.stretches)

    def __iter__(self) -> Iterator[Piece]:
        """One piece for each window, in the order of the stretches.

        Raises:
            UserError: out of memory.
        """
        bar = ProgressBar(self.title, self.windows) if self.title else None
        with bar or nullcontext():
            for windows in self._chunks():
                for window, (places, probabilities) in zip(windows, self.probabilities(windows), strict=True):
                    if len(places):
                        yield self._piece(window, places, probabilities)
                if bar:
                    bar.advance(len(windows))

    def probabilities(self, windows: Sequence[_Window]) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """For each window: positions of its scored bases, from its start, and the probabilities there, [positions, 4]."""
        rows = [(n, masked) for n, window in enumerate(windows) for masked in _passes(window)]
        rows.sort(key=lambda row: -len(windows[row[0]].ids))  # so that rows of a batch have about the same length
        bases = np.array([window.end - window.start for window in windows])
        firsts = np.cumsum(bases) - bases
        values = np.full((int(bases.sum()), len(BASES)), np.nan)  # at the bases of all windows
        begins = list(map(self._begins, windows))
        for group, outputs in self._run(windows, rows):
            counts = [len(masked) for _, masked in group]
            ids = np.concatenate([windows[n].ids[masked] for n, masked in group])
            found = self._to_bases(ids, outputs[np.arange(outputs.shape[1]) < np.array(counts)[:, None]])
            lengths = self.model.tokenizer.token_bases(ids)
            starts = np.concatenate([begins[n][masked] for n, masked in group])
            places = np.arange(len(found)) + np.repeat(starts - np.cumsum(lengths) + lengths, lengths)
            window = np.repeat(np.repeat([n for n, _ in group], counts), lengths)
            inside = (places >= 0) & (places < bases[window])
            values[(firsts[window] + places)[inside]] = found[inside]
        scored = [np.flatnonzero(own) for own in np.split(np.isfinite(values).all(1), firsts[1:])]
        return [(own, values[first + own]) for own, first in zip(scored, firsts.tolist(), strict=True)]

    @cached_property
    def _to_bases(self) -> BaseProbabilities:
        return BaseProbabilities(self.model.tokenizer)

    def _chunks(self) -> Iterator[list[_Window]]:
        chunk, size, most = list[_Window](), 0, bases_of_a_chunk(self.batch_tokens) // PASSES
        for interval in self.stretches:
            for start, end in windows_of(interval, self.window, self.window):
                chunk.append(self._window(interval, start, end))
                size += end - start
                if size >= most:
                    yield chunk
                    chunk, size = [], 0
        if chunk:
            yield chunk

    def _window(self, interval: Interval, start: int, end: int) -> _Window:
        """A window with enough flanking bases that its tokens are those of the whole contig."""
        letters = letters_of(self.stretches.reference, interval, start, end, LetterCounts())
        if not set(letters) & set(BASES):  # a gap of the assembly, where no base has a value
            return _Window(interval, start, end, letters, 0, np.empty(0, np.int32))
        halo = HALO
        window = self._with_halo(interval, start, end, halo)
        while True:
            halo *= 2
            wider = self._with_halo(interval, start, end, halo)
            if self._tokens_inside(window) == self._tokens_inside(wider):
                return window
            window = wider

    def _with_halo(self, interval: Interval, start: int, end: int, halo: int) -> _Window:
        first, last = max(0, start - halo), min(self.stretches.reference.lengths[interval.contig], end + halo)
        letters = letters_of(self.stretches.reference, interval, first, last, LetterCounts())
        ids = np.array(self.model.tokenizer.encode_raw(letters), np.int32)
        return _Window(interval, start, end, letters, last - end if interval.reverse else start - first, ids)

    def _tokens_inside(self, window: _Window) -> list[tuple[int, int]]:
        """Position, from the window's start, and id of each token that overlaps the window."""
        begins = self._begins(window)
        ends = begins + self.model.tokenizer.token_bases(window.ids)
        inside = (ends > 0) & (begins < window.end - window.start)
        return list(zip(begins[inside].tolist(), window.ids[inside].tolist(), strict=True))

    def _begins(self, window: _Window) -> NDArray[np.int64]:
        """Position of each token's first base, from the window's start. [tokens]."""
        lengths = self.model.tokenizer.token_bases(window.ids)
        return np.cumsum(lengths) - lengths - window.core

    def _run(
        self, windows: Sequence[_Window], rows: Sequence[tuple[int, NDArray[np.int64]]]
    ) -> Iterator[tuple[Sequence[tuple[int, NDArray[np.int64]]], NDArray[np.float32]]]:
        """Rows, a batch at a time, with the probabilities of all pieces at their masked tokens, [rows, K, V]."""
        at = 0
        while at < len(rows):
            width = padded_width(len(windows[rows[at][0]].ids) + 2)
            most = max(1, (self.batch_tokens or default_batch_tokens()) // width)
            group = rows[at : at + most]
            at += len(group)
            height = min(most, 1 << (len(group) - 1).bit_length())  # few shapes, since each is compiled
            ids = np.full((height, width), PAD, np.int32)
            slots = np.zeros((height, -(-width // PASSES)), np.int32)
            for n, (window, masked) in enumerate(group):
                tokens = windows[window].ids.copy()
                tokens[masked] = MASK
                ids[n, : len(tokens) + 2] = with_template(tokens)
                slots[n, : len(masked)] = masked + 1
            segments = (ids != PAD).astype(np.int32)
            tokens_of_rows = TokenBatch(ids, segments, np.zeros_like(segments))
            yield group, self.model.predictor.token_probabilities(tokens_of_rows, slots)[: len(group)]

    def _piece(self, window: _Window, places: NDArray[np.int64], probabilities: NDArray[np.float64]) -> Piece:
        values = _values(window.letters[window.core :], places, probabilities)
        columns = np.stack([values[name] for name in self.channels], axis=1).astype(np.float32)
        starts = window.start + places
        if window.interval.reverse:
            starts, columns = (window.end - 1 - places)[::-1], columns[::-1]
        return Piece(window.interval.contig, window.interval.strand, starts, starts + 1, columns)


def _passes(window: _Window) -> list[NDArray[np.int64]]:
    """The tokens that each pass masks: every eighth, except unknown bases."""
    masked = [np.arange(first, len(window.ids), PASSES) for first in range(PASSES)]
    known = [own[window.ids[own] != UNK] for own in masked]
    return [own for own in known if len(own)]


def _values(letters: str, places: NDArray[np.int64], probabilities: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Every channel at the scored bases, [positions] each."""
    own = base_codes(letters)[places]
    tiny = np.finfo(np.float64).tiny
    logs = np.log2(np.maximum(probabilities, tiny))
    entropy = -(probabilities * logs).sum(1)
    heights = probabilities * (2 - entropy)[:, None]
    logp = np.log(np.maximum(probabilities[np.arange(len(places)), own], tiny))
    return {"logp": logp, "entropy": entropy, **{base: heights[:, n] for n, base in enumerate(BASES)}}
