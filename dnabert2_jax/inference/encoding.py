"""Sequences to token rows: whole, cut, or as overlapping windows."""

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.config.inference import LongSequences
from dnabert2_jax.data.packing import TokenRow
from dnabert2_jax.data.sequences import Sequences
from dnabert2_jax.errors import UserError
from dnabert2_jax.tokenizer.base import Tokenizer
from dnabert2_jax.tokenizer.special import with_template

_MOST_THREADS = 8


def encode_rows(tokenizer: Tokenizer, sequences: Sequences) -> list[TokenRow]:
    """Every sequence or pair as one row, whatever its length."""
    first, second = _raw(tokenizer, sequences.sequences), None
    if sequences.pairs is None:
        return [_row(a) for a in first]
    second = _raw(tokenizer, sequences.pairs)
    return [_row(a, b) for a, b in zip(first, second, strict=True)]


@dataclass(frozen=True)
class LimitedRows:
    """Rows of at most so many tokens; a sequence may have several.

    Attributes:
        rows: windows of all sequences, those of one sequence side by side.
        windows: number of each sequence's rows. [sequences].
        cut_bases: bases at each sequence's end that no row holds; of a pair, those of both. [sequences].
    """

    rows: list[TokenRow]
    windows: NDArray[np.int64]
    cut_bases: NDArray[np.int64]


def encode_limited(
    tokenizer: Tokenizer, sequences: Sequences, *, max_tokens: int, long: LongSequences, overlap: float
) -> LimitedRows:
    """Sequences as rows of at most ``max_tokens`` tokens, [CLS] and [SEP] included.

    Windows begin and end where tokens of the whole sequence do, and have equal numbers of tokens. That makes them windows of
    bases, too: BPE never merged across such a place, so a window has the tokens that its bases alone would get.

    Args:
        tokenizer: makes the ids.
        sequences: sequences or pairs.
        max_tokens: longest row.
        long: what to do with a longer sequence. A pair of windows would mean nothing, so pairs can only be cut: tokens go
            from the longer sequence until both are equally long, then from both.
        overlap: least share of a window that the next one repeats, in [0, 1).

    Raises:
        UserError: no room for a token of each sequence, an overlap out of range, or a long pair that may not be cut.
    """
    special = 2 if sequences.pairs is None else 3
    room = max_tokens - special
    if room < special - 1:
        raise UserError(f"max_tokens {max_tokens} is too small; {special} special tokens and one of each sequence need more")
    if not 0 <= overlap < 1:
        raise UserError(f"overlap {overlap} is out of range; it is a share of a window: 0 or more, and less than 1")
    first = _raw(tokenizer, sequences.sequences)
    if sequences.pairs is not None:
        return _limited_pairs(tokenizer, sequences, first, _raw(tokenizer, sequences.pairs), room, long)
    rows, windows = [], np.ones(len(first), np.int64)
    cut_bases = np.zeros(len(first), np.int64)
    for n, ids in enumerate(first):
        if len(ids) <= room:
            rows.append(_row(ids))
        elif long == "cut":
            rows.append(_row(ids[:room]))
            cut_bases[n] = tokenizer.token_bases(ids)[room:].sum()
        else:
            starts = window_starts(len(ids), room, overlap)
            rows += [_row(ids[start : start + room]) for start in starts]
            windows[n] = len(starts)
    return LimitedRows(rows, windows, cut_bases)


def window_starts(tokens: int, window: int, overlap: float) -> list[int]:
    """First tokens of the fewest evenly spread windows that cover ``tokens`` tokens and overlap by at least that share.

    Args:
        tokens: of the sequence, more than ``window``.
        window: tokens of a window.
        overlap: in [0, 1).
    """
    step = max(1, int(window * (1 - overlap)))
    count = 1 + -(-(tokens - window) // step)
    return [(tokens - window) * n // (count - 1) for n in range(count)]


def _limited_pairs(
    tokenizer: Tokenizer,
    sequences: Sequences,
    first: list[NDArray[np.int32]],
    second: list[NDArray[np.int32]],
    room: int,
    long: LongSequences,
) -> LimitedRows:
    rows, cut_bases = [], np.zeros(len(first), np.int64)
    for n, (a, b) in enumerate(zip(first, second, strict=True)):
        if len(a) + len(b) > room and long != "cut":
            raise UserError(
                f"{sequences.source}, {sequences.names[n]!r}: this pair has {len(a) + len(b) + 3:,} tokens, over max_tokens "
                f"{room + 3:,}, and pairs are not read in windows; raise --max-tokens, or cut them (--long cut)"
            )
        keep_a = min(len(a), max(room - len(b), room - room // 2))
        keep_b = min(len(b), room - keep_a)
        rows.append(_row(a[:keep_a], b[:keep_b]))
        cut_bases[n] = sum(int(tokenizer.token_bases(ids)[kept:].sum()) for ids, kept in ((a, keep_a), (b, keep_b)))
    return LimitedRows(rows, np.ones(len(first), np.int64), cut_bases)


def _raw(tokenizer: Tokenizer, sequences: list[str]) -> list[NDArray[np.int32]]:
    return tokenizer.encode_raw_batch(sequences, num_threads=min(_MOST_THREADS, os.cpu_count() or 1))


def _row(first: NDArray[np.int32], second: NDArray[np.int32] | None = None) -> TokenRow:
    return TokenRow(with_template(first, second), len(first) + 2)
