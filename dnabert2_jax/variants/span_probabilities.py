"""What a masked language model says about the alleles of spans: each input is run once, however many spans it serves."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.tokenizer.special import MASK, with_template
from dnabert2_jax.variants.llr import DnaPieces, Floats, log_mean, log_ratios
from dnabert2_jax.variants.spans import Ids, Span

Masked = Callable[[list[Ids]], Iterable[tuple[int, NDArray[np.float32]]]]
"""Runs inputs, and gives each one's number with the log-probabilities at its masks, [masks, V]."""


def span_log_probabilities(spans: Sequence[Span], pieces: DnaPieces, masked: Masked) -> list[Floats]:
    """The ln P of each allele of some spans, among all strings of its length; [alleles] for each span.

    P is the mean over the numbers of tokens that the alleles have in the span; see :mod:`dnabert2_jax.variants.llr`.

    Args:
        spans: the spans.
        pieces: the tokenizer's.
        masked: runs the model.
    """
    inputs: dict[bytes, Ids] = {}
    needed: dict[bytes, list[int]] = {}
    for number, span in enumerate(spans):
        for count in range(min(span.counts), max(span.counts) + 1):
            ids = with_template(np.concatenate([span.prefix, np.full(count, MASK, np.int32), span.suffix]))
            inputs[ids.tobytes()] = ids
            needed.setdefault(ids.tobytes(), []).append(number)
    wanted = list(needed.values())
    ratios: list[list[Floats]] = [[] for _ in spans]
    for row, log_p in masked(list(inputs.values())):
        # Neighboring sites, and all substitutions at a site, ask for the same strings again and again.
        known: dict[tuple[str, ...], Floats] = {}
        for number in wanted[row]:
            strings = spans[number].strings
            if strings not in known:
                known[strings] = log_ratios(log_p, strings, pieces)
            ratios[number].append(known[strings])
    return [log_mean(np.stack(own)) for own in ratios]
