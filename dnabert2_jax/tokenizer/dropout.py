"""BPE dropout (Provilkov et al. 2020): other segmentations of the same bases, as regularization.

Each merge that byte-pair encoding could make is left out with a given probability, once and for all, as in SentencePiece.
Which ones is decided by a hash of (seed, epoch, row, position, merge), so that a row is segmented in the same way on every
machine and in every batch; SentencePiece draws from a generator per thread.
"""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.draws import Domain, absorb, hash64
from dnabert2_jax.genome.letters import BASES
from dnabert2_jax.tokenizer.base import Tokenizer
from dnabert2_jax.tokenizer.bpe import FIRST_MERGE, BpeTokenizer
from dnabert2_jax.tokenizer.special import NUM_SPECIAL, UNK

_NONE = -1
_BASES_AT_ONCE = 500_000


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
        ids = {piece: number for number, piece in enumerate(self.pieces)}
        pairs = [(0, _NONE)]  # of [UNK] with itself: so that there is always a pair to find
        for merged, parts in enumerate(tokenizer.merges(), FIRST_MERGE):
            if parts is not None:
                pairs.append((ids[parts[0]] * self.vocab_size + ids[parts[1]], merged))
        self._pairs, self._merged = (np.array(column) for column in zip(*sorted(pairs), strict=True))

    def encode_raw_batch(self, sequences: Sequence[str], *, num_threads: int = 1) -> list[NDArray[np.int32]]:
        """The ids of sequences, without special tokens; ``num_threads`` is ignored.

        Args:
            sequences: upper-case A, C, G and T; any other character is one [UNK]. A sequence's place here is its row.
            num_threads: not used.

        Returns:
            An array of shape [tokens] for each sequence.
        """
        rows: list[NDArray[np.int32]] = []
        while len(rows) < len(sequences):
            chunk: list[str] = []
            bases = 0
            while len(rows) + len(chunk) < len(sequences) and (not chunk or bases < _BASES_AT_ONCE):
                chunk.append(sequences[len(rows) + len(chunk)])
                bases += len(chunk[-1])
            rows += self._encode(chunk, first=len(rows))
        return rows

    def decode(self, ids: Iterable[int]) -> str:
        """As for the wrapped tokenizer."""
        return self._decode(ids)

    def _encode(self, sequences: Sequence[str], first: int) -> list[NDArray[np.int32]]:
        """The ids of one chunk, whose first sequence has the number ``first``: all tokens form one linked list.

        A token's position is that of its first base. Merges are made in rank order, each at all positions at once.
        """
        lengths = np.array([len(sequence) for sequence in sequences])
        ends = np.cumsum(lengths)
        letters = np.frombuffer("".join(sequences).encode("ascii", "replace"), np.uint8)
        ids = _ID_OF_LETTER[letters]
        row = np.repeat(np.arange(len(sequences)), lengths)
        names = _hashes(sequences) if self._by_letters else np.arange(first, first + len(sequences))
        keys = absorb(absorb(self._key, names)[row], np.arange(len(ids)) - np.repeat(ends - lengths, lengths))
        after, before = np.arange(1, len(ids) + 1), np.arange(-1, len(ids) - 1)
        after[ends[lengths > 0] - 1] = _NONE
        before[(ends - lengths)[lengths > 0]] = _NONE

        def candidates(places: NDArray[np.int64]) -> NDArray[np.int64]:
            """What the token at each position merges into with the next one; ``_NONE`` if they do not, or it is left out."""
            nexts = after[places]
            code = np.where(nexts == _NONE, 0, ids[places].astype(np.int64) * self.vocab_size + ids[nexts])
            at = np.minimum(self._pairs.searchsorted(code), len(self._pairs) - 1)
            merged = np.where(self._pairs[at] == code, self._merged[at], _NONE)
            left_out = (absorb(keys[places], merged) >> np.uint64(11)).astype(np.float64) * 2.0**-53 < self._rate
            return np.where(left_out, _NONE, merged)

        merges = candidates(np.arange(len(ids)))
        for merged in range(FIRST_MERGE, self.vocab_size):
            places = np.flatnonzero(merges == merged)
            if not len(places):
                continue
            places = _every_other(places, after)
            gone = after[places]
            ids[places] = merged
            after[places] = after[gone]
            followed = places[after[places] != _NONE]
            before[after[followed]] = followed
            merges[gone] = _NONE
            changed = np.concatenate([places, before[places][before[places] != _NONE]])
            merges[changed] = candidates(changed)
            ids[gone] = _NONE
        return np.split(ids[ids != _NONE], np.cumsum(np.bincount(row[ids != _NONE], minlength=len(sequences)))[:-1])


def _hashes(sequences: Sequence[str]) -> NDArray[np.uint64]:
    """A number for each sequence that depends on its letters alone."""
    digests = (hashlib.blake2b(sequence.encode(), digest_size=8).digest() for sequence in sequences)
    return np.frombuffer(b"".join(digests), "<u8")


def _every_other(places: NDArray[np.int64], after: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of places whose tokens follow each other without a gap (as in AAAA), the first, third, ...: they share tokens."""
    number = np.arange(len(places))
    follows = np.append(False, after[places[:-1]] == places[1:])
    begins = np.maximum.accumulate(np.where(follows, 0, number))
    return places[(number - begins) % 2 == 0]


_ID_OF_LETTER = np.full(256, UNK, np.int32)
_ID_OF_LETTER[np.frombuffer(BASES.encode(), np.uint8)] = np.arange(NUM_SPECIAL, FIRST_MERGE)
