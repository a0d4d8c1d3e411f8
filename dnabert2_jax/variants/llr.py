"""The probability of a string of bases: summed over its segmentations, normalized over all strings of its length.

A masked language model gives, for b masked slots, the probabilities p_j of the pieces at each slot j. With the slots
independent given their context (the one approximation), a string s has the weight

    F_b(s) = sum over the segmentations of s into b pieces of the product of p_j(piece j),

and all strings of length l together have Z_b(l), the value at l of the convolution of the slots' piece lengths. F_b(s) /
Z_b(|s|) is a distribution over the 4^l strings of length l; over several b the mean is taken. Nothing is enumerated: F is a
product of b transfer matrices, whose entry (i, k) is the probability of the piece that spells s[i:k].
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.genome.letters import BASES
from dnabert2_jax.tokenizer.base import Tokenizer

Floats = NDArray[np.float64]


class DnaPieces:
    """The pieces of a tokenizer that spell bases.

    Args:
        tokenizer: byte pairs or non-overlapping k-mers.

    Attributes:
        known: which ids are such pieces. [V].
        lengths: bases of each id. [V].
        longest: bases of the longest piece.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.known = np.array([bool(piece) and set(piece) <= set(BASES) for piece in tokenizer.pieces])
        self.lengths = np.where(self.known, tokenizer.piece_lengths, 0)
        self.longest = int(self.lengths.max())
        self._ids = {piece: number for number, piece in enumerate(tokenizer.pieces) if self.known[number]}

    def matches(self, strings: Sequence[str]) -> NDArray[np.int64]:
        """The id that spells ``string[i:k]`` at [string, i, k], V where no piece does. [strings, l + 1, l + 1]."""
        size = max(map(len, strings)) + 1
        table = np.full((len(strings), size, size), len(self.known), np.int64)
        for number, string in enumerate(strings):
            for start in range(len(string)):
                for end in range(start + 1, min(start + self.longest, len(string)) + 1):
                    if (found := self._ids.get(string[start:end])) is not None:
                        table[number, start, end] = found
        return table


def log_ratios(log_p: NDArray[np.floating], strings: Sequence[str], pieces: DnaPieces) -> Floats:
    """Each string's ln F_b(s) - ln Z_b(|s|); NaN where no b pieces have that many bases together.

    Args:
        log_p: log-probabilities of the pieces at each of b slots, up to a constant for each slot; ids that are no DNA are
            ignored. [b, V].
        strings: upper-case A, C, G and T.
        pieces: the tokenizer's.
    """
    slots = len(log_p)
    weights = np.where(pieces.known, np.asarray(log_p, np.float64), -np.inf)
    weights = np.exp(weights - weights.max(1, keepdims=True))
    lengths = np.array([len(string) for string in strings])
    possible = (slots <= lengths) & (lengths <= slots * pieces.longest)
    totals = {int(length): _log_total(weights, int(length), pieces) for length in np.unique(lengths[possible])}
    log_z = np.array([totals.get(int(length), -np.inf) for length in lengths])
    with np.errstate(invalid="ignore"):
        return np.where(np.isneginf(log_z), np.nan, _log_sums(weights, strings, pieces) - log_z)


def log_mean(log_ratios: Floats) -> Floats:
    """The logarithm of the mean over b of probabilities given as logarithms; NaN does not take part. [b, n] -> [n]."""
    top = np.fmax.reduce(log_ratios, axis=0)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return top + np.log(np.nanmean(np.exp(log_ratios - top), axis=0))


def _log_sums(weights: Floats, strings: Sequence[str], pieces: DnaPieces) -> Floats:
    """The logarithm of F_b of each string."""
    slots = len(weights)
    ends = np.array([len(string) for string in strings])
    matches = pieces.matches(strings)
    padded = np.pad(weights, ((0, 0), (0, 1)))  # what no piece spells has the weight 0
    place = np.arange(matches.shape[1])
    sums = (place == 0).astype(np.float64)[None].repeat(len(strings), 0)  # of all ways to have spelled string[:i]
    scale = np.zeros(len(strings))
    for slot in range(slots):
        sums = np.matmul(sums[:, None], padded[slot][matches])[:, 0]
        # Later slots need a base each. What cannot end at the end must not set the scale.
        sums[place > (ends - (slots - 1 - slot))[:, None]] = 0
        sums, scale = _rescaled(sums, scale)
    with np.errstate(divide="ignore"):
        return scale + np.log(sums[np.arange(len(strings)), ends])


def _log_total(weights: Floats, length: int, pieces: DnaPieces) -> float:
    """The logarithm of Z_b of a length."""
    total, scale = np.ones((1, 1)), np.zeros(1)
    for slot, row in enumerate(weights):
        masses = np.bincount(pieces.lengths, row, pieces.longest + 1)
        keep = length - (len(weights) - 1 - slot) + 1
        total, scale = _rescaled(np.convolve(total[0], masses)[None, :keep], scale)
    if total.shape[1] <= length:
        return -np.inf
    with np.errstate(divide="ignore"):
        return float(scale[0] + np.log(total[0, length]))


def _rescaled(rows: Floats, scale: Floats) -> tuple[Floats, Floats]:
    """Rows divided by their largest value, whose logarithm is added to the scale."""
    top = rows.max(1)
    top = np.where(top > 0, top, 1.0)
    return rows / top[:, None], scale + np.log(top)
