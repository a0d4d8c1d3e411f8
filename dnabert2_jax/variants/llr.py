"""The probability of a string of bases: summed over its segmentations, normalized over all strings of its length.

A masked language model gives, for b masked slots, the probabilities p_j of the pieces at each slot j. With the slots
independent given their context (the one approximation), a string s has the weight

    F_b(s) = sum over the segmentations of s into b pieces of the product of p_j(piece j),

and all strings of length l together have Z_b(l), the value at l of the convolution of the slots' piece lengths. F_b(s) /
Z_b(|s|) is a distribution over the 4^l strings of length l; over several b the mean is taken. Nothing is enumerated: F is a
sum over paths through a graph with an edge from i to k for each piece that spells s[i:k], one slot after the other. All
strings of a batch are one graph, so that each slot is a few operations on arrays.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.genome.letters import BASES
from dnabert2_jax.tokenizer.base import Tokenizer

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]


class Graph(NamedTuple):
    """The pieces within some strings; each string has a node before each of its bases and one after the last.

    Attributes:
        starts: first node of each string. [strings].
        sizes: nodes of each string, its bases and one. [strings].
        sources: node where a piece begins. [edges].
        targets: node where it ends. [edges].
        columns: which piece it is, among those of :class:`DnaPieces`. [edges].
    """

    starts: Numbers
    sizes: Numbers
    sources: Numbers
    targets: Numbers
    columns: Numbers


class DnaPieces:
    """The pieces of a tokenizer that spell bases, by length.

    Args:
        tokenizer: byte pairs or non-overlapping k-mers.

    Attributes:
        ids: the id of each of them; the shorter ones come first. [P].
        lengths: the lengths that occur, ascending.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        known = [number for number, piece in enumerate(tokenizer.pieces) if piece and set(piece) <= set(BASES)]
        self.ids = np.array(sorted(known, key=lambda number: len(tokenizer.pieces[number])), np.int64)
        lengths = tokenizer.piece_lengths[self.ids].astype(np.int64)
        self.lengths, self._first_of_length = np.unique(lengths, return_index=True)
        # A tree of letters: node 0 is where no piece leads, node 1 the root, and a letter that is no base leads nowhere.
        children: list[list[int]] = [[0] * _LETTERS, [0] * _LETTERS]
        spelled = [_NONE, _NONE]
        for column, number in enumerate(self.ids):
            node = 1
            for letter in _letters(tokenizer.pieces[number]).tolist():
                if not children[node][letter]:
                    children[node][letter] = len(children)
                    children.append([0] * _LETTERS)
                    spelled.append(_NONE)
                node = children[node][letter]
            spelled[node] = column
        self._children, self._spelled = np.array(children), np.array(spelled)

    def graph(self, strings: Sequence[str]) -> Graph:
        """All the pieces within some strings of upper-case letters."""
        sizes = np.array([len(string) + 1 for string in strings], np.int64)
        letters = _letters("N".join(strings) + "N" * (1 + int(self.lengths[-1])))
        at = np.arange(sizes.sum())
        node = np.ones_like(at)
        edges = []
        for length in range(1, int(self.lengths[-1]) + 1):
            node = self._children[node, letters[at + length - 1]]
            at, node = at[node > 0], node[node > 0]
            if not len(at):
                break
            column = self._spelled[node]
            is_piece = column != _NONE
            edges.append((at[is_piece], at[is_piece] + length, column[is_piece]))
        sources, targets, columns = (np.concatenate(part) for part in zip(*edges, strict=True))
        return Graph(np.cumsum(sizes) - sizes, sizes, sources, targets, columns)

    def masses(self, weights: Floats) -> Floats:
        """The sum of weights [..., P] over the pieces of each length. [..., lengths]."""
        return np.add.reduceat(weights, self._first_of_length, axis=-1)


