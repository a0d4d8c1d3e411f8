import json

import numpy as np
import pytest

from dnabert2_jax.metrics import intervals
from dnabert2_jax.metrics.intervals import confidence_intervals
from dnabert2_jax.metrics.scores import classification_metrics, multi_label_metrics, regression_metrics
from dnabert2_jax.metrics.tasks import TASK_METRICS


def table(task: str, rows: int = 60):
    """Labels and outputs that agree somewhat, with ties among the outputs."""
    random = np.random.default_rng(3)
    if task == "single_label":
        labels = random.integers(0, 3, rows)
        outputs = np.round(np.eye(3)[labels] + random.exponential(0.8, (rows, 3)), 1) + 0.01
        return labels, outputs / outputs.sum(1, keepdims=True)
    if task == "multi_label":
        labels = (random.random((rows, 3)) < 0.4).astype(np.float32)
        return labels, np.clip(np.round(0.6 * labels + 0.6 * random.random((rows, 3)), 1), 0.01, 0.99)
    labels = random.normal(size=rows)
    return labels, (labels + random.normal(size=rows))[:, None]


def score(task: str, labels, outputs):
    if task == "single_label":
        return classification_metrics(labels, outputs, ["a", "b", "c"])
    if task == "multi_label":
        return multi_label_metrics(labels, outputs, ["a", "b", "c"])
    return regression_metrics(labels, outputs[:, 0], deviation=1.0)


@pytest.mark.parametrize("task", ["single_label", "multi_label", "regression"])
def test_each_resample_is_scored_as_scikit_learn_scores_its_rows(task, monkeypatch):
    labels, outputs = table(task)
    monkeypatch.setattr(intervals, "RESAMPLES", 20)
    [weights] = intervals._resamples(len(labels))
    compute = {
        "single_label": intervals._of_classes,
        "multi_label": intervals._of_labels,
        "regression": intervals._of_measurements,
    }[task]
    computed = compute(labels, outputs.astype(np.float64), weights)
    for draw, counts in enumerate(weights.astype(int)):
        rows = np.repeat(np.arange(len(labels)), counts)
        expected = score(task, labels[rows], outputs[rows])
        for name in computed.keys() - {"spearman"}:  # whose ranks are those of the whole table
            assert computed[name][draw] == pytest.approx(expected[name], abs=1e-9), name
    assert computed.keys() >= TASK_METRICS[task].shown.keys() - {"auprc"}


@pytest.mark.parametrize("task", ["single_label", "multi_label", "regression"])
def test_an_interval_holds_its_score_narrows_with_rows_and_repeats(task):
    few, many = (confidence_intervals(task, *table(task, rows)) for rows in (60, 6000))
    assert few == confidence_intervals(task, *table(task))
    scores = score(task, *table(task))
    for name, (low, high) in few["scores"].items():
        assert low < scores[name] < high
        assert many["scores"][name][1] - many["scores"][name][0] < (high - low) / 4
    assert json.loads(json.dumps(few))["resamples"] == 1000


def test_the_width_is_that_of_a_binomial():
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 2000)
    said = np.where(random.random(2000) < 0.8, labels, 1 - labels)
    low, high = confidence_intervals("single_label", labels, np.eye(2)[said])["scores"]["accuracy"]
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.8 * 0.2 / 2000), rel=0.1)


def test_a_score_that_is_not_defined_has_no_interval():
    labels = np.zeros(10, int)
    assert "auroc" not in confidence_intervals("single_label", labels, np.full((10, 2), 0.5))["scores"]


def test_memory_is_bounded(monkeypatch):
    whole = confidence_intervals("single_label", *table("single_label"))
    monkeypatch.setattr(intervals, "_CELLS_AT_ONCE", 60 * 100)
    assert confidence_intervals("single_label", *table("single_label"))["scores"] == whole["scores"]
