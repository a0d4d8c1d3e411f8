import numpy as np
import pytest
from scipy.special import expit, softmax

from dnabert2_jax.errors import UserError
from dnabert2_jax.metrics.calibration import BINS, fit_temperature, reliability, tempered


def drawn(temperature, several, rows=4000, classes=3):
    """Logits that are too large by a factor, and labels drawn with the probabilities of the right ones."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.5, (rows, classes))
    if several:
        return (rng.random((rows, classes)) < expit(logits)).astype(int), expit(logits * temperature)
    labels = (rng.random((rows, 1)) > softmax(logits, axis=1).cumsum(1)).sum(1)
    return labels, softmax(logits * temperature, axis=1)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_is_found_again(temperature, several):
    labels, probabilities = drawn(temperature, several)
    found = fit_temperature(labels, probabilities)
    assert found == pytest.approx(temperature, rel=0.07)  # four standard errors of 4,000 rows
    after = tempered(labels, probabilities, found)
    assert reliability(labels, after).error < 0.03
    if temperature != 1:
        assert reliability(labels, probabilities).error > 2 * reliability(labels, after).error


def test_no_other_temperature_has_a_lower_loss():
    labels, probabilities = drawn(3.0, several=False, rows=300)
    found = fit_temperature(labels, probabilities)

    def loss(temperature):
        return -np.log(tempered(labels, probabilities, temperature)[np.arange(300), labels]).mean()

    assert loss(found) < min(loss(found * factor) for factor in (0.2, 0.9, 0.999, 1.001, 1.1, 5))


@pytest.mark.parametrize("temperature", [0.2, 7.0])
def test_no_decision_changes(temperature):
    labels, probabilities = drawn(1.0, several=False)
    np.testing.assert_array_equal(tempered(labels, probabilities, temperature).argmax(1), probabilities.argmax(1))
    labels, probabilities = drawn(1.0, several=True)
    np.testing.assert_array_equal(tempered(labels, probabilities, temperature) > 0.5, probabilities > 0.5)


def test_the_error_against_bins_written_out():
    labels = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.9, 0.1], [0.91, 0.09], [0.92, 0.08], [0.45, 0.55]])
    bins = reliability(labels, probabilities)
    # 0.9, 0.91, and 0.92 are in the bin from 13/15 to 14/15, two of them right; 0.55 is in that from 8/15, and right.
    assert BINS == 15
    np.testing.assert_allclose(bins.probabilities, [0.55, 0.91])
    np.testing.assert_allclose(bins.shares, [1, 2 / 3])
    assert bins.counts.tolist() == [1, 3]
    assert bins.error == pytest.approx(0.25 * 0.45 + 0.75 * (0.91 - 2 / 3))
    certain = reliability(np.array([0]), np.array([[1.0, 0.0]]))
    assert (certain.error, certain.counts.tolist()) == (0, [1])


def test_labels_at_either_end_of_what_float32_can_say():
    labels = np.array([[1, 0], [0, 1]])
    after = tempered(labels, np.array([[1.0, 0.0], [0.5, 1e-30]], np.float32), 2.0)
    assert np.isfinite(after).all()
    assert after[1, 0] == 0.5


def test_a_table_without_mistakes_and_one_without_sense_have_no_temperature():
    probabilities = np.array([[0.7, 0.3], [0.2, 0.8]] * 10)
    with pytest.raises(UserError, match="all 20 rows are predicted correctly"):
        fit_temperature(np.array([0, 1] * 10), probabilities)
    with pytest.raises(UserError, match="the model does no better than chance on these 20 rows"):
        fit_temperature(np.array([1, 0] * 10), probabilities)
    several = np.eye(2)[[0, 1] * 10]
    with pytest.raises(UserError, match="all 20 rows are predicted correctly"):
        fit_temperature(several, probabilities)
    with pytest.raises(UserError, match="the model does no better than chance"):
        fit_temperature(1 - several, probabilities)