def log_ratios(log_p: NDArray[np.floating], rows: NDArray[np.integer], strings: Sequence[str], pieces: DnaPieces) -> Floats:
    """Each string's ln F_b(s) - ln Z_b(|s|); NaN where no b pieces have that many bases together. [strings].

    Args:
        log_p: log-probabilities of the pieces at each of b slots of some inputs, up to a constant for each slot; ids that
            are no DNA are ignored. [R, b, V].
        rows: of which input each string is asked. [strings].
        strings: upper-case A, C, G and T.
        pieces: the tokenizer's.
    """
    own = np.take(log_p, pieces.ids, axis=-1)
    weights = np.subtract(own, own.max(-1, keepdims=True), dtype=np.float64)
    np.exp(weights, out=weights)  # in place: of a large vocabulary this is most of the work
    graph = pieces.graph(strings)
    # The strings of a site have one length or two: Z is computed once for each.
    longest = int(graph.sizes.max())
    asked, place = np.unique(rows * longest + graph.sizes - 1, return_inverse=True)
    log_z = _log_totals(pieces.masses(weights)[asked // longest], asked % longest, pieces.lengths)[place]
    with np.errstate(invalid="ignore"):
        return np.where(np.isneginf(log_z), np.nan, _log_sums(weights, rows, graph) - log_z)


def log_mean(log_ratios: Floats) -> Floats:
    """The logarithm of the mean over b of probabilities given as logarithms; NaN does not take part. [b, n] -> [n]."""
    top = np.fmax.reduce(log_ratios, axis=0)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return top + np.log(np.nanmean(np.exp(log_ratios - top), axis=0))


def _log_sums(weights: Floats, rows: NDArray[np.integer], graph: Graph) -> Floats:
    """The logarithm of F_b of each string."""
    slots = weights.shape[1]
    string = np.repeat(np.arange(len(rows)), graph.sizes)  # of each node
    bases_left = np.repeat(graph.starts + graph.sizes - 1, graph.sizes) - np.arange(len(string))
    row = rows[string[graph.sources]]
    sums: Floats = np.zeros(len(string))  # of all ways to get to a node
    sums[graph.starts] = 1
    scale = np.zeros(len(rows))
    for slot in range(slots):
        ways = sums[graph.sources] * weights[row, slot, graph.columns]
        sums = np.bincount(graph.targets, ways, len(string)).astype(np.float64, copy=False)
        # Later slots need a base each. What cannot end at the end must not set the scale.
        sums[bases_left < slots - 1 - slot] = 0
        top = np.maximum.reduceat(sums, graph.starts)
        top[top == 0] = 1
        sums, scale = sums / top[string], scale + np.log(top)
    with np.errstate(divide="ignore"):
        return scale + np.log(sums[graph.starts + graph.sizes - 1])


def _log_totals(masses: Floats, wanted: Numbers, lengths: Numbers) -> Floats:
    """The logarithm of Z_b of a length for each row.

    Args:
        masses: of the pieces of each length at each slot. [rows, b, lengths].
        wanted: the length that is asked of each row. [rows].
        lengths: of the pieces.
    """
    slots = masses.shape[1]
    total = np.zeros((len(masses), 1 + int(wanted.max())))
    total[:, 0] = 1
    scale = np.zeros(len(masses))
    place = np.arange(total.shape[1])
    for slot in range(slots):
        before, total = total, np.zeros_like(total)
        for number, length in enumerate(lengths[lengths < len(place)].tolist()):
            total[:, length:] += before[:, :-length] * masses[:, slot, number, None]
        total[place > (wanted - (slots - 1 - slot))[:, None]] = 0
        top = total.max(1)
        top[top == 0] = 1
        total, scale = total / top[:, None], scale + np.log(top)
    with np.errstate(divide="ignore"):
        return scale + np.log(total[np.arange(len(masses)), wanted])


def _letters(text: str) -> NDArray[np.uint8]:
    """Each letter's number among the bases, 4 for any other."""
    return _NUMBER_OF_LETTER[np.frombuffer(text.encode("ascii"), np.uint8)]


_NONE = -1
_LETTERS = len(BASES) + 1
_NUMBER_OF_LETTER = np.full(256, len(BASES), np.uint8)
_NUMBER_OF_LETTER[np.frombuffer(BASES.encode(), np.uint8)] = np.arange(len(BASES))
