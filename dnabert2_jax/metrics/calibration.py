"""Calibration: how well probabilities match observed frequencies, and the temperature that improves the match.

For classes, this compares the probability of the predicted class with whether it is correct (Guo et al. 2017); for multiple
labels, the probability of each label with whether the row has it. Dividing logits by a temperature changes neither the
predicted class nor which labels are above one half.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_expit, log_softmax, logit, softmax

from dnabert2_jax.errors import UserError
from dnabert2_jax.metrics.scores import LEFT_OF_ONE, SMALLEST

BINS = 15
_MOST = 1000.0


class Reliability(NamedTuple):
    """Decisions by their probability, in bins of equal width; empty bins are omitted.

    Attributes:
        probabilities: the mean in each bin. [bins].
        shares: fraction of correct decisions in each bin. [bins].
        counts: decisions in each bin. [bins].
    """

    probabilities: NDArray[np.float64]
    shares: NDArray[np.float64]
    counts: NDArray[np.int64]

    @property
    def error(self) -> float:
        """The expected calibration error: the mean distance of probability and share over all decisions."""
        return float(np.average(np.abs(self.probabilities - self.shares), weights=self.counts))


def reliability(labels: NDArray[Any], probabilities: NDArray[np.floating]) -> Reliability:
    """How probabilities compare with the fraction of correct decisions.

    Args:
        labels: class numbers [rows]; or 1 where a row has the label, else 0, [rows, C].
        probabilities: [rows, C].
    """
    given = np.asarray(probabilities, np.float64)
    if labels.ndim == 1:
        given, right = given.max(1), given.argmax(1) == labels
    else:
        given, right = given.ravel(), labels.ravel() > 0
    bins = np.minimum((given * BINS).astype(int), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    filled = counts > 0
    means = [np.bincount(bins, values, BINS)[filled] / counts[filled] for values in (given, right)]
    return Reliability(means[0], means[1], counts[filled])


def fit_temperature(labels: NDArray[Any], probabilities: NDArray[np.floating]) -> float:
    """The temperature that minimizes the cross-entropy, which has a single minimum.

    Args:
        labels: as for :func:`reliability`.
        probabilities: at a temperature of 1. [rows, C].

    Raises:
        UserError: there is none, because all predictions are correct, or no better than chance.
    """
    from scipy.optimize import minimize_scalar  # slow to import

    logits = _logits(labels, probabilities)
    if labels.ndim == 1:
        in_favor = logits[np.arange(len(labels)), labels] - logits.mean(1)
        all_right = (logits.argmax(1) == labels).all()
    else:
        in_favor = np.where(labels > 0, logits, -logits)
        all_right = (in_favor > 0).all()
    if all_right:
        raise UserError(
            f"all {len(labels):,} rows are predicted correctly, so no temperature fits; use a larger table, or leave the "
            "model as it is"
        )
    if in_favor.mean() <= 0:  # the slope of the loss where the temperature is infinite
        raise UserError(
            f"the model does no better than chance on these {len(labels):,} rows, so no temperature fits; check that the "
            "table belongs to the model"
        )

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        if labels.ndim == 1:
            return float(-log_softmax(scaled, axis=1)[np.arange(len(labels)), labels].mean())
        return float(-log_expit(np.where(labels > 0, scaled, -scaled)).mean())

    limit = np.log(_MOST)
    found = minimize_scalar(loss, bounds=(-limit, limit), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def tempered(labels: NDArray[Any], probabilities: NDArray[np.floating], temperature: float) -> NDArray[np.float64]:
    """Probabilities at another temperature; arguments as for :func:`fit_temperature`. [rows, C]."""
    scaled = _logits(labels, probabilities) / temperature
    return np.asarray(softmax(scaled, axis=1) if labels.ndim == 1 else expit(scaled))


def _logits(labels: NDArray[Any], probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    """Logits, up to a constant that a softmax cancels; the shape of the labels says whether probabilities sum to 1."""
    given = np.asarray(probabilities, np.float64)
    if labels.ndim == 1:
        return np.log(np.maximum(given, SMALLEST))
    return np.asarray(logit(np.clip(given, SMALLEST, 1 - LEFT_OF_ONE)))
