"""Pack sequences of any length into batches of a few shapes with little padding, for inference.

A row of a batch holds one or more sequences, distinguished by segment ids; tokens attend only to their own segment, and
ALiBi depends on distances rather than positions, so a sequence's result does not depend on its neighbors. Rows are as wide
as the longest sequences need, shorter sequences fill the remaining space, and the rest go into narrower rows of a few
widths: as many as an estimate of the total cost suggests. Sequences longer than ``LONGEST_PACKED`` tokens get a row of
their own.
"""

from bisect import bisect_right
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.data.batches import Batches, BatchPlan
from dnabert2_jax.data.by_length import choose_lengths
from dnabert2_jax.data.encoding import EncodedRows

LONGEST_PACKED = 4096
"""Maximum length in tokens of a sequence that shares a row with others."""

MAX_WIDTHS = 4
"""Maximum number of packed row widths: each is compiled, and a fifth would save little."""

_NARROWEST = 16
_WORTH_A_WIDTH = 1.25
_TOKENS_A_SLOT = 8
_WIDTH_STEP = 16

# Cost model for comparing plans, in positions: attention doubles the cost of a position at about this width, and compiling a
# shape takes about as long as computing this many positions (measured on a CPU with a model of 3 million parameters).
_WIDTH_OF_DOUBLE_COST = 1024
_POSITIONS_A_SHAPE = 4096


def slots_of_row(width: int) -> int:
    """P, the maximum number of sequences in a row of ``width`` tokens: one per eight tokens, or a single long one."""
    return max(1, width // _TOKENS_A_SLOT) if width <= LONGEST_PACKED else 1


def padded_width(tokens: int, steps: int = 8) -> int:
    """The width to which a row of ``tokens`` tokens is rounded up: some steps from each power of two to the next.

    With eight, at most a ninth is padding, and there are few enough widths that calls with different sequences share
    compilations.
    """
    return max(_NARROWEST, _round_up(tokens, steps, least=8))


def _round_up(count: int, steps: int, least: int = 1) -> int:
    """Round up on a grid of ``steps`` equal steps from each power of two to the next, in multiples of ``least``."""
    step = max(least, (1 << (count - 1).bit_length()) // (2 * steps))
    return -(-count // step) * step


def pack(rows: EncodedRows, tokens_per_batch: int, *, few_shapes: bool = False) -> Batches:
    """Plan batches that hold every sequence once, in the cheapest set of widths; the widest come first.

    A batch has as many rows as fit into ``tokens_per_batch`` tokens, and only the last batch of a width may have fewer. A
    sequence with more tokens than that is a batch of its own.

    Args:
        rows: the sequences; at least one.
        tokens_per_batch: positions per batch, padding included.
        few_shapes: for a part of a long job, whose parts should share their shapes: widths and the heights of batches that
            are not full are powers of two, unless finer widths save a fifth of the work.
    """
    heights = 1 if few_shapes else 4
    lengths = rows.lengths.astype(np.int64)
    order = np.argsort(-lengths, kind="stable")
    long, short = (order[keep] for keep in (lengths[order] > LONGEST_PACKED, lengths[order] <= LONGEST_PACKED))
    plan: list[BatchPlan] = []
    widths = np.array([_round_up(n, heights) for n in lengths[long].tolist()])
    for width in np.unique(widths)[::-1].tolist():
        plan += _batches([[sequence] for sequence in long[widths == width].tolist()], width, tokens_per_batch, heights)
    if len(short):
        costs: list[tuple[float, list[BatchPlan]]] = []
        for steps in (1, 8) if few_shapes else (8,):
            widths = np.array([padded_width(n, steps) for n in lengths[short].tolist()])
            choices = dict.fromkeys(choose_lengths(widths, count) for count in range(1, MAX_WIDTHS + 1))
            plans = [_pack_short(short.tolist(), lengths, choice, tokens_per_batch, heights) for choice in choices]
            factor = _WORTH_A_WIDTH if few_shapes and steps > 1 else 1
            costs += [(factor * _cost(each), each) for each in plans]
        plan += min(costs, key=itemgetter(0))[1]
    return Batches(rows, plan)


def one_per_row(rows: EncodedRows, tokens_per_batch: int) -> Batches:
    """Plan batches of rows of nearly equal length, each in a row of its own, in shapes that stay the same from call to call.

    Args:
        rows: the sequences.
        tokens_per_batch: positions per batch, padding included.
    """
    widths = -(-rows.lengths // _WIDTH_STEP) * _WIDTH_STEP
    order = np.argsort(-rows.lengths, kind="stable")
    slots = None if rows.places else 1  # a row whose bases are labeled has no slots
    plan, at = [], 0
    while at < len(order):
        width = int(widths[order[at]])
        height = max(1, tokens_per_batch // width)
        members = order[at : at + height, None].tolist()
        plan.append(BatchPlan(width, min(height, 1 << (len(members) - 1).bit_length()), members, slots))
        at += height
    return Batches(rows, plan)


def _cost(plans: list[BatchPlan]) -> float:
    """Estimated time of batches, compilation included, in positions of a narrow row."""
    positions = sum(plan.height * plan.width * (1 + plan.width / _WIDTH_OF_DOUBLE_COST) for plan in plans)
    return positions + _POSITIONS_A_SHAPE * len({(plan.height, plan.width) for plan in plans})


def _pack_short(
    order: list[int], lengths: NDArray[np.int64], widths: tuple[int, ...], tokens_per_batch: int, heights: int
) -> list[BatchPlan]:
    """Batches of sequences that may share rows.

    The last batch of a width is filled up with rows of shorter sequences, so that only the very last batch may be short.
    """
    waiting = _Waiting(order, lengths)
    plan: list[BatchPlan] = []
    for narrower, width in zip((*reversed(widths[:-1]), 0), reversed(widths), strict=True):
        full = max(1, tokens_per_batch // width)
        rows: list[list[int]] = []
        while waiting and (waiting.longest > narrower or len(rows) % full):
            rows.append(_fill_row(waiting, width))
        plan += _batches(rows, width, tokens_per_batch, heights)
    return plan


class _Waiting:
    """Sequences not yet placed in a row, by length."""

    def __init__(self, order: list[int], lengths: NDArray[np.int64]) -> None:
        self._by_length: dict[int, list[int]] = {}
        for sequence in reversed(order):  # so that pop() returns the earliest of each length
            self._by_length.setdefault(int(lengths[sequence]), []).append(sequence)
        self._lengths = sorted(self._by_length)

    def __bool__(self) -> bool:
        return bool(self._lengths)

    @property
    def longest(self) -> int:
        return self._lengths[-1]

    def take(self, room: int) -> tuple[int, int] | None:
        """The longest sequence that fits into ``room`` tokens, and its length."""
        at = bisect_right(self._lengths, room) - 1
        if at < 0:
            return None
        length = self._lengths[at]
        sequence = self._by_length[length].pop()
        if not self._by_length[length]:
            del self._lengths[at]
        return sequence, length


def _fill_row(waiting: _Waiting, width: int) -> list[int]:
    row: list[int] = []
    room = width
    while len(row) < slots_of_row(width) and (taken := waiting.take(room)) is not None:
        row.append(taken[0])
        room -= taken[1]
    return row


def _batches(rows: list[list[int]], width: int, tokens_per_batch: int, heights: int) -> list[BatchPlan]:
    full = max(1, tokens_per_batch // width)
    return [
        BatchPlan(width, min(full, _round_up(len(some), heights)), some, slots_of_row(width))
        for at in range(0, len(rows), full)
        for some in [rows[at : at + full]]
    ]
