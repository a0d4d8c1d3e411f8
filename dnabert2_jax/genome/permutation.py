"""A pseudo-random permutation of range(n), evaluated pointwise; vectorized over arrays of points."""

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.draws import absorb, hash64

_ROUNDS = 6


def permute(x: NDArray[np.int64], n: NDArray[np.int64], *key: int | NDArray[np.int64]) -> NDArray[np.int64]:
    """The image of ``x`` under the permutation of ``range(n)`` that ``key`` selects.

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
    keys = [np.broadcast_to(hash64(turn, *key), x.shape) for turn in range(_ROUNDS)]
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
