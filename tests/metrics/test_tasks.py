import numpy as np
import pytest

from dnabert2_jax.data.base_labels import BaseLabels
from dnabert2_jax.data.labels import LabelSet, Measurements, MultiLabelSet
from dnabert2_jax.metrics.bases import base_metrics
from dnabert2_jax.metrics.scores import classification_metrics, multi_label_metrics, regression_metrics
from dnabert2_jax.metrics.tasks import TASK_METRICS

CASES = {
    "single_label": (LabelSet(("a", "b")), np.array([0, 1, 1]), np.array([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3]])),
    "multi_label": (MultiLabelSet(("a", "b")), np.array([[0, 1], [1, 1], [1, 0.0]]), np.full((3, 2), 0.6)),
    "regression": (Measurements(2.0, 3.0), np.array([1.0, 2.0, 4.0]), np.array([[1.0], [2.5], [3.0]])),
    "per_base": (BaseLabels(("a", "b"), False, 64), np.array([-1, 0, 1]), np.array([[1, 0], [0.9, 0.1], [0.4, 0.6]])),
}


@pytest.mark.parametrize("task", TASK_METRICS)
def test_a_task_is_scored_by_its_own_metrics_and_all_that_is_shown_is_there(task):
    predicted, labels, outputs = CASES[task]
    metrics = TASK_METRICS[task]
    scores = metrics.compute(labels, outputs, predicted.names, predicted.head)
    direct = {
        "single_label": lambda: classification_metrics(labels, outputs, ("a", "b")),
        "multi_label": lambda: multi_label_metrics(labels, outputs, ("a", "b")),
        "regression": lambda: regression_metrics(labels, outputs[:, 0], deviation=3.0),
        "per_base": lambda: base_metrics(labels, outputs, ("a", "b"), several=False),
    }
    assert scores == direct[task]()
    assert metrics.main in metrics.shown
    assert set(metrics.shown) < set(scores)
    assert f"{metrics.shown[metrics.main]} {scores[metrics.main]:.4f}" in metrics.summary(scores)
    assert metrics.brief(scores) == f"{metrics.shown[metrics.main]} {scores[metrics.main]:.3f}"


def test_an_undefined_main_score_is_said_too():
    scores = base_metrics(np.zeros(3, int), np.eye(2)[[0, 0, 0]], ("background", "gene"), several=False)
    assert TASK_METRICS["per_base"].brief(scores) == "AUPRC undefined"
    assert "dev_auprc" not in TASK_METRICS["per_base"].dev_line(scores)


def test_an_undefined_score_is_said_and_left_out_of_the_log():
    metrics = TASK_METRICS["single_label"]
    scores = classification_metrics(np.array([0, 0]), np.array([[0.9, 0.1], [0.6, 0.4]]), ["a", "b"])
    assert "AUROC undefined" in metrics.summary(scores)
    assert set(metrics.dev_line(scores)) == {"dev_mcc", "dev_macro_f1", "dev_accuracy", "dev_loss"}
