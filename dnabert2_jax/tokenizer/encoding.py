"""Byte-pair encoding of DNA in time linear in its length, compiled by Numba.

Byte-pair encoding joins, again and again, the two neighbors that form the piece of the lowest id, leftmost first. Two facts
make it unnecessary to do that with every text:

1. A text's tokens are the only way to cut it into pieces such that each piece, and each two neighboring pieces, if encoded
   alone, come out as they are. For what happens within a stretch of letters depends on these letters alone until a merge
   reaches across one of its ends, and the first such merge in the text would reach across in the two pieces alone, too.
2. Two pieces come out otherwise only if a piece ``p`` merges what meets at their border: ``x``, an end of the first piece,
   and ``y``, a beginning of the second. ``p`` comes first if its id is lower than that of the merge that takes up ``x``,
   and not higher than that of the merge that takes up ``y``: of two equal merges, the left one is made first.

So pairs that cannot be neighbors are found once (:func:`_clashes`), and a text is read from left to right: the longest piece
that can follow the one before it, or else the next shorter one; where none can, the last piece is given up for a shorter one
(:func:`_encode_bases`). By the first fact there is only one way to each position, so no position is tried twice.

The second fact supposes that pieces have higher ids than their parts, as after any training. In a vocabulary made by hand
they may not; pairs with such pieces are encoded letter by letter to find out.
"""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.letters import BASES
from dnabert2_jax.tokenizer.merges import NONE, UNKNOWN, last_pair
from dnabert2_jax.tokenizer.special import UNK

_HEAD = 8
"""Bases whose path in the tree of pieces is looked up at once."""

_MOST_CORRECTIONS = 200_000
"""Pairs of pieces to encode letter by letter: some ten seconds."""


F = TypeVar("F", bound=Callable[..., Any])


class Tables(NamedTuple):
    """What encoding looks up, for ids from 0 to V - 1 and N nodes of the tree that holds the pieces letter by letter.

    Attributes:
        children: node reached from a node by a base, or ``NONE``; [N, 4].
        heads: node reached by the bases of a number in base 4, or the last one on the way; [4 ** 8].
        depth: letters on the way to a node; [N].
        longest: the longest token on the way to a node; [N].
        shorter: the longest token that a token begins with, other than itself, or ``NONE``; [V].
        length: bases of a token; [V].
        clashes: a bit for each two tokens that cannot be neighbors; [V, V / 64].
    """

    children: NDArray[np.int32]
    heads: NDArray[np.int32]
    depth: NDArray[np.int32]
    longest: NDArray[np.int32]
    shorter: NDArray[np.int32]
    length: NDArray[np.int32]
    clashes: NDArray[np.uint64]


def compiled(function: F) -> F:
    """The function as machine code that releases the GIL, kept on disk where that is possible."""
    try:
        return numba.njit(nogil=True, cache=True)(function)  # type: ignore[return-value]
    except RuntimeError:  # no directory for it can be written, as in some containers
        return numba.njit(nogil=True)(function)  # type: ignore[return-value]


