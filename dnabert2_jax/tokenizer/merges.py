"""Which two pieces each piece of a byte-pair vocabulary is merged from, and how letters are coded for encoding."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.genome.letters import BASES

NONE = -1

UNKNOWN = len(BASES)
"""The code of a letter that is no base: a token of its own, with which nothing merges."""
SPACE = UNKNOWN + 1
"""The code of what only separates."""


def parts_of(pieces: Sequence[str]) -> NDArray[np.int32]:
    """The ids of the two pieces that each id is merged from; ``NONE`` for one letter, and where no text leads to a piece.

    A piece can come from one pair only: what happens within a stretch of letters depends only on those letters until a merge
    crosses one of its ends. So wherever two tokens are adjacent, encoding only their letters passes through the same two.

    Args:
        pieces: text of each id; empty for what is no piece, such as a special token.

    Returns:
        Shape [V, 2].
    """
    ids = {piece: number for number, piece in enumerate(pieces) if piece}
    parts = np.full((len(pieces), 2), NONE, np.int32)
    for piece, number in ids.items():
        if pair := last_pair(piece, ids):
            parts[number] = ids[pair[0]], ids[pair[1]]
    return parts


def last_pair(text: str, ids: Mapping[str, int]) -> tuple[str, str] | None:
    """The last two tokens as byte-pair encoding merges the letters of ``text``; None if it stops at more, or at one letter.

    Args:
        text: one letter or more.
        ids: of all pieces; the neighbors whose text has the lowest id are merged first, from left to right.
    """
    parts = list(text)
    while len(parts) > 2:
        candidates = [(ids[a + b], at) for at, (a, b) in enumerate(pairwise(parts)) if a + b in ids]
        if not candidates:
            return None
        _, at = min(candidates)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return (parts[0], parts[1]) if len(parts) == 2 else None
