"""Clusters of near-identical sequences, so that a split does not put one in train and another in test.

Similarity is the Jaccard index of the sets of canonical k-mers (a k-mer and its reverse complement count as one), so strand
and order do not matter. MinHash (Broder 1997) with locality-sensitive bands proposes pairs, and the exact index of each
decides: dissimilar sequences are never joined, and of pairs with an index of 0.25, one in 3,000 is missed. A short sequence
inside a much longer one has a low index and is not joined.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from dnabert2_jax.draws import hash64
from dnabert2_jax.genome.letters import base_codes

KMER = 12
"""Bases per k-mer: unrelated sequences of a few hundred bases share hardly any."""

_BANDS, _ROWS = 128, 2  # P(found) = 1 - (1 - similarity^2)^128: 0.9997 at 0.25

Kmers = NDArray[np.uint64]
"""Sorted codes of a sequence's distinct k-mers."""


def similar_groups(
    rows: Sequence[tuple[str, ...]], similarity: float, progress: Callable[[], object] = lambda: None
) -> NDArray[np.int64]:
    """A group number for each row: rows are in one group if a chain of similar rows connects them.

    Args:
        rows: the sequence of each row, or its pair, upper-case.
        similarity: minimum Jaccard index of k-mers that counts as similar, in (0, 1].
        progress: called after every row.

    Returns:
        As :func:`connected`. [rows].
    """
    links: list[tuple[int, int]] = []
    sets: list[Kmers] = []
    representatives: dict[tuple[int, int], list[int]] = defaultdict(list)
    for row, sequences in enumerate(rows):
        sets.append(canonical_kmers(sequences))
        compared: dict[int, bool] = {}
        for band, key in enumerate(_band_keys(sets[-1]).tolist()):
            known = representatives[band, key]
            for other in known:
                if other not in compared:
                    compared[other] = jaccard(sets[other], sets[row]) >= similarity
                if compared[other]:
                    links.append((other, row))
                    break
            else:
                known.append(row)
        progress()
    return connected(links, len(rows))


def connected(links: Sequence[tuple[int, int]], rows: int) -> NDArray[np.int64]:
    """Group numbers of some rows, from 0: rows that are linked, directly or through others, are in one group. [rows]."""
    ends = np.array(links, np.int64).reshape(-1, 2).T
    _, groups = connected_components(coo_matrix((np.ones(len(links)), (ends[0], ends[1])), (rows, rows)), directed=False)
    return np.asarray(groups, np.int64)


def canonical_kmers(sequences: Sequence[str]) -> Kmers:
    """The distinct canonical k-mers of some sequences; if there are none, a hash of the whole sequences stands in.

    K-mers with an ambiguity code are omitted.
    """
    found = [_kmers(sequence) for sequence in sequences]
    kmers = np.unique(np.concatenate(found))
    if not len(kmers):
        text = np.frombuffer("/".join(sequences).encode(), np.uint8).astype(np.uint64)
        kmers = np.atleast_1d(np.bitwise_xor.reduce(hash64(len(text), np.arange(len(text)), text)))
    return kmers


def jaccard(a: Kmers, b: Kmers) -> float:
    """Shared k-mers as a fraction of all k-mers."""
    common = len(np.intersect1d(a, b, assume_unique=True))
    return common / (len(a) + len(b) - common)


def _kmers(sequence: str) -> Kmers:
    codes = base_codes(sequence)
    if len(codes) < KMER:
        return np.empty(0, np.uint64)
    windows = np.lib.stride_tricks.sliding_window_view(codes, KMER)
    windows = windows[(windows >= 0).all(1)].astype(np.uint64)
    powers = np.uint64(4) ** np.arange(KMER, dtype=np.uint64)
    return np.minimum(windows @ powers, (np.uint64(3) - windows) @ powers[::-1])


def _band_keys(kmers: Kmers) -> NDArray[np.uint64]:
    """One key per band: rows that share a key may be similar."""
    minima = hash64(np.arange(_BANDS * _ROWS)[:, None], kmers[None, :]).min(1).reshape(_BANDS, _ROWS)
    return hash64(minima[:, 0], minima[:, 1])
