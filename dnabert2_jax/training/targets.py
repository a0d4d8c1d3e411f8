"""What training aims at, by task: the loss, the scores, and which of them chooses the evaluation to keep.

Labels as tables hold them are in ``data/labels.py``, and what a head's outputs mean in ``modeling/heads.py``.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.config.model import LoraConfig, TaskKind
from dnabert2_jax.config.runs import Epochs
from dnabert2_jax.data.labels import Labels, LabelSet, Measurements, MultiLabelSet
from dnabert2_jax.metrics.scores import Scores, classification_metrics, multi_label_metrics, regression_metrics
from dnabert2_jax.modeling.models import Network, SequenceClassifier
from dnabert2_jax.training.objectives import Loss, classification_loss, multi_label_loss, regression_loss


@dataclass(frozen=True)
class Target(ABC):
    """A task's loss and scores.

    Attributes:
        labels: what the training table's labels stand for.
    """

    labels: Any

    main: ClassVar[str]
    """The score that chooses the evaluation to keep, unless the loss does."""
    shown: ClassVar[Mapping[str, str]]
    """Scores that are shown for each evaluation, and their names."""
    has_accuracy: ClassVar[bool] = True
    """Whether the training loss counts right predictions."""

    @abstractmethod
    def loss(self, network: Network[SequenceClassifier], lora: LoraConfig | None, plan: Epochs, train: NDArray[Any]) -> Loss:
        """What training makes small; ``train`` are the labels of the training table, encoded."""

    @abstractmethod
    def scores(self, labels: NDArray[Any], outputs: NDArray[np.floating]) -> Scores:
        """Scores of outputs [rows, C] against encoded labels."""

    def chooser(self, plan: Epochs) -> str:
        """The score that chooses the evaluation to keep: ``loss``, or that of the task."""
        return self.main if plan.selection == "auto" else plan.selection

    def selection_score(self, scores: Scores, plan: Epochs) -> float:
        """What the evaluation to keep has most of."""
        value = float(scores[self.chooser(plan)])
        return -value if self.chooser(plan) == "loss" else value

    def brief(self, scores: Scores) -> str:
        """The main score, named."""
        return f"{self.shown[self.main]} {scores[self.main]:.3f}"

    def dev_line(self, scores: Scores) -> dict[str, float]:
        """An evaluation's numbers in the metrics file."""
        keys = [*self.shown, "loss"]
        return {f"dev_{key}": scores[key] for key in keys if scores[key] is not None}

    @classmethod
    def summary(cls, scores: Scores) -> str:
        """The scores in a few words."""
        shown = {name: scores[key] for key, name in cls.shown.items()}
        return "  ".join(f"{name} {'undefined' if value is None else f'{value:.4f}'}" for name, value in shown.items())


@dataclass(frozen=True)
class SingleLabel(Target):
    """One class a row: softmax, cross-entropy, MCC."""

    labels: LabelSet

    main = "mcc"
    shown: ClassVar[Mapping[str, str]] = {"mcc": "MCC", "macro_f1": "macro F1", "accuracy": "accuracy", "auroc": "AUROC"}

    def loss(self, network: Network[SequenceClassifier], lora: LoraConfig | None, plan: Epochs, train: NDArray[Any]) -> Loss:
        """Cross-entropy, with the run's smoothing and weights."""
        weights = balanced_weights(train, len(self.labels)) if plan.class_weights == "balanced" else None
        return classification_loss(network, lora, label_smoothing=plan.label_smoothing, class_weights=weights)

    def scores(self, labels: NDArray[Any], outputs: NDArray[np.floating]) -> Scores:
        """See :func:`~dnabert2_jax.metrics.scores.classification_metrics`."""
        return classification_metrics(labels, outputs, self.labels.names)


@dataclass(frozen=True)
class MultiLabel(Target):
    """Any number of labels a row: a sigmoid for each, binary cross-entropy, mean MCC."""

    labels: MultiLabelSet

    main = "mcc"
    shown: ClassVar[Mapping[str, str]] = {
        "mcc": "mean MCC",
        "macro_f1": "macro F1",
        "micro_f1": "micro F1",
        "auroc": "AUROC",
        "auprc": "AUPRC",
    }

    def loss(self, network: Network[SequenceClassifier], lora: LoraConfig | None, plan: Epochs, train: NDArray[Any]) -> Loss:
        """Binary cross-entropy."""
        return multi_label_loss(network, lora)

    def scores(self, labels: NDArray[Any], outputs: NDArray[np.floating]) -> Scores:
        """See :func:`~dnabert2_jax.metrics.scores.multi_label_metrics`."""
        return multi_label_metrics(labels, outputs, self.labels.names)


@dataclass(frozen=True)
class Regression(Target):
    """A measurement a row: squared error of the standardised values, Spearman's correlation."""

    labels: Measurements

    main = "spearman"
    shown: ClassVar[Mapping[str, str]] = {"spearman": "Spearman", "pearson": "Pearson", "r2": "R²", "rmse": "RMSE"}
    has_accuracy = False

    def loss(self, network: Network[SequenceClassifier], lora: LoraConfig | None, plan: Epochs, train: NDArray[Any]) -> Loss:
        """Squared error."""
        return regression_loss(network, lora, mean=self.labels.mean, deviation=self.labels.deviation)

    def scores(self, labels: NDArray[Any], outputs: NDArray[np.floating]) -> Scores:
        """See :func:`~dnabert2_jax.metrics.scores.regression_metrics`."""
        return regression_metrics(labels, outputs[:, 0], deviation=self.labels.deviation)


TARGETS: dict[TaskKind, type[Target]] = {
    "single_label": SingleLabel,
    "multi_label": MultiLabel,
    "regression": Regression,
}


def target_of(labels: Labels) -> Target:
    """The aim that belongs to some labels."""
    return TARGETS[labels.head.task](labels)


def balanced_weights(labels: NDArray[np.integer], num_classes: int) -> NDArray[np.float32]:
    """Weights n / (C n_c) of the classes c: each has the same part in the loss, and the mean over the table is 1. [C]."""
    counts = np.bincount(labels, minlength=num_classes)
    return (len(labels) / (num_classes * counts)).astype(np.float32)
