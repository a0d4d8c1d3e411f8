"""Two bits per base: A 0, C 1, G 2, T 3; the first base of a byte is in its lowest bits."""

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.genome.letters import BASES

_CODE = bytes(max(0, BASES.find(chr(letter))) for letter in range(256))
_FOUR_BASES = np.array(
    [int.from_bytes("".join(BASES[byte >> shift & 3] for shift in (0, 2, 4, 6)).encode(), "little") for byte in range(256)],
    "<u4",
)


def pack_bases(letters: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pack upper-case ASCII bases, four per byte; any letter other than A C G T becomes A. Shape [ceil(bases / 4)]."""
    codes = np.frombuffer(letters.tobytes().translate(_CODE), np.uint8)
    codes = np.pad(codes, (0, -len(codes) % 4)).reshape(-1, 4)
    packed = codes[:, 0] | codes[:, 1] << 2 | codes[:, 2] << 4 | codes[:, 3] << 6
    return packed.astype(np.uint8, copy=False)


def unpack_bases(packed: NDArray[np.uint8], start: int, stop: int) -> NDArray[np.uint8]:
    """ASCII letters of bases ``start`` to ``stop`` of a packed sequence. Shape [stop - start]."""
    first = start // 4
    letters = _FOUR_BASES[packed[first : (stop + 3) // 4]].view(np.uint8)
    return letters[start - 4 * first : stop - 4 * first]


def unpack_rows(packed: NDArray[np.uint8], starts: NDArray[np.int64], width: int) -> NDArray[np.uint8]:
    """ASCII letters at several positions of a packed sequence; each row begins with the byte that holds its position.

    Args:
        packed: the sequence.
        starts: number of the first base of each row; it ends up at ``starts % 4`` of its row.
        width: minimum number of bases to unpack from each position on; past the end of the sequence, letters are arbitrary.

    Returns:
        Shape [rows, letters], with at least ``width`` + 3 letters.
    """
    index = (starts // 4)[:, None] + np.arange((width + 3) // 4 + 1)
    return _FOUR_BASES[packed[np.minimum(index, len(packed) - 1)]].view(np.uint8)
