"""The number that is explained, for each kind of task."""

import jax.numpy as jnp
import numpy as np
import pytest

from dnabert2_jax.config.model import HeadConfig
from dnabert2_jax.errors import UserError
from dnabert2_jax.interpretation.target import choose_target, unbounded
from dnabert2_jax.modeling.heads import head_outputs
from tests.interpretation.helpers import log_odds
from tests.variants.helpers import LABELS

LOGITS = np.random.default_rng(0).normal(size=(5, 2, 3)).astype(np.float32)


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_log_odds_are_those_of_the_probabilities(task):
    head = HeadConfig(task=task)
    p = np.asarray(head_outputs(jnp.asarray(LOGITS), head))
    for number in range(3):
        np.testing.assert_allclose(unbounded(jnp.asarray(LOGITS), number, head), log_odds(p[..., number]), atol=1e-5)


def test_a_measurement_is_in_its_own_unit():
    head = HeadConfig(task="regression", mean=4.0, deviation=0.5)
    one = jnp.asarray(LOGITS[..., :1])
    np.testing.assert_allclose(unbounded(one, 0, head), head_outputs(one, head)[..., 0])


def test_log_odds_do_not_saturate():
    assert float(unbounded(jnp.asarray([40.0, 0.0, -1.0]), 0, HeadConfig())) == pytest.approx(40 - np.log1p(np.exp(-1)))


def test_a_target_by_its_name(classifier, additive, mlm):
    assert [choose_target(classifier, label, "ism").number for label in LABELS] == [0, 1, 2]
    assert choose_target(additive, None, "ism").unit == "strength"
    with pytest.raises(UserError, match=r"--target strong: tiny has no such class; accepted are strength \(did you mean"):
        choose_target(additive, "strong", "ism")
    with pytest.raises(UserError, match="tiny is a masked_lm; saliency needs a classifier"):
        choose_target(mlm, None, "saliency")
