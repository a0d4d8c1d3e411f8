"""BPE dropout (Provilkov et al. 2020): other segmentations of the same bases, as regularization.

Each merge that byte-pair encoding could make is left out with a given probability, once and for all, as in SentencePiece.
Which ones is decided by a hash of (seed, epoch, row, position, merge), so that a row is segmented in the same way on every
machine and in every batch; SentencePiece draws from a generator per thread.
"""

import hashlib
from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.draws import GOLDEN64, Domain, absorb, hash64, mix64
from dnabert2_jax.tokenizer.base import Tokenizer
from dnabert2_jax.tokenizer.bpe import BpeTokenizer, letter_codes
from dnabert2_jax.tokenizer.encoding import compiled, tree_of
from dnabert2_jax.tokenizer.merges import NONE, UNKNOWN
from dnabert2_jax.tokenizer.special import NUM_SPECIAL, UNK


class BpeDropout(Tokenizer):
    """A byte-pair tokenizer that leaves out merges; otherwise like the one that it wraps.

    Args:
        tokenizer: the tokenizer.
        rate: probability that a merge is left out, in [0, 1]; at 0, the tokens are the tokenizer's own.
        seed: of the run.
        epoch: each has segmentations of its own.
        by_letters: identify a row by its letters instead of its number, so that it does not depend on the other rows.
    """

    def __init__(self, tokenizer: BpeTokenizer, rate: float, *, seed: int, epoch: int, by_letters: bool = False) -> None:
        super().__init__(tokenizer.pieces[NUM_SPECIAL:], b"")
        self.sha256 = tokenizer.sha256
        self._decode = tokenizer.decode
        self._rate, self._key, self._by_letters = rate, hash64(seed, Domain.BPE_DROPOUT, epoch), by_letters
        children, ends = tree_of(tokenizer.texts)
        nodes = np.zeros(self.vocab_size, np.int32)
        nodes[ends[ends != NONE]] = np.flatnonzero(ends != NONE)
        self._tables = _Tables(children, ends, nodes, *np.ascontiguousarray(tokenizer.parts.T))

    def encode_raw_batch(self, sequences: Sequence[str], *, num_threads: int = 1) -> list[NDArray[np.int32]]:
        """The ids of sequences, without special tokens; ``num_threads`` is ignored.

        Args:
            sequences: upper-case A, C, G and T; any other character is one [UNK]. A sequence's place here is its row.
            num_threads: not used.

        Returns:
            An array of shape [tokens] for each sequence.
        """
        lengths = np.array([len(sequence) for sequence in sequences], np.int64)
        codes = np.minimum(letter_codes("".join(sequences)), np.uint8(UNKNOWN))
        keys = absorb(self._key, _hashes(sequences) if self._by_letters else np.arange(len(sequences)))
        ids, counts = _encode(codes, lengths, keys, float(self._rate), self._tables)
        return np.split(ids, np.cumsum(counts)[:-1])

    def decode(self, ids: Iterable[int]) -> str:
        """As for the wrapped tokenizer."""
        return self._decode(ids)


def _hashes(sequences: Sequence[str]) -> NDArray[np.uint64]:
    """A number for each sequence that depends on its letters alone."""
    digests = (hashlib.blake2b(sequence.encode(), digest_size=8).digest() for sequence in sequences)
    return np.frombuffer(b"".join(digests), "<u8")


class _Tables(NamedTuple):
    """Which neighbors merge, for ids from 0 to V - 1 and N nodes of the tree that holds the pieces letter by letter.

    Attributes:
        children: node reached from a node by a base, or ``NONE``; [N, 4].
        ends: id of the piece that ends at a node, or ``NONE``; [N].
        nodes: where a piece ends; [V].
        left: first part of a piece, or ``NONE``; [V].
        right: second part of a piece, or ``NONE``; [V].
    """

    children: NDArray[np.int32]
    ends: NDArray[np.int32]
    nodes: NDArray[np.int32]
    left: NDArray[np.int32]
    right: NDArray[np.int32]


@compiled
def _encode(
    codes: NDArray[np.uint8], lengths: NDArray[np.int64], keys: NDArray[np.uint64], rate: float, tables: _Tables
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The ids of sequences that lie one after another, and how many each has."""
    ids, counts = np.empty(len(codes), np.int32), np.zeros_like(lengths)
    count, start = 0, 0
    for row in range(len(lengths)):
        end = start + lengths[row]
        tokens = _merged(codes[start:end], keys[row], rate, tables)
        for at in range(len(tokens)):
            if tokens[at] != NONE:
                ids[count] = tokens[at]
                count += 1
                counts[row] += 1
        start = end
    return ids[:count].copy(), counts


@compiled
def _merged(codes: NDArray[np.uint8], key: np.uint64, rate: float, tables: _Tables) -> NDArray[np.int32]:
    """The token that begins at each letter of a sequence, or ``NONE``.

    The tokens form a linked list. A heap has the merges that are possible, as rank and place in one number, lowest first;
    ``wanted`` says which of them still are.
    """
    size = len(codes)
    tokens = np.empty(size, np.int32)
    for at in range(size):
        tokens[at] = UNK if codes[at] == UNKNOWN else NUM_SPECIAL + codes[at]
    after, before = np.arange(1, size + 1), np.arange(-1, size - 1)
    wanted = np.full(size, NONE, np.int64)
    for at in range(size):
        wanted[at] = _merge(codes, tokens, after, at, key, rate, tables)
    heap = [wanted[at] << 32 | at for at in range(size) if wanted[at] != NONE]
    heapify(heap)
    while len(heap):
        first = heappop(heap)
        merge, at = first >> 32, first & 0xFFFFFFFF
        if wanted[at] != merge:
            continue
        gone = after[at]
        tokens[at], after[at] = merge, after[gone]
        tokens[gone] = wanted[gone] = NONE
        if after[at] < size:
            before[after[at]] = at
        for place in (before[at], at):
            if place != NONE:
                wanted[place] = _merge(codes, tokens, after, place, key, rate, tables)
                if wanted[place] != NONE:
                    heappush(heap, wanted[place] << 32 | place)
    return tokens


@compiled
def _merge(
    codes: NDArray[np.uint8],
    tokens: NDArray[np.int32],
    after: NDArray[np.int64],
    at: int,
    key: np.uint64,
    rate: float,
    tables: _Tables,
) -> int:
    """What the token at a place merges into with the one after it; ``NONE`` if they do not, or if it is left out."""
    following = after[at]
    if following == len(codes) or tokens[at] == UNK or tokens[following] == UNK:
        return NONE
    node = tables.nodes[tokens[at]]
    for letter in range(following, after[following]):
        node = tables.children[node, codes[letter]]
        if node == NONE:
            return NONE
    merge = tables.ends[node]
    if merge == NONE or tables.left[merge] != tokens[at] or tables.right[merge] != tokens[following]:
        return NONE
    drawn = _absorb(_absorb(key, np.uint64(at)), np.uint64(merge))
    return NONE if (drawn >> np.uint64(11)) * 2.0**-53 < rate else merge


_mix64 = compiled(mix64)


@compiled
def _absorb(state: np.uint64, word: np.uint64) -> np.uint64:
    """:func:`~dnabert2_jax.draws.absorb` of one number."""
    return _mix64((state ^ word) + GOLDEN64)  # type: ignore[arg-type, return-value]
