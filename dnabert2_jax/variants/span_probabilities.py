"""What a masked language model says about the alleles of spans: each input is run once, however many spans it serves."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.tokenizer.special import MASK, with_template
from dnabert2_jax.variants.llr import DnaPieces, Floats, log_mean, log_ratios
from dnabert2_jax.variants.spans import Ids, Span

Masked = Callable[[list[Ids]], Iterable[tuple[NDArray[np.integer], NDArray[np.float32]]]]
"""Runs inputs, and gives the numbers of some with as many masks, [R], and the log-probabilities at these, [R, masks, V]."""


def span_log_probabilities(spans: Sequence[Span], pieces: DnaPieces, masked: Masked) -> list[Floats]:
    """The ln P of each allele of some spans, among all strings of its length; [alleles] for each span.

    P is the mean over the numbers of tokens that the alleles have in the span; see :mod:`dnabert2_jax.variants.llr`.

    Args:
        spans: the spans.
        pieces: the tokenizer's.
        masked: runs the model.
    """
    if not spans:
        return []
    # All substitutions at a site ask for the same again and again.
    keys = [(span.prefix.tobytes(), span.suffix.tobytes(), span.strings) for span in spans]
    distinct = dict(zip(keys, spans, strict=True))
    asked = list(distinct.values())
    inputs: dict[bytes, Ids] = {}
    needed: dict[bytes, list[tuple[int, int]]] = {}
    for number, span in enumerate(asked):
        for nth, count in enumerate(range(min(span.counts), max(span.counts) + 1)):
            ids = with_template(np.concatenate([span.prefix, np.full(count, MASK, np.int32), span.suffix]))
            inputs[ids.tobytes()] = ids
            needed.setdefault(ids.tobytes(), []).append((number, nth))
    wanted = list(needed.values())
    sizes = np.array([len(span.strings) for span in asked], np.int64)
    first = np.cumsum(sizes) - sizes
    ratios = np.full((1 + max(nth for own in wanted for _, nth in own), sizes.sum()), np.nan)
    for group, log_p in masked(list(inputs.values())):
        serves = [(row, *served) for row, one in enumerate(group) for served in wanted[one]]
        rows, numbers, nths = (np.array(part) for part in zip(*serves, strict=True))
        place = np.concatenate([np.arange(first[n], first[n] + sizes[n]) for n in numbers])
        strings = [string for n in numbers for string in asked[n].strings]
        each = sizes[numbers]
        ratios[np.repeat(nths, each), place] = log_ratios(log_p, np.repeat(rows, each), strings, pieces)
    found = dict(zip(distinct, np.split(log_mean(ratios), first[1:]), strict=True))
    return [found[key] for key in keys]
