"""The probability of a string of bases: summed over its segmentations, normalized over all strings of its length.

A masked language model gives, for b masked slots, the probabilities p_j of the pieces at each slot j. If slots are
independent given their context (the only approximation), a string s has the weight

    F_b(s) = sum over the segmentations of s into b pieces of the product of p_j(piece j),

and all strings of length l together have Z_b(l), the value at l of the convolution over slots of the weights of piece
lengths. F_b(s) / Z_b(|s|) is a distribution over the 4^l strings of length l; it is averaged over several b. Nothing is
enumerated: F is a sum over paths through a graph with an edge from i to k for each piece that spells s[i:k], slot by slot.
All strings of a batch form one graph, so that each slot takes a few array operations.
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
        sizes: number of nodes of each string, one more than its bases. [strings].
        sources: node where a piece begins. [edges].
        targets: node where it ends. [edges].
        pieces: id of the piece. [edges].
    """

    starts: Numbers
    sizes: Numbers
    sources: Numbers
    targets: Numbers
    pieces: Numbers


class DnaPieces:
    """The pieces of a tokenizer that consist of bases, sorted by length.

    Args:
        tokenizer: byte pairs or non-overlapping k-mers.

    Attributes:
        ids: the id of each piece; shorter pieces come first. [P].
        lengths: the distinct lengths, ascending.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        known = [number for number, piece in enumerate(tokenizer.pieces) if piece and set(piece) <= set(BASES)]
        self.ids = np.array(sorted(known, key=lambda number: len(tokenizer.pieces[number])), np.int64)
        lengths = tokenizer.piece_lengths[self.ids].astype(np.int64)
        self.lengths, self._first_of_length = np.unique(lengths, return_index=True)
        # A trie of the pieces, as one array: the child of a node for each letter is at node + letter. The first node is a
        # dead end, to which letters other than bases lead, the second one is the root.
        children = [_DEAD_END] * 2 * _LETTERS
        spelled = {}
        for number in self.ids.tolist():
            node = _ROOT
            for letter in _letters(tokenizer.pieces[number]).tolist():
                if children[node + letter] == _DEAD_END:
                    children[node + letter] = len(children)
                    children += [_DEAD_END] * _LETTERS
                node = children[node + letter]
            spelled[node] = number
        self._children = np.array(children)
        self._spelled = np.array([spelled.get(node, _NONE) for node in range(len(children))])

    def graph(self, strings: Sequence[str]) -> Graph:
        """The graph of all pieces within some strings of upper-case letters."""
        sizes = np.array([len(string) + 1 for string in strings], np.int64)
        letters = _letters("N".join(strings) + "N" * (1 + int(self.lengths[-1])))
        at = np.arange(sizes.sum())
        node = np.full_like(at, _ROOT)
        paths = []
        for length in range(1, int(self.lengths[-1]) + 1):
            node = self._children[node + letters[at + (length - 1)]]
            alive = node.nonzero()[0]
            if not len(alive):
                break
            at, node = at[alive], node[alive]
            paths.append((at, at + length, node))
        sources, targets, node = (np.concatenate(part) for part in zip(*paths, strict=True))
        pieces = self._spelled[node]
        edges = np.flatnonzero(pieces != _NONE)
        return Graph(np.cumsum(sizes) - sizes, sizes, sources[edges], targets[edges], pieces[edges])

    def masses(self, log_p: NDArray[np.floating]) -> tuple[Floats, Floats]:
        """The total weights of the pieces of each length, relative to that of the most probable piece.

        Args:
            log_p: log-probabilities of all ids at each of b slots of some inputs. [R, b, V].

        Returns:
            The largest log-probability of a piece at each slot, [R, b], and the total weights, [R, b, lengths].
        """
        most, totals = np.empty(log_p.shape[:2]), np.empty((*log_p.shape[:2], len(self.lengths)))
        rows = max(1, _AT_ONCE // (log_p.shape[1] * len(self.ids)))
        for at in range(0, len(log_p), rows):
            own = np.take(log_p[at : at + rows], self.ids, axis=-1).astype(np.float64)
            most[at : at + rows] = own.max(-1)
            own -= most[at : at + rows, :, None]
            totals[at : at + rows] = np.add.reduceat(np.exp(own, out=own), self._first_of_length, axis=-1)
        return most, totals


def log_ratios(log_p: NDArray[np.floating], rows: NDArray[np.integer], strings: Sequence[str], pieces: DnaPieces) -> Floats:
    """Each string's ln F_b(s) - ln Z_b(|s|); NaN where no b pieces have that many bases in total. [strings].

    Args:
        log_p: log-probabilities of the pieces at each of b slots of some inputs, up to a constant for each slot; ids that
            are not DNA are ignored. [R, b, V].
        rows: index of the input for each string. [strings].
        strings: upper-case A, C, G and T.
        pieces: the tokenizer's DNA pieces.
    """
    most, masses = pieces.masses(log_p)
    graph = pieces.graph(strings)
    # The strings of a site have at most two lengths: Z is computed once per length.
    longest = int(graph.sizes.max())
    asked, place = np.unique(rows * longest + graph.sizes - 1, return_inverse=True)
    log_z = _log_totals(masses[asked // longest], asked % longest, pieces.lengths)[place]
    with np.errstate(invalid="ignore"):
        return np.where(np.isneginf(log_z), np.nan, _log_sums(log_p, most, rows, graph) - log_z)


def log_mean(log_ratios: Floats) -> Floats:
    """The logarithm of the mean over b of probabilities given as logarithms, ignoring NaN. [b, n] -> [n]."""
    top = np.fmax.reduce(log_ratios, axis=0)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return top + np.log(np.nanmean(np.exp(log_ratios - top), axis=0))


def _log_sums(log_p: NDArray[np.floating], most: Floats, rows: NDArray[np.integer], graph: Graph) -> Floats:
    """The logarithm of F_b of each string, relative to the most probable piece of each slot."""
    slots = log_p.shape[1]
    string = np.repeat(np.arange(len(rows)), graph.sizes)  # of each node
    bases_left = np.repeat(graph.starts + graph.sizes - 1, graph.sizes) - np.arange(len(string))
    row = rows[string[graph.sources]]
    at = row * (slots * log_p.shape[2]) + graph.pieces
    sums: Floats = np.zeros(len(string))  # over all paths to a node
    sums[graph.starts] = 1
    scale = np.zeros(len(rows))
    for slot in range(slots):
        ways = sums[graph.sources] * np.exp(log_p.take(at + slot * log_p.shape[2]) - most[row, slot])
        sums = np.bincount(graph.targets, ways, len(string)).astype(np.float64, copy=False)
        # Each later slot needs a base. Paths that cannot reach the end must not determine the scale.
        sums[bases_left < slots - 1 - slot] = 0
        top = np.maximum.reduceat(sums, graph.starts)
        top[top == 0] = 1
        sums, scale = sums / top[string], scale + np.log(top)
    with np.errstate(divide="ignore"):
        return scale + np.log(sums[graph.starts + graph.sizes - 1])


def _log_totals(masses: Floats, wanted: Numbers, lengths: Numbers) -> Floats:
    """The logarithm of Z_b for one length per row.

    Args:
        masses: total weight of the pieces of each length at each slot. [rows, b, lengths].
        wanted: the length for each row. [rows].
        lengths: lengths of the pieces.
    """
    slots = masses.shape[1]
    total = np.zeros((1 + int(wanted.max()), len(masses)))
    total[0] = 1
    scale = np.zeros(len(masses))
    place = np.arange(len(total))[:, None]
    for slot, own in enumerate(np.moveaxis(masses, 0, -1).copy()):  # [lengths, rows]
        before, total = total, np.zeros_like(total)
        for length, mass in zip(lengths[lengths < len(total)].tolist(), own, strict=False):
            total[length:] += before[:-length] * mass
        total[place > wanted - (slots - 1 - slot)] = 0
        top = total.max(0)
        top[top == 0] = 1
        total, scale = total / top, scale + np.log(top)
    with np.errstate(divide="ignore"):
        return scale + np.log(total[wanted, np.arange(len(scale))])


def _letters(text: str) -> NDArray[np.uint8]:
    """The index of each letter among the bases, 4 for any other letter."""
    return _NUMBER_OF_LETTER[np.frombuffer(text.encode("ascii"), np.uint8)]


_NONE = -1
_AT_ONCE = 2**16
"""Weights to compute at a time, so that they stay in the processor's cache: with many pieces they are most of the work."""

_LETTERS = len(BASES) + 1
_DEAD_END, _ROOT = 0, _LETTERS
_NUMBER_OF_LETTER = np.full(256, len(BASES), np.uint8)
_NUMBER_OF_LETTER[np.frombuffer(BASES.encode(), np.uint8)] = np.arange(len(BASES))
