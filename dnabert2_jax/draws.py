"""Counter-based random numbers: every draw is a pure function of integers.

Crops, masks and dropout must not depend on the host, worker or device that draws them, or on how far a row is padded. A
stateful generator cannot guarantee that; a hash of (seed, domain, record, position) can. The mixer is the finalizer of
SplitMix64 (Steele et al. 2014). The part of dropout that runs on the device is in ``modeling/dropout.py``: this module needs
only numpy, so that processes that only read genomes do not load jax.
"""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

GOLDEN64 = np.uint64(0x9E3779B97F4A7C15)

_FEISTEL_ROUNDS = 6


class Domain(IntEnum):
    """The purpose of a draw: a word of the hash that separates different uses of the same seed and index.

    The values are part of every run: changing one changes the meaning of a seed.
    """

    MASK_ORDER = 1
    MASK_REPLACEMENT = 2
    MASK_RANDOM_PIECE = 3
    MASK_SPAN_OFFSET = 4
    MASK_SPAN_COUNT = 5
    WINDOW_SPECIES = 0x51
    WINDOW_ORDER = 0x52
    WINDOW_START = 0x53
    WINDOW_STRAND = 0x54
    ROW_STRAND = 0x57D
    BPE_DROPOUT = 0xB9E
    VALIDATION_BLOCKS = 0x7A1
    CAPPED_TABLE = 0xCA9
    DROPOUT = 0xD20
    ROW_ORDER = 0x2045
    BATCH_ORDER = 0xBA7C


def mix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of SplitMix64: a bijection on 64-bit integers that looks random."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def hash64(*words: int | NDArray[np.integer]) -> NDArray[np.uint64]:
    """A 64-bit hash of a tuple of integers, elementwise over broadcast arrays (at least 1-d).

    ``hash64(seed, index)`` and ``hash64(index, seed)`` differ; no word is lost.
    """
    state = np.zeros(1, np.uint64)
    for word in words:
        state = absorb(state, word)
    return state


def absorb(state: NDArray[np.uint64], word: int | NDArray[np.integer]) -> NDArray[np.uint64]:
    """The hash of one more word: ``absorb(hash64(a, b), c)`` is ``hash64(a, b, c)``."""
    bits = np.uint64(word & 0xFFFFFFFFFFFFFFFF) if isinstance(word, int) else word.astype(np.uint64)
    return mix64((state ^ bits) + GOLDEN64)


def uniform(*words: int | NDArray[np.integer]) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1) from the upper 53 bits of :func:`hash64`."""
    return (hash64(*words) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def record_seeds(seed: int, record_index: NDArray[np.integer]) -> NDArray[np.uint32]:
    """One 32-bit dropout seed per record, from the run's seed and the global record index. Shape [rows]."""
    return (hash64(seed, Domain.DROPOUT, record_index) >> np.uint64(32)).astype(np.uint32)


def permute(x: NDArray[np.int64], n: NDArray[np.int64], *key: int | NDArray[np.int64]) -> NDArray[np.int64]:
    """The image of ``x`` under the pseudo-random permutation of ``range(n)`` that ``key`` selects.

    A balanced Feistel network (Luby and Rackoff 1988) on the smallest even number of bits that holds ``n``, with cycle
    walking (Black and Rogaway 2002): a value outside the range is encrypted again until it falls inside.

    Args:
        x: points, each in ``range(n)``, [points].
        n: sizes, [points].
        key: words that select the permutation, each a scalar or [points].

    Returns:
        Shape [points].
    """
    bit_length = np.frexp(n - 1)[1].astype(np.int64)
    half = np.maximum(1, (bit_length + 1) // 2)
    keys = [np.broadcast_to(hash64(turn, *key), x.shape) for turn in range(_FEISTEL_ROUNDS)]
    out = x.copy()
    todo = np.arange(len(x))
    while len(todo):
        bits, mask = half[todo], (np.int64(1) << half[todo]) - 1
        left, right = out[todo] >> bits, out[todo] & mask
        for turn_key in keys:
            mixed = absorb(turn_key[todo], right).view(np.int64) & mask
            left, right = right, left ^ mixed
        out[todo] = left << bits | right
        todo = todo[out[todo] >= n[todo]]
    return out
