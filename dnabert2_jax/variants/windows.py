"""Windows of alleles as tokens: one allele is encoded as a whole, of the others only what is near the variant.

The alleles of a window differ in a few bases, and byte pairs soon agree again on either side. So of all alleles but the
first, a stretch is encoded that begins and ends where tokens of the first allele do, some bases beside the variant; what
lies around it has the first allele's tokens. This is exact where the first and the last token of the stretch are those of
the first allele and do not reach the variant: up to the first merge across an end of the stretch, what lies on either side
of that end has merged as in the first allele, where no merge crosses it. Elsewhere, the allele is encoded as a whole.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from dnabert2_jax.tokenizer.base import Tokenizer, worthwhile_threads
from dnabert2_jax.tokenizer.bpe import BpeTokenizer
from dnabert2_jax.variants.alleles import View
from dnabert2_jax.variants.spans import Ids, Span

HALO = 24
"""Bases of a stretch beside the variant: cut anywhere, 99.9 % of sequences have their tokens again after 17."""


@dataclass(frozen=True, slots=True)
class OneStrand:
    """An allele on one strand: the windows of its alleles as tokens.

    Attributes:
        view: the alleles.
        ids: of each allele's window, without special tokens. [tokens] each.
        span: what lies between the tokens that all alleles share.
    """

    view: View
    ids: tuple[Ids, ...]
    span: Span

    @property
    def ref_and_alt(self) -> tuple[Ids, Ids]:
        """The ids of the two windows that are compared."""
        return self.ids[self.view.ref], self.ids[self.view.alt]


def encode_views(views: Sequence[View], tokenizer: Tokenizer) -> list[tuple[Ids, ...]]:
    """The ids of each allele's window, without special tokens; [tokens] for each allele of each view.

    Args:
        views: the alleles.
        tokenizer: of any kind.
    """
    if not isinstance(tokenizer, BpeTokenizer):
        whole = _encoded((text for view in views for text in view.windows()), tokenizer)
        return [tuple(whole[text] for text in view.windows()) for view in views]
    whole = _encoded((view.window(0) for view in views), tokenizer)
    stretches = [_Stretch(view, whole[view.window(0)], tokenizer) for view in views]
    near = _encoded((text for stretch in stretches for text in stretch.texts), tokenizer)
    found = [[stretch.spliced(near[text]) for text in stretch.texts] for stretch in stretches]
    again = (
        view.window(n) for view, own in zip(views, found, strict=True) for n, ids in enumerate(own, start=1) if ids is None
    )
    whole |= _encoded(again, tokenizer)
    return [
        (whole[view.window(0)], *(whole[view.window(n)] if ids is None else ids for n, ids in enumerate(own, start=1)))
        for view, own in zip(views, found, strict=True)
    ]


class _Stretch:
    """What is encoded of all alleles of a view but the first.

    Attributes:
        texts: the stretch in each of them.
    """

    def __init__(self, view: View, ids: Ids, tokenizer: Tokenizer) -> None:
        ends = np.cumsum(tokenizer.piece_lengths[ids])
        variant, after = len(view.left), len(view.left) + len(view.alleles[0])
        begin, end = int(ends.searchsorted(variant - HALO, "right")), int(ends.searchsorted(after + HALO)) + 1
        start, stop = int(ends[begin - 1]) if begin else 0, int(ends[min(end, len(ids)) - 1]) if len(ids) else 0
        self._before, self._after = ids[:begin], ids[end:]
        # The tokens that a stretch has to begin and end with; what begins or ends with the window may have any.
        self._first = ids[begin] if begin else None
        self._last = ids[end - 1] if end < len(ids) else None
        reaches = (begin and ends[begin] > variant) or (end < len(ids) and ends[end - 2] < after)
        self._exact = not reaches
        left, right = view.left[start:], view.right[: max(0, stop - after)] if end < len(ids) else view.right
        self.texts = [left + allele + right for allele in view.alleles[1:]]

    def spliced(self, near: Ids) -> Ids | None:
        """The ids of an allele's window, given those of its stretch; None if they have to be found in another way."""
        begins = self._first is None or near[0] == self._first
        ends = self._last is None or near[-1] == self._last
        return np.concatenate([self._before, near, self._after]) if self._exact and begins and ends else None


def _encoded(texts: Iterable[str], tokenizer: Tokenizer) -> dict[str, Ids]:
    distinct = list(dict.fromkeys(texts))
    threads = worthwhile_threads(sum(map(len, distinct)))
    return dict(zip(distinct, tokenizer.encode_raw_batch(distinct, num_threads=threads), strict=True))
