"""Scores of labels at every base against their definitions, place by place and segment by segment."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, matthews_corrcoef

from dnabert2_jax.errors import UserError
from dnabert2_jax.metrics.bases import base_metrics, joined, matching_segments, segments_of, top_k_accuracy
from dnabert2_jax.metrics.intervals import base_intervals

MASKS = st.lists(st.booleans(), min_size=1, max_size=30).map(lambda places: np.array(places, bool))


def runs(mask):
    """Maximal runs of true places, one place after the other."""
    places = [n for n, one in enumerate(mask) if one]
    grouped = itertools.groupby(enumerate(places), key=lambda pair: pair[1] - pair[0])
    return [(group[0], group[-1] + 1) for _, pairs in grouped for group in [[place for _, place in pairs]]]


@given(mask=MASKS)
def test_segments_are_maximal_runs(mask):
    assert list(zip(*segments_of(mask), strict=True)) == runs(mask)


@given(data=st.data(), size=st.integers(1, 30))
def test_segments_match_if_they_share_more_than_half_of_their_union(data, size):
    truth, said = (np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)), bool) for _ in range(2))
    pairs = list(itertools.product(runs(truth), runs(said)))
    shared = [(len(set(range(*a)) & set(range(*b))), len(set(range(*a)) | set(range(*b)))) for a, b in pairs]
    expected = sum(2 * both > either for both, either in shared), sum(a == b for a, b in pairs)
    assert matching_segments(segments_of(truth), segments_of(said)) == expected


@given(truth=MASKS, data=st.data())
def test_top_k_is_the_mean_over_all_orders_of_ties(truth, data):
    truth = truth[:6]
    score = np.array(data.draw(st.lists(st.sampled_from([0.1, 0.5, 0.9]), min_size=len(truth), max_size=len(truth))))
    k = int(truth.sum())
    if not k:
        assert top_k_accuracy(truth, score) is None
        return
    found = []
    for order in itertools.permutations(range(len(truth))):
        best = sorted(order, key=lambda place: -score[place])[:k]  # stable: ties stay in the order of the permutation
        found.append(truth[best].mean())
    assert top_k_accuracy(truth, score) == pytest.approx(np.mean(found))


@pytest.fixture(scope="module")
def one_class():
    """Two labels along a stretch with places that do not count."""
    rng = np.random.default_rng(0)
    labels = np.repeat(rng.integers(-1, 3, 60), rng.integers(1, 9, 60)).astype(np.int8)
    logits = rng.normal(size=(len(labels), 3)) + 2 * np.eye(3)[np.maximum(labels, 0)]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return labels, probabilities.astype(np.float32)


def test_scores_of_one_class_a_base(one_class):
    labels, probabilities = one_class
    counts, said = labels >= 0, probabilities.argmax(1)
    scores = base_metrics(labels, probabilities, ["background", "gene", "tRNA"], several=False)
    truth, predicted, given = labels[counts], said[counts], probabilities[counts]
    assert scores["n"] == counts.sum()
    assert list(scores["by_label"]) == ["gene", "tRNA"]
    assert scores["accuracy"] == pytest.approx((truth == predicted).mean())
    assert scores["mcc"] == pytest.approx(matthews_corrcoef(truth, predicted))
    assert scores["macro_f1"] == pytest.approx(f1_score(truth, predicted, labels=[1, 2], average="macro"))
    assert scores["loss"] == pytest.approx(-np.log(given[np.arange(len(truth)), truth]).mean(), rel=1e-5)
    areas = [average_precision_score(truth == c, given[:, c]) for c in (1, 2)]
    assert scores["auprc"] == pytest.approx(np.mean(areas))
    for c, name in ((1, "gene"), (2, "tRNA")):
        of = scores["by_label"][name]
        true_runs, said_runs = runs((labels == c) & counts), runs((said == c) & counts)
        assert (of["segments"], of["predicted_segments"]) == (len(true_runs), len(said_runs))
        exact = len(set(true_runs) & set(said_runs))
        assert of["exact_f1"] == pytest.approx(2 * exact / (len(true_runs) + len(said_runs)))
        assert of["segment_f1"] >= of["exact_f1"]
    assert not scores["collapsed"]


def test_places_that_do_not_count_change_nothing(one_class):
    labels, probabilities = one_class
    names = ["background", "gene", "tRNA"]
    changed = np.where((labels < 0)[:, None], np.float32([0, 1, 0]), probabilities)
    assert base_metrics(labels, changed, names, several=False) == base_metrics(labels, probabilities, names, several=False)


def test_scores_of_several_labels_a_base():
    rng = np.random.default_rng(1)
    labels = np.repeat(rng.integers(0, 2, (40, 2)), 5, axis=0).astype(np.int8)
    labels[60:70] = -1
    probabilities = np.clip(0.3 + 0.4 * labels + rng.normal(0, 0.2, labels.shape), 0.01, 0.99).astype(np.float32)
    scores = base_metrics(labels, probabilities, ["a", "b"], several=True)
    truth, given = np.delete(labels, range(60, 70), 0), np.delete(probabilities, range(60, 70), 0)
    said = given > 0.5
    assert scores["mcc"] == pytest.approx(np.mean([matthews_corrcoef(truth[:, c], said[:, c]) for c in (0, 1)]))
    assert scores["accuracy"] == pytest.approx((truth == said).mean())
    assert scores["loss"] == pytest.approx(-np.log(np.where(truth, given, 1 - given)).mean(), rel=1e-5)
    assert scores["auprc"] == pytest.approx(np.mean([average_precision_score(truth[:, c], given[:, c]) for c in (0, 1)]))
    assert [of["bases"] for of in scores["by_label"].values()] == truth.sum(0).tolist()


def test_perfect_and_constant_predictions():
    labels = np.repeat([0, 1, 0, 1, 0], 10)
    perfect = base_metrics(labels, np.eye(2)[labels], ["background", "gene"], several=False)
    keys = ("auprc", "top_k", "segment_f1", "exact_f1", "macro_f1", "mcc", "accuracy")
    assert [perfect[key] for key in keys] == [1] * 7
    constant = base_metrics(labels, np.full((50, 2), [0.6, 0.4]), ["background", "gene"], several=False)
    assert constant["collapsed"]
    assert constant["by_label"]["gene"]["auprc"] == pytest.approx(0.4)
    assert constant["by_label"]["gene"]["top_k"] == pytest.approx(0.4)
    assert constant["mcc"] == 0
    assert constant["segment_f1"] == 0


def test_a_label_that_does_not_occur_is_left_out_of_the_means():
    labels = np.repeat([0, 1], 10)
    scores = base_metrics(labels, np.eye(3)[labels], ["background", "gene", "tRNA"], several=False)
    assert scores["by_label"]["tRNA"] == {
        **dict.fromkeys(("f1", "auprc", "top_k", "segment_f1", "exact_f1")),
        **dict.fromkeys(("bases", "predicted", "segments", "predicted_segments"), 0),
    }
    assert scores["auprc"] == 1


def test_a_diverged_model_is_named():
    with pytest.raises(UserError, match="probabilities of 1 of 2 rows are not finite"):
        base_metrics(np.array([0, 1]), np.array([[0.5, 0.5], [np.nan, 0.5]]), ["background", "gene"], several=False)


def test_a_segment_that_crosses_windows_is_one_and_one_that_meets_a_gap_is_two():
    rows = np.zeros((3, 4), np.int8)
    rows[0, 2:], rows[1, :2], rows[1, 3:], rows[2, :1] = 1, 1, 1, 1
    places = joined(rows, np.array([True, False, True]))
    assert places.tolist() == [-1, 0, 0, 1, 1, 1, 1, 0, 1, -1, 1, 0, 0, 0]
    assert len(segments_of(places == 1).starts) == 3
    outputs = joined(np.ones((3, 4, 2), np.float32), np.array([True, False, True]))
    assert outputs.shape == (14, 2)


@pytest.mark.parametrize("several", [False, True])
def test_the_interval_encloses_the_score_and_shrinks_with_more_windows(several):
    rng = np.random.default_rng(2)

    def width(windows):
        labels = rng.integers(0, 2, (windows, 20, 2) if several else (windows, 20)).astype(np.int8)
        labels[:, 15:] = -1
        wrong = rng.random((windows, 20, 1)) < rng.random((windows, 1, 1)) * 0.5
        own = np.maximum(labels, 0) if several else np.eye(2)[np.maximum(labels, 0)]
        outputs = np.abs(own - wrong)
        [(name, (low, high))] = base_intervals(labels, outputs, several=several)["scores"].items()
        names = ["a", "b"] if several else ["background", "gene"]
        score = base_metrics(*(joined(x, np.ones(windows, bool)) for x in (labels, outputs)), names, several=several)[name]
        assert low < score < high
        return high - low

    assert width(400) < 0.5 * width(25)
