"""Probabilities of alleles of many spans: each input runs once, in whatever order, and each span gets its own mean."""

import numpy as np
import pytest

from dnabert2_jax.tokenizer.special import MASK
from dnabert2_jax.variants.llr import DnaPieces, log_mean, log_ratios
from dnabert2_jax.variants.span_probabilities import span_log_probabilities
from dnabert2_jax.variants.spans import Ids, Span
from tests.genome.helpers import random_dna
from tests.helpers import tiny_tokenizer
from tests.variants.helpers import find_span


def log_p_of(ids: Ids, vocab_size: int) -> np.ndarray:
    """Log-probabilities at the masks of an input, as some model has them."""
    rng = np.random.default_rng(ids.astype(np.uint32))
    return np.log(rng.dirichlet(np.ones(vocab_size), np.count_nonzero(ids == MASK))).astype(np.float32)


def test_inputs_that_spans_share_are_run_once():
    tokenizer = tiny_tokenizer()
    pieces, letters = DnaPieces(tokenizer), random_dna(40, 1)
    spans: list[Span] = []
    for site in range(10, 30):
        four = [letters[:site] + base + letters[site + 1 :] for base in "ACGT"]
        spans.append(find_span(four, tokenizer.encode_raw_batch(four), tokenizer))
    run: list[bytes] = []

    def masked(inputs):
        run.extend(ids.tobytes() for ids in inputs)
        return [(np.array([n]), log_p_of(inputs[n], tokenizer.vocab_size)[None]) for n in reversed(range(len(inputs)))]

    found = span_log_probabilities(spans, pieces, masked)
    wanted = sum(max(span.counts) - min(span.counts) + 1 for span in spans)
    assert len(run) == len(set(run)) < wanted
    for span, own in zip(spans, found, strict=True):
        assert np.exp(own).sum() < 1
        ((alone,),) = [span_log_probabilities([span], pieces, masked)]
        np.testing.assert_allclose(own, alone, rtol=1e-12)


def test_the_mean_is_over_the_numbers_of_tokens():
    tokenizer = tiny_tokenizer()
    pieces = DnaPieces(tokenizer)
    tokens = (np.zeros(1, np.int32), np.zeros(3, np.int32))
    span = Span(np.array([7], np.int32), np.array([8], np.int32), ("ACG", "ATG"), tokens)
    rows: list[np.ndarray] = []

    def masked(inputs):
        for n, ids in enumerate(inputs):
            assert ids[1] == 7
            assert ids[-2] == 8
            rows.append(log_p_of(ids, tokenizer.vocab_size))
            yield np.array([n]), rows[-1][None]

    (found,) = span_log_probabilities([span], pieces, masked)
    assert [len(log_p) for log_p in rows] == [1, 2, 3]
    zeros = np.zeros(2, int)
    assert found == pytest.approx(log_mean(np.stack([log_ratios(row[None], zeros, span.strings, pieces) for row in rows])))


def test_no_spans():
    assert span_log_probabilities([], DnaPieces(tiny_tokenizer()), lambda inputs: iter(())) == []
