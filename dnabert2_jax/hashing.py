"""Counter-based random numbers: every draw is a pure function of integers, on the host and on the device.

Crops, masks and dropout must not depend on which host, worker or device asks, nor on how far a row is padded. A stateful
generator cannot promise that; a hash of (seed, record, position) can, and costs a few integer operations an element, which
XLA fuses into the consumer. The mixers are the finalisers of SplitMix64 (Steele et al. 2014) for numpy and of lowbias32
(Wellons 2018) for the device, where 64-bit integers are slow or absent.
"""

import hashlib
from pathlib import Path

import jax
import jax.numpy as jnp
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


def mix32(x: jax.Array) -> jax.Array:
    """lowbias32: a bijection of 32-bit integers with almost no bias, for use inside jit."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
