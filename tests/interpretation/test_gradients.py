"""Integrated gradients and saliency: closed forms, sums, and differences of f."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from dnabert2_jax import DNABERT2
from dnabert2_jax.errors import UserError
from dnabert2_jax.inference.prediction import predict
from dnabert2_jax.interpretation.gradients import Attributions
from dnabert2_jax.interpretation.ig import incomplete, integrated_gradients
from dnabert2_jax.interpretation.saliency import saliency
from dnabert2_jax.interpretation.target import target_values
from dnabert2_jax.tokenizer.special import MASK, with_template
from dnabert2_jax.types import TokenBatch
from tests.interpretation.helpers import log_odds, numbers_of_tokens
from tests.variants.helpers import LABELS


@pytest.fixture(scope="module")
def integrated(classifier, sequences) -> list[Attributions]:
    return integrated_gradients(classifier, sequences, LABELS[2], batch_tokens=160)  # the last batch is not full


def test_an_additive_model_in_closed_form(additive, sequences):
    numbers = numbers_of_tokens(additive)
    for result in integrated_gradients(additive, sequences):
        ids = result.token_ids
        np.testing.assert_array_equal(ids, additive.tokenizer.encode_raw(result.sequence))
        np.testing.assert_allclose(result.token_values, (numbers[ids] - numbers[MASK]) / len(ids), atol=1e-5)
        assert result.value == pytest.approx(numbers[ids].mean(), abs=1e-5)
        assert result.baseline_value == pytest.approx(numbers[MASK], abs=1e-5)


def test_contributions_add_up_to_the_output_minus_the_baseline(classifier, sequences, integrated):
    outputs = predict(classifier, sequences, batch_tokens=1).outputs[:, 2]
    for result, p in zip(integrated, outputs, strict=True):
        assert result.value == pytest.approx(log_odds(p), abs=2e-5)
        difference = result.value - result.baseline_value
        assert abs(difference) > 0.1
        assert result.contributions.sum(dtype=np.float64) == pytest.approx(difference, abs=1e-4)
        assert result.completeness_error < 1e-3
    masks = with_template(np.full(len(integrated[0].token_ids), MASK, np.int32))
    logits = DNABERT2(classifier).class_logits(masks[None])[0].astype(np.float64)
    assert integrated[0].baseline_value == pytest.approx(logits[2] - np.logaddexp(*logits[:2]), abs=2e-5)
    assert incomplete(integrated) is None


def test_the_bases_of_a_token_share_alike(classifier, integrated):
    for result in integrated:
        assert len(result.contributions) == len(result.sequence)
        ends = np.cumsum(result.token_bases)
        for end, bases, value in zip(ends, result.token_bases, result.token_values, strict=True):
            np.testing.assert_allclose(result.contributions[end - bases : end], value / bases, rtol=1e-6)
        assert set(result.token_bases.tolist()) > {1}


def test_saliency_is_the_slope_of_the_output_towards_each_token(classifier, sequences):
    (result, *_) = saliency(classifier, sequences, LABELS[0])
    forward, params = classifier.predictor.forward, classifier.predictor.params
    words = np.asarray(params["encoder"]["embeddings"]["word"])
    ids = with_template(result.token_ids)[None]
    batch = TokenBatch(ids, np.ones_like(ids), np.zeros_like(ids))

    @jax.jit
    def f(vectors: np.ndarray) -> jax.Array:
        return target_values(forward, params, batch, None, 0, vectors)[0]

    step = 1e-2
    for token in (0, len(result.token_ids) // 2, len(result.token_ids) - 1):
        way = np.zeros_like(words[ids])
        way[0, token + 1] = words[ids[0, token + 1]] - words[MASK]
        slope = float(f(words[ids] + step * way) - f(words[ids] - step * way)) / (2 * step)
        assert result.token_values[token] == pytest.approx(slope, rel=2e-2, abs=1e-4)
    assert result.value == pytest.approx(float(f(words[ids])), abs=1e-5)
    assert np.isnan(result.baseline_value)


def test_contributions_that_do_not_add_up_are_remarked_on(integrated):
    off = replace(integrated[1], token_values=integrated[1].token_values * np.float32(1.02))
    assert off.completeness_error == pytest.approx(0.02, abs=1e-3)
    assert incomplete([integrated[0], off]) == (
        "contributions of 1 of 2 sequences miss f(sequence) - f(baseline) by more than 1%, the worst 'second' by 2.0%: "
        "raise --points (points=), and compute in float32; if f(sequence) is near f(baseline), there is little to divide"
    )


def test_a_masked_language_model_has_no_output_to_differentiate(mlm, sequences):
    with pytest.raises(UserError, match="tiny is a masked_lm; ig needs a classifier"):
        integrated_gradients(mlm, sequences)


def test_a_sum_needs_points(classifier, sequences):
    with pytest.raises(UserError, match="--points 0: the sum needs at least 1 point"):
        integrated_gradients(classifier, sequences, LABELS[0], points=0)
