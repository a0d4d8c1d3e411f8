"""Confidence intervals of test scores, by the bootstrap over rows (Efron and Tibshirani 1993, percentile intervals).

Every score here is a function of sums over rows, or of ranks, so all resamples are computed with a few matrix products
instead of one by one.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.config.model import TaskKind
from dnabert2_jax.metrics.scores import ranks

RESAMPLES = 1000
LEVEL = 0.95
SEED = 0
_CELLS_AT_ONCE = 2**22
"""Resamples times rows held in memory at once."""

Weights = NDArray[np.float64]
"""How often each row is drawn in each resample, [resamples, rows]."""


class Intervals(TypedDict):
    """Percentile intervals of scores; JSON-ready.

    They estimate how the scores would vary over other test rows of the same kind, not over training seeds.

    Attributes:
        level: confidence level.
        resamples: number of tables of the same size, drawn with replacement from the test table.
        seed: seed of the draws.
        scores: (low, high) by score; scores that are undefined in more than half of the resamples are omitted.
    """

    level: float
    resamples: int
    seed: int
    scores: dict[str, tuple[float, float]]


# An undefined score is 0 / 0, which is NaN.
@np.errstate(divide="ignore", invalid="ignore")
def confidence_intervals(task: TaskKind, labels: NDArray[Any], outputs: NDArray[np.floating]) -> Intervals:
    """Intervals of a task's scores on one table.

    Args:
        task: single_label: ``mcc``, ``macro_f1``, ``accuracy``, ``auroc``; multi_label: ``mcc``, ``macro_f1``, ``micro_f1``,
            ``accuracy``, ``auroc``; regression: ``pearson``, ``r2``, ``rmse``, and ``spearman`` with the ranks of the whole
            table.
        labels: encoded labels, as for the scores, [rows] or [rows, C].
        outputs: probabilities or measurements, [rows, C].
    """
    compute = {"single_label": _of_classes, "multi_label": _of_labels, "regression": _of_measurements}[task]
    return _percentiles(
        [compute(np.asarray(labels), np.asarray(outputs, np.float64), weights) for weights in _resamples(len(labels))]
    )


@np.errstate(divide="ignore", invalid="ignore")
def base_intervals(labels: NDArray[Any], outputs: NDArray[np.floating], *, several: bool) -> Intervals:
    """The interval of ``macro_f1``, the mean F1 of bases over labels, with windows resampled instead of rows.

    Neighboring windows are not independent, so the interval is slightly too narrow.

    Args:
        labels: as for :func:`~dnabert2_jax.metrics.bases.base_metrics`, by window. [rows, L] or [rows, L, C].
        outputs: probabilities. [rows, L, C].
        several: whether a base may have several labels.
    """
    classes = range(0 if several else 1, outputs.shape[-1])
    decided = outputs > 0.5 if several else outputs.argmax(-1)
    counts = np.zeros((3, len(labels), len(classes)))
    for n, c in enumerate(classes):
        truth, prediction = (labels[..., c] == 1, decided[..., c]) if several else (labels == c, decided == c)
        prediction = prediction & ((labels[..., 0] if several else labels) >= 0)
        counts[:, :, n] = [(truth & prediction).sum(1), truth.sum(1), prediction.sum(1)]
    parts = []
    for weights in _resamples(len(labels)):
        right, labeled, predicted = weights @ counts
        of_label = 2 * right / (labeled + predicted)  # NaN for a label that does not occur
        parts.append({"macro_f1": _mean_of_defined(of_label, axis=1)})
    return _percentiles(parts)


def _percentiles(parts: Sequence[Mapping[str, Weights]]) -> Intervals:
    """Intervals of scores, from parts that hold some of the resamples each."""
    tail = 100 * (1 - LEVEL) / 2
    scores = {}
    for name in parts[0]:
        values = np.concatenate([part[name] for part in parts])
        values = values[np.isfinite(values)]
        if len(values) > RESAMPLES / 2:
            low, high = np.percentile(values, [tail, 100 - tail])
            scores[name] = float(low), float(high)
    return Intervals(level=LEVEL, resamples=RESAMPLES, seed=SEED, scores=scores)


def _resamples(rows: int) -> Iterator[Weights]:
    generator = np.random.default_rng(SEED)
    at_once = max(1, min(RESAMPLES, _CELLS_AT_ONCE // rows))
    for start in range(0, RESAMPLES, at_once):
        number = min(at_once, RESAMPLES - start)
        drawn = generator.integers(0, rows, (number, rows)) + np.arange(number)[:, None] * rows
        yield np.bincount(drawn.ravel(), minlength=number * rows).reshape(number, rows).astype(np.float64)


def _of_classes(labels: NDArray[Any], probabilities: NDArray[np.float64], weights: Weights) -> Mapping[str, Weights]:
    classes = np.arange(probabilities.shape[1])
    truth, prediction = labels[:, None] == classes, probabilities.argmax(1)[:, None] == classes
    right, labeled, predicted = (weights @ part.astype(np.float64) for part in (truth & prediction, truth, prediction))
    rows, correct = weights.sum(1), right.sum(1)
    # Gorodkin's R_K; 0 where it is undefined, as in the scores.
    covariance = correct * rows - (labeled * predicted).sum(1)
    scale = np.sqrt((rows**2 - (labeled**2).sum(1)) * (rows**2 - (predicted**2).sum(1)))
    mcc = np.where(scale > 0, covariance / scale, 0.0)
    of_class = 2 * right / (labeled + predicted)  # NaN for a class that does not occur
    areas = np.stack([_auroc(truth[:, c], probabilities[:, c], weights) for c in classes[1 if len(classes) == 2 else 0 :]])
    return {"mcc": mcc, "macro_f1": _mean_of_defined(of_class, axis=1), "accuracy": correct / rows, "auroc": areas.mean(0)}


def _of_labels(labels: NDArray[Any], probabilities: NDArray[np.float64], weights: Weights) -> Mapping[str, Weights]:
    truth, prediction = labels > 0, probabilities > 0.5
    right, labeled, predicted = (weights @ part.astype(np.float64) for part in (truth & prediction, truth, prediction))
    rows, decisions = weights.sum(1), truth.size
    scale = np.sqrt(labeled * (rows[:, None] - labeled) * predicted * (rows[:, None] - predicted))
    mcc = np.where(scale > 0, (right * rows[:, None] - labeled * predicted) / scale, 0.0)
    of_label = 2 * right / (labeled + predicted)  # NaN for a label that does not occur
    macro = np.nan_to_num(_mean_of_defined(of_label, axis=1), nan=0.0)
    micro = 2 * right.sum(1) / (labeled.sum(1) + predicted.sum(1))
    areas = np.stack([_auroc(truth[:, c], probabilities[:, c], weights) for c in range(truth.shape[1])])
    accuracy = weights @ (truth == prediction).sum(1) / decisions
    auroc = _mean_of_defined(areas, axis=0)
    return {"mcc": mcc.mean(1), "macro_f1": macro, "micro_f1": micro, "accuracy": accuracy, "auroc": auroc}


def _mean_of_defined(scores: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """The mean of the scores that are not NaN; NaN where all are."""
    return np.asarray(np.nansum(scores, axis=axis) / np.isfinite(scores).sum(axis))


def _of_measurements(labels: NDArray[Any], values: NDArray[np.float64], weights: Weights) -> Mapping[str, Weights]:
    truth, prediction = labels.reshape(-1).astype(np.float64), values[:, 0]
    mean = weights / weights.sum(1, keepdims=True)
    square = mean @ np.square(prediction - truth)
    r2 = 1 - square / (mean @ np.square(truth) - np.square(mean @ truth))
    return {
        "spearman": _correlation(ranks(truth), ranks(prediction), mean),
        "pearson": _correlation(truth, prediction, mean),
        "r2": r2,
        "rmse": np.sqrt(square),
    }


def _correlation(x: NDArray[np.float64], y: NDArray[np.float64], mean: Weights) -> NDArray[np.float64]:
    x, y = x - x.mean(), y - y.mean()  # for numerical precision only
    mean_x, mean_y = mean @ x, mean @ y
    spread = (mean @ x**2 - mean_x**2) * (mean @ y**2 - mean_y**2)
    return np.where(spread > 0, (mean @ (x * y) - mean_x * mean_y) / np.sqrt(spread), 0.0)


def _auroc(positive: NDArray[np.bool_], score: NDArray[np.float64], weights: Weights) -> NDArray[np.float64]:
    """Area under the ROC curve for each resample: fraction of correctly ordered pairs, ties count one half. [resamples]."""
    order = np.argsort(score, kind="stable")
    firsts = np.flatnonzero(np.diff(score[order], prepend=-np.inf))
    sorted_weights = weights[:, order]
    above = np.add.reduceat(sorted_weights * positive[order], firsts, axis=1)
    below = np.add.reduceat(sorted_weights * ~positive[order], firsts, axis=1)
    pairs = (above * (np.cumsum(below, axis=1) - below / 2)).sum(1)
    return np.asarray(pairs / (above.sum(1) * below.sum(1)))
