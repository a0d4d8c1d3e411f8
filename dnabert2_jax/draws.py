"""Counter-based random numbers: every draw is a pure function of integers.

Crops, masks and dropout must not depend on which host, worker or device asks, nor on how far a row is padded. A stateful
generator cannot promise that; a hash of (seed, record, position) can. The mixer is the finaliser of SplitMix64 (Steele et
al. 2014). Dropout's part that runs on the device is in ``modeling/dropout.py``: this module needs numpy alone, so that
processes that only read genomes do not load jax.
"""

import numpy as np
from numpy.typing import NDArray

_GOLDEN64 = np.uint64(0x9E3779B97F4A7C15)


def mix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser: a bijection of 64-bit integers that looks random."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def hash64(*words: int | NDArray[np.integer]) -> NDArray[np.uint64]:
    """A 64-bit hash of a tuple of integers, elementwise over broadcast arrays (at least 1-d).

    ``hash64(seed, index)`` and ``hash64(index, seed)`` differ; no word is lost.
    """
    state = np.zeros(1, np.uint64)
    with np.errstate(over="ignore"):
        for word in words:
            bits = np.uint64(word & 0xFFFFFFFFFFFFFFFF) if isinstance(word, int) else word.astype(np.uint64)
            state = mix64((state ^ bits) + _GOLDEN64)
    return state


def uniform(*words: int | NDArray[np.integer]) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1) from the upper 53 bits of :func:`hash64`."""
    return (hash64(*words) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def record_seeds(seed: int, record_index: NDArray[np.integer]) -> NDArray[np.uint32]:
    """One 32-bit dropout seed a record, from the run's seed and the global record index. Shape [rows]."""
    return (hash64(seed, 0xD20, record_index) >> np.uint64(32)).astype(np.uint32)
