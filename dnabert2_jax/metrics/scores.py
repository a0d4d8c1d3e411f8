"""Scores of classifiers and regressions, computed with scikit-learn; JSON-ready.

Importing scikit-learn takes longer than importing jax, so it is imported only in the functions that need it, here and in
other modules.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.errors import UserError
from dnabert2_jax.storage.atomic import write_bytes

SMALLEST = float(np.finfo(np.float32).tiny)  # a float32 softmax underflows to 0, where the loss would be infinite
LEFT_OF_ONE = 2.0**-25  # a float32 sigmoid rounds to 1 for logits of 17 or more


class ClassificationMetrics(TypedDict):
    """Classification scores on one table.

    Attributes:
        mcc: Matthews correlation coefficient, for any number of classes (Gorodkin 2004); 0 if undefined.
        macro_f1: unweighted mean F1 of the classes that occur among the labels or the predictions.
        accuracy: fraction of rows predicted correctly.
        loss: mean cross-entropy in nats; probabilities are clipped at 1e-38.
        auroc: area under the ROC curve; macro one-vs-rest average for three or more classes. None if undefined.
        auroc_undefined: why ``auroc`` is None, else None.
        n: number of rows.
        classes: names of the classes, in the order used by every list below.
        label_counts: rows of each class.
        predicted_counts: rows predicted as each class.
        confusion_matrix: counts; rows are labels, columns are predictions.
        collapsed: every row was predicted as the same class although the labels differ, as happens when fine-tuning diverges
            or never starts to learn.
    """

    mcc: float
    macro_f1: float
    accuracy: float
    loss: float
    auroc: float | None
    auroc_undefined: str | None
    n: int
    classes: list[str]
    label_counts: list[int]
    predicted_counts: list[int]
    confusion_matrix: list[list[int]]
    collapsed: bool


def classification_metrics(
    labels: NDArray[np.integer], probabilities: NDArray[np.floating], names: Sequence[str]
) -> ClassificationMetrics:
    """Score probabilities against labels; the prediction is the most probable class.

    Args:
        labels: class numbers, [rows].
        probabilities: class probabilities, rows summing to 1, [rows, C].
        names: names of the C classes.

    Raises:
        UserError: a probability is not finite.
        ValueError: the shapes do not match, or there are no rows.
    """
    from sklearn.metrics import f1_score, roc_auc_score

    probabilities = np.asarray(probabilities, np.float64)
    num_classes = len(names)
    if not len(labels) or probabilities.shape != (len(labels), num_classes):
        raise ValueError(f"{len(labels)} labels and {num_classes} names, but probabilities of shape {probabilities.shape}")
    check_finite("probabilities", probabilities)
    predictions = probabilities.argmax(axis=1)
    of_labels = np.maximum(probabilities[np.arange(len(labels)), labels], SMALLEST)
    matrix = confusion_matrix(labels, predictions, num_classes)
    label_counts, predicted_counts = matrix.sum(axis=1), matrix.sum(axis=0)

    auroc, undefined = None, None
    if absent := [name for name, count in zip(names, label_counts, strict=True) if count == 0]:
        undefined = f"no row has the label {' or '.join(absent)}"
    elif num_classes == 2:
        auroc = float(roc_auc_score(labels, probabilities[:, 1]))
    else:
        auroc = float(roc_auc_score(labels, probabilities, multi_class="ovr", average="macro", labels=range(num_classes)))

    return ClassificationMetrics(
        mcc=mcc(matrix),
        macro_f1=float(f1_score(labels, predictions, average="macro", zero_division=0)),
        accuracy=float((predictions == labels).mean()),
        loss=float(-np.log(of_labels).mean()),
        auroc=auroc,
        auroc_undefined=undefined,
        n=len(labels),
        classes=list(names),
        label_counts=label_counts.tolist(),
        predicted_counts=predicted_counts.tolist(),
        confusion_matrix=matrix.tolist(),
        collapsed=bool(np.count_nonzero(predicted_counts) == 1 and (predictions != labels).any()),
    )


def scores_without(
    labels: NDArray[np.integer],
    probabilities: NDArray[np.floating],
    names: Sequence[str],
    lines: NDArray[np.integer],
    excluded: Sequence[int],
) -> ClassificationMetrics | None:
    """The scores on the rows whose line is not excluded; None if no rows are left.

    Args:
        labels: class numbers, [rows].
        probabilities: [rows, C].
        names: names of the classes.
        lines: line numbers in the file, [rows].
        excluded: lines to exclude.
    """
    kept = ~np.isin(lines, excluded)
    return classification_metrics(labels[kept], probabilities[kept], names) if kept.any() else None


def collapse_advice(method: str) -> str:
    """Advice for a collapsed run, by fine-tuning method."""
    if method == "probe":
        return "the encoder's features do not separate the classes; train it: training.method=lora or full"
    return (
        "if the training loss never dropped below that of guessing, raise the learning rate or the number of steps; if it "
        "fell and rose again, lower the learning rate; otherwise try another seed"
    )


class MultiLabelMetrics(TypedDict):
    """Scores on a table whose rows may have several labels; a label is predicted if its probability is above one half.

    Attributes:
        mcc: mean Matthews correlation coefficient over labels; undefined ones count as 0.
        macro_f1: mean F1 of the labels that occur among the rows or the predictions.
        micro_f1: F1 of all decisions pooled.
        accuracy: fraction of all decisions (rows times labels) that are correct.
        exact_match: fraction of rows with all labels correct.
        loss: mean binary cross-entropy in nats; probabilities are clipped to [1e-38, 1 - 2**-25].
        auroc: mean area under the ROC curve over the labels for which it is defined; None if there are none.
        auprc: the same for average precision.
        undefined: labels that all rows or no rows have; excluded from ``auroc`` and ``auprc``.
        n: number of rows.
        classes: names of the labels.
        by_label: for each label, its ``rows``, ``predicted`` rows, ``mcc``, ``f1``, ``auroc`` and ``auprc``.
        collapsed: every row got the same prediction.
    """

    mcc: float
    macro_f1: float
    micro_f1: float
    accuracy: float
    exact_match: float
    loss: float
    auroc: float | None
    auprc: float | None
    undefined: list[str]
    n: int
    classes: list[str]
    by_label: dict[str, dict[str, float | None]]
    collapsed: bool


def multi_label_metrics(
    labels: NDArray[np.floating], probabilities: NDArray[np.floating], names: Sequence[str]
) -> MultiLabelMetrics:
    """Score the probability of each label.

    Args:
        labels: 1 where a row has the label, else 0, [rows, C].
        probabilities: [rows, C].
        names: names of the C labels.

    Raises:
        UserError: a probability is not finite.
        ValueError: the shapes do not match, or there are no rows.
    """
    from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

    truth, probabilities = np.asarray(labels) > 0, np.asarray(probabilities, np.float64)
    if not len(truth) or not truth.shape == probabilities.shape == (len(truth), len(names)):
        raise ValueError(f"labels {truth.shape}, probabilities {probabilities.shape} and {len(names)} names do not fit")
    check_finite("probabilities", probabilities)
    predicted = probabilities > 0.5
    by_label: dict[str, dict[str, float | None]] = {}
    for c, name in enumerate(names):
        has, says = truth[:, c], predicted[:, c]
        defined = 0 < has.sum() < len(has)
        by_label[name] = {
            "rows": int(has.sum()),
            "predicted": int(says.sum()),
            "mcc": mcc(confusion_matrix(has, says, 2)),
            "f1": float(f1_score(has, says, zero_division=0)) if has.any() or says.any() else None,
            "auroc": float(roc_auc_score(has, probabilities[:, c])) if defined else None,
            "auprc": float(average_precision_score(has, probabilities[:, c])) if defined else None,
        }
    of_truth = np.where(truth, np.maximum(probabilities, SMALLEST), np.maximum(1 - probabilities, LEFT_OF_ONE))
    means = {key: mean_of_known([scores[key] for scores in by_label.values()]) for key in ("mcc", "f1", "auroc", "auprc")}
    return MultiLabelMetrics(
        mcc=means["mcc"] or 0.0,
        macro_f1=means["f1"] or 0.0,
        micro_f1=float(f1_score(truth, predicted, average="micro", zero_division=0)),
        accuracy=float((truth == predicted).mean()),
        exact_match=float((truth == predicted).all(axis=1).mean()),
        loss=float(-np.log(of_truth).mean()),
        auroc=means["auroc"],
        auprc=means["auprc"],
        undefined=[name for name, scores in by_label.items() if scores["auroc"] is None],
        n=len(truth),
        classes=list(names),
        by_label=by_label,
        collapsed=bool((predicted == predicted[0]).all()),
    )


class RegressionMetrics(TypedDict):
    """Regression scores on one table.

    Attributes:
        pearson: correlation of measurements and predictions; 0 if either is constant.
        spearman: the same for their ranks.
        r2: coefficient of determination; None if the measurements are constant.
        mae: mean absolute error, in the unit of the measurements.
        rmse: root mean squared error, in the unit of the measurements.
        loss: mean squared error, in squared standard deviations of the training table.
        n: number of rows.
        collapsed: the predictions vary by less than a thousandth of the training table's standard deviation.
    """

    pearson: float
    spearman: float
    r2: float | None
    mae: float
    rmse: float
    loss: float
    n: int
    collapsed: bool


def regression_metrics(
    measured: NDArray[np.floating], predicted: NDArray[np.floating], *, deviation: float
) -> RegressionMetrics:
    """Score predictions against measurements.

    Args:
        measured: measurements, [rows].
        predicted: predictions in the same unit, [rows].
        deviation: standard deviation of the training table.

    Raises:
        UserError: a prediction is not finite.
        ValueError: the shapes do not match, or there are no rows.
    """
    from sklearn.metrics import r2_score

    truth, prediction = np.asarray(measured, np.float64), np.asarray(predicted, np.float64)
    if not len(truth) or truth.ndim != 1 or truth.shape != prediction.shape:
        raise ValueError(f"measurements of shape {truth.shape}, but predictions of shape {prediction.shape}")
    check_finite("predictions", prediction)
    errors = prediction - truth
    square = float(np.square(errors).mean())
    return RegressionMetrics(
        pearson=_correlation(truth, prediction),
        spearman=_correlation(ranks(truth), ranks(prediction)),
        r2=float(r2_score(truth, prediction)) if np.ptp(truth) > 0 else None,
        mae=float(np.abs(errors).mean()),
        rmse=square**0.5,
        loss=square / deviation**2,
        n=len(truth),
        collapsed=bool(np.ptp(prediction) < 1e-3 * deviation),
    )


Scores = Mapping[str, Any]
"""Scores on one table for any task: one of the three types above, or those of bases (``metrics/bases.py``)."""


def confusion_matrix(labels: NDArray[Any], predictions: NDArray[Any], classes: int) -> NDArray[np.int64]:
    """How often each class is predicted where each is true: rows are labels, columns are predictions. [C, C].

    Args:
        labels: class numbers, or booleans for two classes. [n].
        predictions: likewise. [n].
        classes: C.
    """
    pairs = np.bincount(labels.astype(np.int64) * classes + predictions, minlength=classes * classes)
    return pairs.reshape(classes, classes)


def mcc(matrix: NDArray[np.int64]) -> float:
    """Matthews correlation coefficient of a confusion matrix [C, C] (Gorodkin 2004); 0 if undefined."""
    counts = matrix.astype(np.float64)
    labeled, predicted, total = counts.sum(1), counts.sum(0), counts.sum()
    scale = (total**2 - (labeled**2).sum()) * (total**2 - (predicted**2).sum())
    return float((counts.trace() * total - labeled @ predicted) / np.sqrt(scale)) if scale > 0 else 0.0


def _correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    x, y = x - x.mean(), y - y.mean()
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))


def ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks, starting at 1; ties get their mean rank."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[group]


def mean_of_known(values: Sequence[float | None]) -> float | None:
    """The mean of the scores that are defined; None if none is."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def check_finite(what: str, values: NDArray[np.floating]) -> None:
    """Refuse outputs of a model that diverged.

    Raises:
        UserError: an output of some row is NaN or infinite.
    """
    finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if not finite.all():
        raise UserError(
            f"the {what} of {np.count_nonzero(~finite)} of {len(values)} rows are not finite: the model has diverged; train "
            "again with a lower learning rate or a longer warm-up"
        )


def save_metrics(path: Path, metrics: Mapping[str, Any]) -> None:
    """Write metrics as JSON, atomically.

    Raises:
        UserError: the file cannot be written.
        ValueError: a number is not finite, which JSON cannot represent.
    """
    text = json.dumps(metrics, indent=2, allow_nan=False, ensure_ascii=False)
    write_bytes(path, f"{text}\n".encode())
