"""ALiBi slopes (Press et al. 2022), in the order the original DNABERT-2 uses, for any number of heads."""

import numpy as np
from numpy.typing import NDArray


def _geometric(num_heads: int) -> NDArray[np.float32]:
    return np.exp2(-8.0 / num_heads * np.arange(1, num_heads + 1)).astype(np.float32)


def alibi_slopes(num_heads: int) -> NDArray[np.float32]:
    """Slopes of the symmetric bias ``-slope * |i - j|``, shape [H].

    For a power of two, the slopes are the geometric series 2^(-8/H), 2^(-16/H), ...; any other number of heads takes the
    series of the next lower power of two, then every second slope of the series of the next higher one (for 12 heads:
    2^-1 .. 2^-8, then 2^-0.5, 2^-1.5, 2^-2.5, 2^-3.5).
    """
    power = 1 << (num_heads.bit_length() - 1)
    if power == num_heads:
        return _geometric(num_heads)
    return np.concatenate([_geometric(power), _geometric(2 * power)[0::2][: num_heads - power]])
