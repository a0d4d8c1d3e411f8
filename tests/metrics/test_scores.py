import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnabert2_jax.errors import UserError
from dnabert2_jax.metrics.scores import (
    classification_metrics,
    collapse_advice,
    multi_label_metrics,
    regression_metrics,
    save_metrics,
    scores_without,
)


def one_hot(predictions: list[int], num_classes: int) -> np.ndarray:
    return np.eye(num_classes, dtype=np.float32)[predictions] * 0.7 + 0.3 / num_classes


def test_two_classes_by_hand():
    labels = np.array([1, 1, 1, 0, 0, 0, 0, 0])
    probabilities = np.array([0.9, 0.8, 0.3, 0.6, 0.2, 0.1, 0.1, 0.05])
    scores = classification_metrics(labels, np.stack([1 - probabilities, probabilities], 1), ["no", "yes"])
    # Two true positives, one false negative, one false positive, four true negatives.
    assert scores["confusion_matrix"] == [[4, 1], [1, 2]]
    assert scores["mcc"] == pytest.approx((2 * 4 - 1) / np.sqrt(3 * 3 * 5 * 5))
    assert scores["accuracy"] == 0.75
    assert scores["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert scores["auroc"] == pytest.approx(14 / 15)  # one of the 3 x 5 pairs is in the wrong order
    assert (scores["label_counts"], scores["predicted_counts"]) == ([5, 3], [5, 3])
    assert (scores["n"], scores["classes"], scores["collapsed"]) == (8, ["no", "yes"], False)
    assert scores["auroc_undefined"] is None


def test_the_loss_is_the_mean_cross_entropy_and_stays_finite():
    scores = classification_metrics(np.array([0, 1]), np.array([[0.25, 0.75], [0.5, 0.5]]), ["a", "b"])
    assert scores["loss"] == pytest.approx((np.log(4) + np.log(2)) / 2)
    hopeless = classification_metrics(np.array([0, 1]), np.array([[0.0, 1.0], [0.0, 1.0]]), ["a", "b"])
    assert hopeless["loss"] == pytest.approx(126 * np.log(2) / 2)  # 2^-126 is float32's smallest normal number


def test_a_perfect_model_of_three_classes():
    scores = classification_metrics(np.array([0, 1, 2, 1]), one_hot([0, 1, 2, 1], 3), ["a", "b", "c"])
    assert [scores[key] for key in ("mcc", "macro_f1", "accuracy", "auroc")] == pytest.approx([1, 1, 1, 1])
    assert scores["confusion_matrix"] == [[1, 0, 0], [0, 2, 0], [0, 0, 1]]


def test_macro_f1_is_over_the_classes_that_occur():
    scores = classification_metrics(np.array([0, 1, 0, 1]), one_hot([0, 1, 0, 1], 3), ["a", "b", "c"])
    assert scores["macro_f1"] == 1
    assert scores["auroc"] is None
    assert scores["auroc_undefined"] == "no row has the label c"


def test_one_class_in_a_table_of_one_class_is_no_collapse():
    scores = classification_metrics(np.zeros(5, int), np.tile([0.9, 0.1], (5, 1)), ["no", "yes"])
    assert (scores["collapsed"], scores["accuracy"]) == (False, 1.0)


@pytest.mark.parametrize(
    ("method", "advice"), [("probe", "training.method=lora or full"), ("full", "raise the learning rate")]
)
def test_advice_for_a_collapsed_run_is_of_its_method(method, advice):
    assert advice in collapse_advice(method)


@pytest.mark.parametrize(("label", "mcc", "accuracy"), [([0, 1, 1], 0, 1 / 3), ([1, 1, 1], 0, 0)])
def test_a_collapsed_model(label, mcc, accuracy):
    scores = classification_metrics(np.array(label), one_hot([0, 0, 0], 2), ["a", "b"])
    assert scores["collapsed"]
    assert scores["predicted_counts"] == [3, 0]
    assert (scores["mcc"], scores["accuracy"]) == (mcc, pytest.approx(accuracy))
    assert (scores["auroc"] is None) == (len(set(label)) == 1)


@given(st.data(), st.integers(2, 5), st.integers(1, 40))
def test_scores_are_consistent_and_survive_json(tmp_path_factory, data, num_classes, n):
    labels = np.array(data.draw(st.lists(st.integers(0, num_classes - 1), min_size=n, max_size=n)))
    seed = data.draw(st.integers(0, 2**32 - 1))
    probabilities = np.random.default_rng(seed).dirichlet(np.ones(num_classes), n).astype(np.float32)
    names = [f"class {c}" for c in range(num_classes)]
    scores = classification_metrics(labels, probabilities, names)
    matrix = np.array(scores["confusion_matrix"])
    assert matrix.sum() == scores["n"] == n
    assert scores["accuracy"] == pytest.approx(np.trace(matrix) / n)
    assert matrix.sum(axis=1).tolist() == scores["label_counts"] == np.bincount(labels, minlength=num_classes).tolist()
    assert matrix.sum(axis=0).tolist() == scores["predicted_counts"]
    assert -1 <= scores["mcc"] <= 1
    assert (scores["auroc"] is None) == (scores["auroc_undefined"] is not None) == (len(set(labels)) < num_classes)
    path = tmp_path_factory.getbasetemp() / "scores.json"
    save_metrics(path, scores)
    assert json.loads(path.read_text(encoding="utf-8")) == scores


def test_a_diverged_model_is_named():
    with pytest.raises(UserError, match=r"1 of 2 rows are not finite.*lower learning rate"):
        classification_metrics(np.array([0, 1]), np.array([[0.5, 0.5], [np.nan, np.nan]]), ["a", "b"])


def test_shapes_must_fit():
    with pytest.raises(ValueError, match=r"2 labels and 3 names.*\(2, 2\)"):
        classification_metrics(np.array([0, 1]), np.full((2, 2), 0.5), ["a", "b", "c"])
    with pytest.raises(ValueError, match="0 labels"):
        classification_metrics(np.zeros(0, int), np.zeros((0, 2)), ["a", "b"])


def test_a_file_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "scores.json"
    save_metrics(path, {"mcc": 0.5})
    with pytest.raises(ValueError, match="JSON"):
        save_metrics(path, {"mcc": float("nan")})
    assert json.loads(path.read_text()) == {"mcc": 0.5}
    assert [file.name for file in tmp_path.iterdir()] == ["scores.json"]


def test_several_labels_by_hand():
    """Label b is right throughout, a is wrong in one of four rows, and nothing has c."""
    labels = np.array([[1, 1, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0]])
    probabilities = np.array([[0.9, 0.8, 0.1], [0.2, 0.7, 0.2], [0.4, 0.4, 0.1], [0.1, 0.3, 0.3]])
    scores = multi_label_metrics(labels, probabilities, ["a", "b", "c"])
    assert scores["by_label"]["a"] == {
        "rows": 2,
        "predicted": 1,
        "mcc": pytest.approx(1 / 3**0.5),
        "f1": pytest.approx(2 / 3),
        "auroc": 1.0,
        "auprc": 1.0,
    }
    assert scores["by_label"]["c"] == {"rows": 0, "predicted": 0, "mcc": 0.0, "f1": None, "auroc": None, "auprc": None}
    assert scores["undefined"] == ["c"]
    assert scores["mcc"] == pytest.approx((1 / 3**0.5 + 1 + 0) / 3)
    assert scores["macro_f1"] == pytest.approx((2 / 3 + 1) / 2)
    assert scores["micro_f1"] == pytest.approx(6 / 7)  # 3 right of 3 said and 4 to be said
    assert (scores["accuracy"], scores["exact_match"]) == (pytest.approx(11 / 12), 0.75)
    right = np.where(labels > 0, probabilities, 1 - probabilities)
    assert scores["loss"] == pytest.approx(-np.log(right).mean())
    assert not scores["collapsed"]
    assert multi_label_metrics(labels, np.full((4, 3), 0.4), ["a", "b", "c"])["collapsed"]


@pytest.mark.parametrize("logit", [-30.0, -12.0, 12.0, 16.0, 20.0, 80.0])
def test_a_probability_that_was_rounded_to_one_is_no_certain_mistake(logit):
    """In float32 a sigmoid is 1 from a logit of 17 on: that costs what can be known, and never more than it should."""
    probability = 1 / (1 + np.exp(-np.float32([[logit, -logit]])))
    loss = multi_label_metrics(np.zeros((1, 2)), probability, ["a", "b"])["loss"]
    exact = abs(logit) / 2  # of the two labels together, and the other one costs next to nothing
    assert loss <= exact * 1.01
    assert loss >= min(exact, 8.5) * 0.99


@given(st.lists(st.tuples(st.integers(-1000, 1000), st.integers(-1000, 1000)), min_size=2, max_size=20))
def test_measurements_are_scored_alike_in_any_unit(rows):
    measured, predicted = np.array(rows).T / 7
    scores = regression_metrics(measured, predicted, deviation=2.0)
    other = regression_metrics(10 * measured + 5, 10 * predicted + 5, deviation=20.0)
    for key in ("pearson", "spearman", "r2", "loss"):
        assert other[key] == (None if scores[key] is None else pytest.approx(scores[key], rel=1e-6, abs=1e-6))
    for key in ("mae", "rmse"):
        assert other[key] == pytest.approx(10 * scores[key])
    assert scores["mae"] <= scores["rmse"] * (1 + 1e-9)
    assert abs(scores["pearson"]) <= 1 + 1e-9


def test_measurements_by_hand():
    measured, predicted = np.array([1.0, 2.0, 4.0, 4.0]), np.array([1.5, 1.0, 3.0, 5.0])
    scores = regression_metrics(measured, predicted, deviation=0.5)
    assert scores["pearson"] == pytest.approx(np.corrcoef(measured, predicted)[0, 1])
    assert scores["spearman"] == pytest.approx(np.corrcoef([1, 2, 3.5, 3.5], [2, 1, 3, 4])[0, 1])
    assert scores["r2"] == pytest.approx(1 - 3.25 / 6.75)
    assert (scores["mae"], scores["rmse"]) == (pytest.approx(0.875), pytest.approx((3.25 / 4) ** 0.5))
    assert scores["loss"] == pytest.approx(3.25 / 4 / 0.25)


def test_what_never_varies_has_no_correlation():
    same = regression_metrics(np.array([1.0, 2.0, 3.0]), np.full(3, 2.0), deviation=1.0)
    assert (same["pearson"], same["spearman"], same["r2"], same["collapsed"]) == (0, 0, 0, True)
    flat = regression_metrics(np.full(3, 2.0), np.array([1.0, 2.0, 3.0]), deviation=1.0)
    assert (flat["pearson"], flat["r2"], flat["collapsed"]) == (0, None, False)


def test_scores_of_other_tasks_need_rows_that_fit_and_numbers():
    with pytest.raises(UserError, match="the predictions of 1 of 2 rows are not finite"):
        regression_metrics(np.zeros(2), np.array([0.0, np.inf]), deviation=1.0)
    with pytest.raises(UserError, match="the probabilities of 1 of 2 rows are not finite"):
        multi_label_metrics(np.zeros((2, 2)), np.array([[0.5, 0.5], [0.5, np.nan]]), ["a", "b"])
    with pytest.raises(ValueError, match=r"predictions of shape \(3,\)"):
        regression_metrics(np.zeros(2), np.zeros(3), deviation=1.0)
    with pytest.raises(ValueError, match="do not fit"):
        multi_label_metrics(np.zeros((2, 2)), np.zeros((2, 3)), ["a", "b"])


def test_scores_without_rows_are_the_scores_of_the_others():
    rng = np.random.default_rng(0)
    labels, probabilities = rng.integers(0, 2, 40), rng.dirichlet((1, 1), 40)
    lines = np.arange(2, 42)
    expected = classification_metrics(labels[5:], probabilities[5:], ["a", "b"])
    assert scores_without(labels, probabilities, ["a", "b"], lines, [2, 3, 4, 5, 6, 1000]) == expected
    assert scores_without(labels, probabilities, ["a", "b"], lines, lines.tolist()) is None
