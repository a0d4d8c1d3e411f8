"""Scores of labels at every base: of bases, and of the segments that they form."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.metrics.scores import LEFT_OF_ONE, SMALLEST, check_finite, confusion_matrix, mcc, mean_of_known


class LabelMetrics(TypedDict):
    """Scores of one label.

    Attributes:
        bases: bases with the label.
        predicted: bases predicted to have it.
        f1: F1 of bases; None if no base has the label, in truth or by prediction.
        auprc: area under the precision-recall curve of bases (average precision); None if all bases have the label or none.
        top_k: top-k accuracy (as in SpliceAI; Jaganathan et al. 2019): of the k bases with the highest probability, the
            fraction with the label, where k is the number of bases with the label. In expectation over ties at the k-th
            place. None if k is 0.
        segments: maximal runs of bases with the label.
        predicted_segments: maximal runs of bases predicted to have it.
        segment_f1: F1 of segments; a predicted segment is correct if its overlap with a true one is more than half of their
            union, so that no two match the same one. None if there are no segments.
        exact_f1: the same, but both ends must be exact.
    """

    bases: int
    predicted: int
    f1: float | None
    auprc: float | None
    top_k: float | None
    segments: int
    predicted_segments: int
    segment_f1: float | None
    exact_f1: float | None


class BaseMetrics(TypedDict):
    """Scores of labels at every base; the class ``background``, if there is one, is not a label.

    If a base has one class, the most probable one is predicted; if it may have several labels, those with a probability
    above one half.

    Attributes:
        auprc, top_k, segment_f1, exact_f1, macro_f1: means over the labels for which they are defined; the last is F1 of
            bases. None if undefined for all (``macro_f1`` is 0 then).
        mcc: Matthews correlation coefficient of bases over all classes (Gorodkin 2004); with several labels, its mean over
            labels. 0 if undefined.
        accuracy: fraction of bases predicted correctly; with several labels, of all decisions.
        loss: mean cross-entropy per base, in nats; with several labels, the binary cross-entropy, averaged over labels.
        n: number of bases.
        classes: names of the outputs.
        by_label: the scores of each label.
        collapsed: every base has the same prediction, although labels differ.
    """

    auprc: float | None
    top_k: float | None
    segment_f1: float | None
    exact_f1: float | None
    macro_f1: float
    mcc: float
    accuracy: float
    loss: float
    n: int
    classes: list[str]
    by_label: dict[str, LabelMetrics]
    collapsed: bool


class Segments(NamedTuple):
    """Runs of positions, in order: the first position, and one past the last. [n] each."""

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]


def joined(rows: NDArray[Any], breaks: NDArray[np.bool_]) -> NDArray[Any]:
    """Concatenate rows [rows, L, ...], with a position that does not count between rows that are not adjacent.

    Args:
        rows: labels (-1 does not count) or outputs.
        breaks: whether each row does not continue the previous one. [rows].

    Returns:
        [positions, ...].
    """
    flat = rows.reshape(-1, *rows.shape[2:])
    fill = -1 if np.issubdtype(rows.dtype, np.integer) else 0
    return np.insert(flat, np.flatnonzero(breaks) * rows.shape[1], fill, axis=0)


def base_metrics(
    labels: NDArray[np.integer], probabilities: NDArray[np.floating], names: Sequence[str], *, several: bool
) -> BaseMetrics:
    """Score the probabilities of bases against their labels.

    Args:
        labels: of the bases along the contigs: class numbers [positions], where 0 is the background, or 0 and 1 for each
            label [positions, C]. A position with -1 does not count, and ends a segment.
        probabilities: [positions, C].
        names: of the C outputs.
        several: whether a base may have several labels.

    Raises:
        UserError: a probability is not finite.
        ValueError: the shapes do not match, or no base counts.
    """
    counts = (labels if labels.ndim == 1 else labels[:, 0]) >= 0
    if not counts.any() or probabilities.shape != (len(labels), len(names)) or labels.ndim != 1 + several:
        raise ValueError(f"labels {labels.shape}, probabilities {probabilities.shape} and {len(names)} names do not fit")
    check_finite("probabilities", probabilities[counts])
    first = 0 if several else 1
    decided = probabilities > 0.5 if several else probabilities.argmax(1)
    by_label = {}
    for c, name in enumerate(names[first:], start=first):
        truth, prediction = (labels[:, c] == 1, decided[:, c]) if several else (labels == c, decided == c)
        by_label[name] = _of_label(truth, prediction, probabilities[:, c], counts)
    truth, prediction, given = labels[counts], decided[counts], probabilities[counts].astype(np.float64)
    if several:
        of_truth = np.where(truth == 1, np.maximum(given, SMALLEST), np.maximum(1 - given, LEFT_OF_ONE))
        of_labels = [mcc(confusion_matrix(truth[:, c], prediction[:, c], 2)) for c in range(len(names))]
        correlation = float(np.mean(of_labels))
        collapsed = bool((prediction == prediction[0]).all() and (truth != truth[0]).any())
    else:
        of_truth = np.maximum(given[np.arange(len(truth)), truth], SMALLEST)
        correlation = mcc(confusion_matrix(truth, prediction, len(names)))
        collapsed = bool((prediction == prediction[0]).all() and (truth != prediction[0]).any())
    return BaseMetrics(
        auprc=mean_of_known([scores["auprc"] for scores in by_label.values()]),
        top_k=mean_of_known([scores["top_k"] for scores in by_label.values()]),
        segment_f1=mean_of_known([scores["segment_f1"] for scores in by_label.values()]),
        exact_f1=mean_of_known([scores["exact_f1"] for scores in by_label.values()]),
        macro_f1=mean_of_known([scores["f1"] for scores in by_label.values()]) or 0.0,
        mcc=correlation,
        accuracy=float((truth == prediction).mean()),
        loss=float(-np.log(of_truth).mean()),
        n=int(np.count_nonzero(counts)),
        classes=list(names),
        by_label=by_label,
        collapsed=collapsed,
    )


def _of_label(
    truth: NDArray[np.bool_], prediction: NDArray[np.bool_], score: NDArray[np.floating], counts: NDArray[np.bool_]
) -> LabelMetrics:
    from sklearn.metrics import average_precision_score

    truth, prediction = truth & counts, prediction & counts
    bases, predicted = int(np.count_nonzero(truth)), int(np.count_nonzero(prediction))
    true_segments, predicted_segments = segments_of(truth), segments_of(prediction)
    total = len(true_segments.starts) + len(predicted_segments.starts)
    shared, exact = matching_segments(true_segments, predicted_segments)
    defined = 0 < bases < np.count_nonzero(counts)
    return LabelMetrics(
        bases=bases,
        predicted=predicted,
        f1=2 * int(np.count_nonzero(truth & prediction)) / (bases + predicted) if bases + predicted else None,
        auprc=float(average_precision_score(truth[counts], score[counts])) if defined else None,
        top_k=top_k_accuracy(truth[counts], score[counts]),
        segments=len(true_segments.starts),
        predicted_segments=len(predicted_segments.starts),
        segment_f1=2 * shared / total if total else None,
        exact_f1=2 * exact / total if total else None,
    )


def top_k_accuracy(truth: NDArray[np.bool_], score: NDArray[np.floating]) -> float | None:
    """The fraction of the k highest scores that belong to one of the k true positions; None if k is 0.

    Positions that tie with the k-th are equally likely to be among the k: the expected fraction is returned.

    Args:
        truth: [n].
        score: [n].
    """
    k = int(np.count_nonzero(truth))
    if not k:
        return None
    threshold = np.partition(score, len(score) - k)[len(score) - k]
    above, tied = score > threshold, score == threshold
    left = k - np.count_nonzero(above)
    hits = np.count_nonzero(truth & above) + left * np.count_nonzero(truth & tied) / np.count_nonzero(tied)
    return float(hits / k)


def segments_of(mask: NDArray[np.bool_]) -> Segments:
    """The maximal runs of true positions. [n]."""
    edges = np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0))
    return Segments(edges[::2], edges[1::2])


def matching_segments(truth: Segments, prediction: Segments) -> tuple[int, int]:
    """Counts of predicted segments that share more than half of the union with a true one, and that equal one."""
    first = np.searchsorted(truth.ends, prediction.starts, "right")
    counts = np.searchsorted(truth.starts, prediction.ends, "left") - first
    of_prediction = np.repeat(np.arange(len(counts)), counts)
    of_truth = np.arange(len(of_prediction)) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts)
    starts, ends = truth.starts[of_truth], truth.ends[of_truth]
    shared = np.minimum(ends, prediction.ends[of_prediction]) - np.maximum(starts, prediction.starts[of_prediction])
    union = np.maximum(ends, prediction.ends[of_prediction]) - np.minimum(starts, prediction.starts[of_prediction])
    return int(np.count_nonzero(2 * shared > union)), int(np.count_nonzero(shared == union))
