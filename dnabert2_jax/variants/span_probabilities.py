"""Probabilities of the alleles of spans under a masked language model; inputs shared by several spans are run once."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.tokenizer.special import MASK
from dnabert2_jax.variants.llr import DnaPieces, Floats, log_mean, log_ratios
from dnabert2_jax.variants.spans import Ids, Span

Masked = Callable[[list[Ids]], Iterable[tuple[NDArray[np.integer], NDArray[np.float32]]]]
"""Runs inputs in groups with equal numbers of masks: yields indices, [R], and log-probabilities, [R, masks, V]."""


def span_log_probabilities(spans: Sequence[Span], pieces: DnaPieces, masked: Masked) -> list[Floats]:
    """The ln P of each allele of some spans, among all strings of its length; [alleles] for each span.

    P is averaged over the range of token counts of the alleles in the span; see :mod:`dnabert2_jax.variants.llr`.

    Args:
        spans: the spans.
        pieces: the tokenizer's DNA pieces.
        masked: runs the model.
    """
    if not spans:
        return []
    # All substitutions at a site have the same span: compute each distinct span once.
    keys = [(span.prefix.tobytes(), span.suffix.tobytes(), span.strings) for span in spans]
    distinct = dict(zip(keys, spans, strict=True))
    asked = list(distinct.values())
    inputs: dict[bytes, Ids] = {}
    numbers: dict[bytes, int] = {}
    needed: list[tuple[int, int, int]] = []
    ranges = [range(min(span.counts), max(span.counts) + 1) for span in asked]
    masks = np.full(max(counts.stop for counts in ranges), MASK, np.int32)
    for number, (span, counts) in enumerate(zip(asked, ranges, strict=True)):
        for nth, count in enumerate(counts):
            ids = span.row(masks[:count])
            key = ids.tobytes()
            inputs.setdefault(key, ids)
            needed.append((numbers.setdefault(key, len(numbers)), number, nth))
    of_input, of_span, of_count = np.array(needed).T
    sizes = np.array([len(span.strings) for span in asked])
    first = np.cumsum(sizes) - sizes
    ratios = np.full((1 + of_count.max(), sizes.sum()), np.nan)
    row = np.empty(len(inputs), np.int64)
    for group, log_p in masked(list(inputs.values())):
        row[:] = -1
        row[group] = np.arange(len(group))
        served = np.flatnonzero(row[of_input] >= 0)
        own = of_span[served]
        each = sizes[own]
        place = np.arange(each.sum()) + np.repeat(first[own] - np.cumsum(each) + each, each)
        strings = [string for number in own.tolist() for string in asked[number].strings]
        rows = np.repeat(row[of_input[served]], each)
        ratios[np.repeat(of_count[served], each), place] = log_ratios(log_p, rows, strings, pieces)
    means = log_mean(ratios)
    bounds = zip(distinct, first.tolist(), sizes.tolist(), strict=True)
    found = {key: means[at : at + size] for key, at, size in bounds}
    return [found[key] for key in keys]
