"""The span of a variant: the tokens between those that all alleles share.

Byte pairs merge across the site of a variant, so the alleles' tokens differ in number and in their ends. What the alleles
have in common are tokens at both ends of the window; the span is the rest.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.tokenizer.base import Tokenizer

Ids = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Span:
    """What lies between the tokens that all alleles of a window share.

    Attributes:
        prefix: ids of the shared tokens before it. [tokens].
        suffix: ids of the shared tokens after it. [tokens].
        strings: its bases in each allele.
        counts: its tokens in each allele.
    """

    prefix: Ids
    suffix: Ids
    strings: tuple[str, ...]
    counts: tuple[int, ...]


def find_span(windows: Sequence[str], token_ids: Sequence[Ids], tokenizer: Tokenizer) -> Span | None:
    """The span of some alleles: no allele's is empty.

    Args:
        windows: the bases of each allele's window.
        token_ids: their ids without special tokens, [tokens] each.
        tokenizer: what made them.

    Returns:
        None if an allele's window has no tokens at all.
    """
    fewest = min(map(len, token_ids))
    first = token_ids[0]
    prefix = min(_shared(first, other, fewest) for other in token_ids[1:])
    suffix = min(_shared(first[::-1], other[::-1], fewest - prefix) for other in token_ids[1:])
    if prefix + suffix == fewest:  # nothing of the shortest allele is left: one token more on each side
        if not fewest:
            return None
        prefix, suffix = max(0, prefix - 1), max(0, suffix - 1)
    before = int(tokenizer.piece_lengths[first[:prefix]].sum())
    after = int(tokenizer.piece_lengths[first[len(first) - suffix :]].sum())
    return Span(
        first[:prefix],
        first[len(first) - suffix :],
        tuple(window[before : len(window) - after] for window in windows),
        tuple(len(ids) - prefix - suffix for ids in token_ids),
    )


def _shared(a: Ids, b: Ids, most: int) -> int:
    """How many ids two rows share at their start, at most ``most``."""
    different = a[:most] != b[:most]
    first = int(different.argmax()) if most else 0
    return first if most and different[first] else most