class MergeEncoder:
    """Encodes bases with a vocabulary of byte pairs.

    Args:
        pieces: text of each id; what is no token, such as a special one, is empty.
        parts: ids of the two pieces that each is merged from, see :func:`~dnabert2_jax.tokenizer.merges.parts_of`; [V, 2].
    """

    def __init__(self, pieces: Sequence[str], parts: NDArray[np.int32]) -> None:
        children, ends = tree_of(pieces)
        length = np.array([len(piece) for piece in pieces], np.int32)
        usable = (length == 1) | (parts[:, 0] != NONE)
        depth = np.zeros(len(children), np.int32)
        longest, shorter = np.full_like(depth, NONE), np.full_like(length, NONE)
        for node, following in enumerate(children):  # a node's number is higher than that of the node before it
            for child in following[following != NONE]:
                depth[child], longest[child] = depth[node] + 1, longest[node]
                if (token := ends[child]) != NONE and usable[token]:
                    longest[child], shorter[token] = token, longest[node]
        clashes = _clashes(np.ascontiguousarray(parts[:, 0]), np.ascontiguousarray(parts[:, 1]))
        _correct(clashes, pieces, parts)
        self._tables = Tables(children, _heads(children), depth, longest, shorter, length, clashes)

    def encode(self, codes: NDArray[np.uint8], ends: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The tokens of sequences that lie one after another.

        Args:
            codes: 0 to 3 for a base, ``UNKNOWN``, or ``SPACE``; [letters].
            ends: where each sequence ends; [sequences].

        Returns:
            Ids, [tokens], ``UNK`` for unknown letters; and where each sequence's ids end, [sequences].
        """
        ids, ends_of_ids = np.empty(len(codes), np.int32), np.empty_like(ends)
        count = _encode(codes, ends, ids, ends_of_ids, np.zeros(len(codes) + 1, np.bool_), self._tables)
        return ids[:count].copy(), ends_of_ids


def tree_of(pieces: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Pieces letter by letter: node reached from a node by a base, [N, 4]; piece that ends at a node, [N]; or ``NONE``."""
    children, ends = [[NONE] * len(BASES)], [NONE]
    for token, piece in enumerate(pieces):
        node = 0
        for letter in map(BASES.index, piece):
            if children[node][letter] == NONE:
                children[node][letter] = len(children)
                children.append([NONE] * len(BASES))
                ends.append(NONE)
            node = children[node][letter]
        if piece:
            ends[node] = token
    return np.array(children, np.int32), np.array(ends, np.int32)


def _heads(children: NDArray[np.int32]) -> NDArray[np.int32]:
    """See :class:`Tables`: all bases of all numbers at once, the first base in the highest place."""
    numbers = np.arange(len(BASES) ** _HEAD)
    nodes = np.zeros_like(numbers)
    going = np.ones_like(numbers, np.bool_)
    for at in reversed(range(_HEAD)):
        following = children[nodes, numbers // len(BASES) ** at % len(BASES)]
        going &= following != NONE
        nodes = np.where(going, following, nodes)
    return nodes.astype(np.int32)


def _correct(clashes: NDArray[np.uint64], pieces: Sequence[str], parts: NDArray[np.int32]) -> None:
    """Sets the bits of pairs with a piece that has a lower id than a piece it is made of, by encoding their letters.

    Raises:
        UserError: there are so many of them that this would take minutes.
    """
    ids = {piece: token for token, piece in enumerate(pieces) if piece}
    late: set[int] = set()
    while more := {token for token, pair in enumerate(parts.tolist()) if max(pair) > token or late & {*pair}} - late:
        late |= more
    if len(late) * len(ids) > _MOST_CORRECTIONS:
        raise UserError(
            f"{len(late):,} of the tokenizer's {len(ids):,} pieces have lower ids than pieces they are merged from, such as "
            f"{pieces[min(late)]}; no training leads to that, so it is damaged or made by hand: train one with `dnabert2 "
            "tokenizer train`"
        )
    for token, other in product(late, ids.values()):
        for first, second in ((token, other), (other, token)):
            text, bit = pieces[first] + pieces[second], np.uint64(1) << np.uint64(second % 64)
            clashes[first, second // 64] |= bit
            if text not in ids and last_pair(text, ids) == (pieces[first], pieces[second]):
                clashes[first, second // 64] ^= bit


@compiled
def _clashes(left: NDArray[np.int32], right: NDArray[np.int32]) -> NDArray[np.uint64]:
    """Bits for each two tokens whose letters merge across their border, from the parts of each token; [V, V / 64]."""
    ending, beginning = _bordering(left, right, 0), _bordering(right, left, 1)
    clashes = np.zeros_like(beginning)
    for merge in range(len(left)):
        for token in range(len(left)):
            if _bit(ending, merge, token):
                clashes[token] |= beginning[merge]
    return clashes


@compiled
def _bordering(part: NDArray[np.int32], other: NDArray[np.int32], tie: int) -> NDArray[np.uint64]:
    """Bits for each merge and the tokens that offer it a part at their border; [V, V / 64].

    Args:
        part: the part of each merge on this side of the border, [V].
        other: its part on the other side, [V]; a token's own part there lies at the border.
        tie: whether this merge comes first (1) or not (0) if the same merge within the token takes up the part, too.
    """
    size = len(part)
    # The merges that have a piece as their part, as a list: the first of them, and the next one of each.
    first, following = np.full(size, NONE, np.int32), np.full(size, NONE, np.int32)
    for merge in range(size):
        if part[merge] != NONE:
            following[merge], first[part[merge]] = first[part[merge]], merge
    bits = np.zeros((size, (size + 63) // 64), np.uint64)
    for token in range(size):
        piece, taken = (
            token,
            size,
        )  # a piece at the border, from the token itself to a letter, and the merge that takes it up
        while piece != NONE:
            merge = first[piece]
            while merge != NONE:
                if max(merge, other[merge]) < taken + tie:
                    bits[merge, token >> 6] |= np.uint64(1) << np.uint64(token & 63)
                merge = following[merge]
            piece, taken = other[piece], piece
    return bits


@compiled
def _bit(bits: NDArray[np.uint64], row: int, column: int) -> bool:
    return (bits[row, column >> 6] >> np.uint64(column & 63)) & np.uint64(1) != 0


@compiled
def _longest(codes: NDArray[np.uint8], start: int, end: int, tables: Tables) -> int:
    """The longest token that the letters from ``start`` begin with, before ``end``; the first of them is a base."""
    node, at = 0, start
    if start + _HEAD <= end:
        number, highest = 0, 0
        for place in range(start, start + _HEAD):
            number = number << 2 | codes[place]
            highest |= codes[place]
        if highest < UNKNOWN:
            node = tables.heads[number]
            at += tables.depth[node]
    while at < end and codes[at] < UNKNOWN and tables.children[node, codes[at]] != NONE:
        node = tables.children[node, codes[at]]
        at += 1
    return tables.longest[node]


@compiled
def _encode_bases(
    codes: NDArray[np.uint8],
    at: int,
    end: int,
    ids: NDArray[np.int32],
    count: int,
    tried: NDArray[np.bool_],
    tables: Tables,
) -> tuple[int, int]:
    """Write the ids of the bases from ``at`` to the next other letter; returns where that is, and the new ``count``."""
    first = count
    token = _longest(codes, at, end, tables)
    while True:
        while token != NONE:
            if not tried[at + tables.length[token]] and (count == first or not _bit(tables.clashes, ids[count - 1], token)):
                break
            token = tables.shorter[token]
        if token == NONE:  # nothing can follow: the last token was too long
            tried[at] = True
            count -= 1
            at -= tables.length[ids[count]]
            token = tables.shorter[ids[count]]
        else:
            ids[count] = token
            count += 1
            at += tables.length[token]
            if at == end or codes[at] >= UNKNOWN:
                return at, count
            token = _longest(codes, at, end, tables)


@compiled
def _encode(
    codes: NDArray[np.uint8],
    ends: NDArray[np.int64],
    ids: NDArray[np.int32],
    ends_of_ids: NDArray[np.int64],
    tried: NDArray[np.bool_],
    tables: Tables,
) -> int:
    """Write the ids of each sequence and where they end; returns how many there are."""
    at, count = 0, 0
    for row in range(len(ends)):
        while at < ends[row]:
            if codes[at] < UNKNOWN:
                at, count = _encode_bases(codes, at, ends[row], ids, count, tried, tables)
                continue
            if codes[at] == UNKNOWN:
                ids[count] = UNK
                count += 1
            at += 1
        ends_of_ids[row] = count
    return count
