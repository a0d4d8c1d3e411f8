"""The span of a variant: the tokens between those that all alleles share.

Byte pairs merge across the site of a variant, so the alleles' tokens differ in number and boundaries. The alleles share
tokens at both ends of the window; the span is the rest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.tokenizer.base import Tokenizer
from dnabert2_jax.tokenizer.special import CLS, SEP

Ids = NDArray[np.int32]
Numbers = NDArray[np.int64]

_CLS, _SEP = np.array([CLS], np.int32), np.array([SEP], np.int32)


@dataclass(frozen=True, slots=True)
class Span:
    """The part of a window between the tokens that all alleles share.

    Attributes:
        prefix: ids of the shared tokens before the span. [tokens].
        suffix: ids of the shared tokens after the span. [tokens].
        strings: bases of the span in each allele.
        tokens: token ids of the span in each allele. [tokens] each.
    """

    prefix: Ids
    suffix: Ids
    strings: tuple[str, ...]
    tokens: tuple[Ids, ...]

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of tokens of the span in each allele."""
        return tuple(map(len, self.tokens))

    def row(self, tokens: Ids) -> Ids:
        """The model's input with the given tokens as the span, including [CLS] and [SEP]. [tokens of the row]."""
        return np.concatenate([_CLS, self.prefix, tokens, self.suffix, _SEP])


class Stretch(NamedTuple):
    """A part of a window whose alleles were tokenized separately.

    Attributes:
        window: token ids of the whole window of one allele. [tokens].
        begin: index of the first token of the stretch.
        end: index of the token after its last.
    """

    window: Ids
    begin: int
    end: int


def find_spans(
    texts: Sequence[Sequence[str]],
    token_ids: Sequence[Sequence[Ids]],
    tokenizer: Tokenizer,
    within: Sequence[Stretch] | None = None,
) -> list[Span | None]:
    """The spans of some windows, which are not empty for any allele.

    Args:
        texts: for each window, the bases of each allele's window, or of a stretch of it.
        token_ids: their ids without special tokens, [tokens] each.
        tokenizer: the tokenizer that produced them.
        within: for each window, the stretch that its texts cover; None if they are whole windows.

    Returns:
        The span of each window; None if an allele has no tokens, or if the stretch does not begin and end with tokens that
        all alleles share (except at an end of the window).
    """
    if not texts:
        return []
    if within is None:
        within = [Stretch(ids[0], 0, len(ids[0])) for ids in token_ids]
    first, starts, counts, flat = _rows_of(token_ids)
    fewest = np.minimum.reduceat(counts, first)
    prefix = _shared(flat, starts, 1, fewest, first)
    suffix = _shared(flat, starts + counts - 1, -1, fewest - prefix, first)
    outside = np.array([(begin, len(window) - end) for window, begin, end in within])
    known = (fewest > 0) & ((prefix > 0) | (outside[:, 0] == 0)) & ((suffix > 0) | (outside[:, 1] == 0))
    nothing_left = prefix + suffix == fewest  # for the shortest allele: one token more on each side
    prefix, suffix = (np.maximum(0, shared - nothing_left) for shared in (prefix, suffix))
    bounds = np.concatenate([[0], np.cumsum(tokenizer.piece_lengths[flat])])
    ends = starts + counts
    before = bounds[starts[first] + prefix] - bounds[starts[first]]
    after = bounds[ends[first]] - bounds[ends[first] - suffix]
    found: list[Span | None] = []
    cuts = (part.tolist() for part in (known, prefix, suffix, before, after))
    for own, ids, (window, begin, end), good, skip, keep, bases, bases_after in zip(
        texts, token_ids, within, *cuts, strict=True
    ):
        if not good:
            found.append(None)
            continue
        strings = tuple([text[bases : len(text) - bases_after] for text in own])
        tokens = tuple([row[skip : len(row) - keep] for row in ids])
        found.append(Span(window[: begin + skip], window[end - keep :], strings, tokens))
    return found


def _rows_of(token_ids: Sequence[Sequence[Ids]]) -> tuple[Numbers, Numbers, Numbers, Ids]:
    """The first row of each window, the start and number of ids of each row, and all ids concatenated, followed by [SEP]."""
    alleles = np.array(list(map(len, token_ids)))
    rows = list(chain.from_iterable(token_ids))
    counts = np.array(list(map(len, rows)))
    return np.cumsum(alleles) - alleles, np.cumsum(counts) - counts, counts, np.concatenate([*rows, _SEP])


def _shared(flat: Ids, starts: Numbers, step: int, most: Numbers, first: Numbers) -> Numbers:
    """The number of ids, up to ``most``, that all rows of a window share from their starts. [windows]."""
    of_row = np.repeat(np.arange(len(first)), np.diff(first, append=len(starts)))
    place = np.arange(1 + most.max())
    ids = flat.take(starts[:, None] + step * place, mode="clip")
    different = (ids != ids[first[of_row]]) | (place >= most[of_row, None])
    return np.minimum.reduceat(different.argmax(1), first)
