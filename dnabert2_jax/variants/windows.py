"""Windows of alleles as tokens: REF is tokenized as a whole, the other alleles only near the variant.

The alleles of a window differ in a few bases, and their byte pairs soon agree again on either side. So for every allele but
REF, only a stretch around the variant is tokenized, which begins and ends at token boundaries of REF; outside it, the tokens
are those of REF. This is exact if the first and last tokens of the stretch equal those of REF and do not reach the variant:
until a merge crosses an end of the stretch, both sides of that end merge as in REF, where no merge crosses it. Otherwise,
all alleles are tokenized as a whole.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from dnabert2_jax.tokenizer.base import Tokenizer, worthwhile_threads
from dnabert2_jax.tokenizer.bpe import BpeTokenizer
from dnabert2_jax.variants.alleles import View
from dnabert2_jax.variants.spans import Ids, Span, Stretch, find_spans

HALO = 24
"""Bases of a stretch on either side of the variant: after a cut, 99.9 % of sequences have the same tokens again after 17."""

_WHOLE_AT_ONCE = 16
"""Number of whole windows, which may be long, to compare as one array."""


@dataclass(frozen=True, slots=True)
class OneStrand:
    """An allele on one strand.

    Attributes:
        view: the alleles.
        span: the part between the tokens that all alleles share.
    """

    view: View
    span: Span

    @property
    def ref_and_alt(self) -> tuple[Ids, Ids]:
        """The windows of REF and ALT as inputs of the model. [tokens of the row] each."""
        span = self.span
        return span.row(span.tokens[self.view.ref]), span.row(span.tokens[self.view.alt])


def spans_of_views(views: Sequence[View], tokenizer: Tokenizer) -> list[Span | None]:
    """The part of each view between the tokens that its alleles share; None if an allele's window has no tokens.

    Args:
        views: the alleles.
        tokenizer: any tokenizer.
    """
    near = _near_spans(views, tokenizer) if isinstance(tokenizer, BpeTokenizer) else [None] * len(views)
    windows = [view.windows() for view, span in zip(views, near, strict=True) if span is None]
    ids = _encoded(chain.from_iterable(windows), tokenizer)
    found: list[Span | None] = []
    for at in range(0, len(windows), _WHOLE_AT_ONCE):
        some = windows[at : at + _WHOLE_AT_ONCE]
        found += find_spans(some, [[ids[text] for text in own] for own in some], tokenizer)
    whole = iter(found)
    return [span or next(whole) for span in near]


def _near_spans(views: Sequence[View], tokenizer: Tokenizer) -> list[Span | None]:
    """The spans of views whose alleles agree again near the variant; None for other views."""
    if not views:
        return []
    windows = [view.window(view.ref) for view in views]
    encoded = _encoded(windows, tokenizer)
    stretches = _stretches(views, [encoded[window] for window in windows], tokenizer)
    known = [(*stretch, view.ref) for view, stretch in zip(views, stretches, strict=True) if stretch]
    near = _encoded((text for _, texts, ref in known for n, text in enumerate(texts) if n != ref), tokenizer)
    ids = [
        [window[begin:end] if n == ref else near[text] for n, text in enumerate(texts)]
        for (window, begin, end), texts, ref in known
    ]
    spans = iter(find_spans([texts for _, texts, _ in known], ids, tokenizer, [stretch for stretch, _, _ in known]))
    return [stretch and next(spans) for stretch in stretches]


def _stretches(views: Sequence[View], rows: Sequence[Ids], tokenizer: Tokenizer) -> list[tuple[Stretch, list[str]] | None]:
    """The stretch near the variant in each view, and its bases in each allele; None if an end token reaches the variant.

    Args:
        views: the alleles.
        rows: the ids of REF's window in each view. [tokens] each.
        tokenizer: the tokenizer that produced them.
    """
    counts = np.array(list(map(len, rows)))
    sizes = np.array([(len(view.left), len(view.alleles[view.ref]), len(view.right)) for view in views])
    # Offsets of the concatenated windows, in tokens and in bases.
    ends, base_ends = np.cumsum(counts), np.cumsum(sizes.sum(1))
    starts, base_starts = ends - counts, base_ends - sizes.sum(1)
    bounds = np.concatenate([[0], np.cumsum(tokenizer.piece_lengths[np.concatenate(rows)])])
    variants = base_starts + sizes[:, 0]
    behind = variants + sizes[:, 1]
    first = np.maximum(starts, bounds.searchsorted(variants - HALO, "right") - 1)
    after = np.minimum(ends, bounds.searchsorted(behind + HALO))
    reaching = (first > starts) & (bounds.take(first + 1, mode="clip") > variants)
    reaching |= (after < ends) & (bounds[after - 1] < behind)
    places = (first - starts, after - starts, bounds[first] - base_starts, bounds[after] - behind, reaching)
    found: list[tuple[Stretch, list[str]] | None] = []
    for view, row, begin, end, before, rest, reaches in zip(views, rows, *(part.tolist() for part in places), strict=True):
        texts = [] if reaches else [view.left[before:] + allele + view.right[:rest] for allele in view.alleles]
        found.append((Stretch(row, begin, end), texts) if texts else None)
    return found


def _encoded(texts: Iterable[str], tokenizer: Tokenizer) -> dict[str, Ids]:
    distinct = list(dict.fromkeys(texts))
    threads = worthwhile_threads(sum(map(len, distinct)))
    return dict(zip(distinct, tokenizer.encode_raw_batch(distinct, num_threads=threads), strict=True))
