"""Windows of alleles as tokens: REF is tokenized as a whole, the other alleles only near the variant.

The alleles of a window differ in a few bases, and their byte pairs soon agree again on either side. So for every allele but
REF, only a stretch around the variant is tokenized, which begins and ends at token boundaries of REF; outside it, the tokens
are those of REF. This is exact if the first and last tokens of the stretch equal those of REF and do not reach the variant:
until a merge crosses an end of the stretch, both sides of that end merge as in REF, where no merge crosses it. Otherwise,
the stretch is made longer, and in the end all alleles are tokenized as a whole.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from dnabert2_jax.tokenizer.base import Tokenizer, worthwhile_threads
from dnabert2_jax.tokenizer.bpe import BpeTokenizer
from dnabert2_jax.variants.alleles import View
from dnabert2_jax.variants.spans import Ids, Span, Stretch, find_spans

HALOS = (12, 48)
"""Bases of a stretch on either side of the variant, to be tried in turn: few stretches need more than the first."""

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
    found: list[Span | None] = [None] * len(views)
    if isinstance(tokenizer, BpeTokenizer):
        windows = [view.window(view.ref) for view in views]
        encoded = _encoded(windows, tokenizer)
        for halo in HALOS:
            left = [n for n, span in enumerate(found) if span is None]
            near = iter(_near_spans([views[n] for n in left], [encoded[windows[n]] for n in left], halo, tokenizer))
            found = [span or next(near) for span in found]
    whole = iter(_whole_spans([view for view, span in zip(views, found, strict=True) if span is None], tokenizer))
    return [span or next(whole) for span in found]


def _near_spans(views: Sequence[View], rows: Sequence[Ids], halo: int, tokenizer: Tokenizer) -> list[Span | None]:
    """The spans of views whose alleles agree again near the variant; None for other views.

    Args:
        views: the alleles.
        rows: the ids of REF's window in each view. [tokens] each.
        halo: bases of the stretch to tokenize on either side of the variant.
        tokenizer: the tokenizer that produced the ids.
    """
    if not views:
        return []
    stretches = _stretches(views, rows, halo, tokenizer)
    known = [(*stretch, view.ref) for view, stretch in zip(views, stretches, strict=True) if stretch]
    near = _encoded((text for _, texts, ref in known for n, text in enumerate(texts) if n != ref), tokenizer)
    ids = [
        [window[begin:end] if n == ref else near[text] for n, text in enumerate(texts)]
        for (window, begin, end), texts, ref in known
    ]
    spans = iter(find_spans([texts for _, texts, _ in known], ids, tokenizer, [stretch for stretch, _, _ in known]))
    return [stretch and next(spans) for stretch in stretches]


def _stretches(
    views: Sequence[View], rows: Sequence[Ids], halo: int, tokenizer: Tokenizer
) -> list[tuple[Stretch, list[str]] | None]:
    """The stretch near the variant in each view, and its bases in each allele; None if an end token reaches the variant.

    The arguments are those of :func:`_near_spans`.
    """
    counts = np.array(list(map(len, rows)))
    sizes = np.array([(len(view.left), len(view.alleles[view.ref]), len(view.right)) for view in views])
    # Offsets of the concatenated windows, in tokens and in bases.
    ends, base_ends = np.cumsum(counts), np.cumsum(sizes.sum(1))
    starts, base_starts = ends - counts, base_ends - sizes.sum(1)
    bounds = np.concatenate([[0], np.cumsum(tokenizer.piece_lengths[np.concatenate(rows)])])
    variants = base_starts + sizes[:, 0]
    behind = variants + sizes[:, 1]
    first = np.maximum(starts, bounds.searchsorted(variants - halo, "right") - 1)
    after = np.minimum(ends, bounds.searchsorted(behind + halo))
    reaching = (first > starts) & (bounds.take(first + 1, mode="clip") > variants)
    reaching |= (after < ends) & (bounds[after - 1] < behind)
    places = (first - starts, after - starts, bounds[first] - base_starts, bounds[after] - behind, reaching)
    found: list[tuple[Stretch, list[str]] | None] = []
    for view, row, begin, end, before, rest, reaches in zip(views, rows, *(part.tolist() for part in places), strict=True):
        if reaches:
            found.append(None)
            continue
        left, right = view.left[before:], view.right[:rest]
        found.append((Stretch(row, begin, end), [left + allele + right for allele in view.alleles]))
    return found


def _whole_spans(views: Sequence[View], tokenizer: Tokenizer) -> list[Span | None]:
    """The spans of views, from the tokens of all alleles' whole windows; None if an allele's window has no tokens."""
    windows = [view.windows() for view in views]
    ids = _encoded(chain.from_iterable(windows), tokenizer)
    found: list[Span | None] = []
    for at in range(0, len(windows), _WHOLE_AT_ONCE):
        some = windows[at : at + _WHOLE_AT_ONCE]
        found += find_spans(some, [[ids[text] for text in own] for own in some], tokenizer)
    return found


def _encoded(texts: Iterable[str], tokenizer: Tokenizer) -> dict[str, Ids]:
    distinct = list(dict.fromkeys(texts))
    threads = worthwhile_threads(sum(map(len, distinct)))
    return dict(zip(distinct, tokenizer.encode_raw_batch(distinct, num_threads=threads), strict=True))
