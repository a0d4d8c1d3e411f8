"""Scores of a classifier on a labeled table."""

from collections.abc import Iterable
from dataclasses import dataclass

from dnabert2_jax.data.labels import Labels, saved_labels
from dnabert2_jax.data.sequences import Table
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.inference.prediction import Predictions, predict
from dnabert2_jax.metrics.calibration import reliability
from dnabert2_jax.metrics.intervals import Intervals, confidence_intervals
from dnabert2_jax.metrics.scores import Scores
from dnabert2_jax.metrics.tasks import TASK_METRICS


@dataclass(frozen=True)
class Evaluation:
    """Predictions of a classifier for a labeled table, and their scores.

    Attributes:
        scores: see ``metrics/scores.py``; for classes and labels also the expected ``calibration_error``, see
            ``metrics/calibration.py``.
        intervals: 95% confidence intervals of the main scores, see ``metrics/intervals.py``.
        predictions: the prediction for each row.
        labels: the meaning of the label column.
    """

    scores: Scores
    intervals: Intervals
    predictions: Predictions
    labels: Labels

    def summary(self) -> str:
        """The main scores, for the terminal."""
        shown = TASK_METRICS[self.labels.head.task].summary(self.scores, self.intervals)
        return f"{shown}  ({self.scores['n']:,} rows; 95% intervals)"


def evaluate(
    model: InferenceModel,
    table: Table,
    *,
    ensemble: Iterable[InferenceModel] = (),
    max_tokens: int | None = None,
    reverse_complement: bool = False,
    views: int = 1,
    batch_tokens: int | None = None,
    title: str | None = None,
) -> Evaluation:
    """Score a classifier; rows that are too long are truncated, as in training.

    Args:
        model: a classifier.
        table: rows with the labels that it was trained on.
        ensemble: further models; their mean prediction is scored.
        max_tokens: maximum row length; by default as in training.
        reverse_complement: average the predictions over both strands.
        views: average them over this many views, as :func:`~dnabert2_jax.inference.prediction.predict` does.
        batch_tokens: tokens per batch.
        title: title of a progress bar; None shows none.

    Raises:
        UserError: not a classifier, labels unknown to the model, or as for
            :func:`~dnabert2_jax.inference.prediction.predict`.
    """
    model.need("classifier", "scoring", "train one with `dnabert2 finetune`")
    labels = saved_labels(model.head, model.labels)
    encoded = labels.encode(table)
    predictions = predict(
        model,
        table,
        ensemble=ensemble,
        max_tokens=max_tokens,
        long="cut",
        reverse_complement=reverse_complement,
        views=views,
        batch_tokens=batch_tokens,
        title=title,
    )
    scores = TASK_METRICS[model.head.task].compute(encoded, predictions.outputs, model.labels, model.head)
    if model.head.task != "regression":
        scores = {**scores, "calibration_error": reliability(encoded, predictions.outputs).error}
    intervals = confidence_intervals(model.head.task, encoded, predictions.outputs)
    return Evaluation(scores, intervals, predictions, labels)
