"""What a classifier scored, by scikit-learn, ready for JSON."""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, matthews_corrcoef, roc_auc_score

from dnabert2_jax.errors import UserError

_SMALLEST = float(np.finfo(np.float32).tiny)  # a softmax in float32 underflows to 0 where the loss would be infinite


class ClassificationMetrics(TypedDict):
    """Scores of one table.

    Attributes:
        mcc: Matthews correlation coefficient, for any number of classes (Gorodkin 2004); 0 where it is undefined.
        macro_f1: unweighted mean of the F1 of every class that occurs among the labels or the predictions.
        accuracy: share of rows predicted right.
        loss: mean cross-entropy in nats; a label's probability counts as 1e-38 at least.
        auroc: area under the ROC curve; for three classes or more the mean over one-vs-rest. None where undefined.
        auroc_undefined: why ``auroc`` is None, else None.
        n: rows.
        classes: names of the classes, in the order of every list below.
        label_counts: rows of each class.
        predicted_counts: rows predicted as each class.
        confusion_matrix: rows are labels, columns predictions.
        collapsed: every row was predicted as the same class, as happens when fine-tuning diverges.
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
        probabilities: of each class, rows summing to 1, [rows, C].
        names: of the classes, C of them.

    Raises:
        UserError: a probability is not finite.
        ValueError: the shapes do not fit each other, or there are no rows.
    """
    probabilities = np.asarray(probabilities, np.float64)
    num_classes = len(names)
    if not len(labels) or probabilities.shape != (len(labels), num_classes):
        raise ValueError(f"{len(labels)} labels and {num_classes} names, but probabilities of shape {probabilities.shape}")
    if unusable := int(np.count_nonzero(~np.isfinite(probabilities).all(axis=1))):
        raise UserError(
            f"the probabilities of {unusable} of {len(labels)} rows are not finite: the model has diverged; train again "
            "with a lower learning rate or a longer warm-up"
        )
    predictions = probabilities.argmax(axis=1)
    of_labels = np.maximum(probabilities[np.arange(len(labels)), labels], _SMALLEST)
    matrix = confusion_matrix(labels, predictions, labels=range(num_classes))
    label_counts, predicted_counts = matrix.sum(axis=1), matrix.sum(axis=0)

    auroc, undefined = None, None
    if absent := [name for name, count in zip(names, label_counts, strict=True) if count == 0]:
        undefined = f"no row has the label {' or '.join(absent)}"
    elif num_classes == 2:
        auroc = float(roc_auc_score(labels, probabilities[:, 1]))
    else:
        auroc = float(roc_auc_score(labels, probabilities, multi_class="ovr", average="macro", labels=range(num_classes)))

    # One and the same class everywhere: scikit-learn gives 0 there too, with a warning about the confusion matrix.
    one_class = np.array_equal(predicted_counts, label_counts) and np.count_nonzero(label_counts) == 1
    return ClassificationMetrics(
        mcc=0.0 if one_class else float(matthews_corrcoef(labels, predictions)),
        macro_f1=float(f1_score(labels, predictions, average="macro", zero_division=0)),
        accuracy=float(accuracy_score(labels, predictions)),
        loss=float(-np.log(of_labels).mean()),
        auroc=auroc,
        auroc_undefined=undefined,
        n=len(labels),
        classes=list(names),
        label_counts=label_counts.tolist(),
        predicted_counts=predicted_counts.tolist(),
        confusion_matrix=matrix.tolist(),
        collapsed=int(np.count_nonzero(predicted_counts)) == 1,
    )


def save_metrics(path: Path, metrics: Mapping[str, Any]) -> None:
    """Write metrics as JSON; the file appears whole or not at all.

    Raises:
        UserError: the file cannot be written.
        ValueError: a number is not finite, which JSON cannot say.
    """
    text = json.dumps(metrics, indent=2, allow_nan=False, ensure_ascii=False)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise UserError(f"{path} could not be written ({error.strerror}); make room or choose another place") from error
