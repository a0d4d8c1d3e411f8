"""What training aims at, by task: the loss, and the choice of the evaluation to keep.

Labels as tables hold them are in ``data/labels.py``, the scores in ``metrics/tasks.py``, and what a head's outputs mean in
``modeling/heads.py``.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.config.model import LoraConfig, TaskKind
from dnabert2_jax.config.runs import Epochs
from dnabert2_jax.data.labels import Labels, LabelSet, Measurements, MultiLabelSet
from dnabert2_jax.metrics.scores import Scores
from dnabert2_jax.metrics.tasks import TaskMetrics, metrics_for
from dnabert2_jax.modeling.models import Network, SequenceClassifier
from dnabert2_jax.training.objectives import Loss, classification_loss, multi_label_loss, regression_loss


@dataclass(frozen=True)
class Target(ABC):
    """A task's loss, and how its evaluations are compared.

    Attributes:
        labels: what the training table's labels stand for.
    """

    labels: Any

    has_accuracy: ClassVar[bool] = True
    """Whether the training loss counts correct predictions."""

    @abstractmethod
    def loss(self, network: Network[SequenceClassifier], lora: LoraConfig | None, plan: Epochs, train: NDArray[Any]) -> Loss:
        """Training loss; ``train`` are the encoded labels of the training table."""

    @property
    def metrics(self) -> TaskMetrics:
        """How the task is scored."""
        return metrics_for(self.labels)

    def scores(self, labels: NDArray[Any], outputs: NDArray[np.floating]) -> Scores:
        """Scores of outputs [rows, C] against encoded labels."""
        return self.metrics.compute(labels, outputs, self.labels)

    def chooser(self, plan: Epochs) -> str:
        """The score that selects the evaluation to keep: ``loss``, or that of the task."""
        return self.metrics.main if plan.selection == "auto" else plan.selection

    def selection_score(self, scores: Scores, plan: Epochs) -> float:
        """Selection score; higher is better."""
        value = float(scores[self.chooser(plan)])
        return -value if self.chooser(plan) == "loss" else value


@dataclass(frozen=True)
class SingleLabel(Target):
    """One class a row: softmax, cross-entropy."""

    labels: LabelSet

    def loss(self, network: Network[SequenceClassifier], lora: LoraConfig | None, plan: Epochs, train: NDArray[Any]) -> Loss:
        """Cross-entropy, with the run's smoothing and weights."""
        weights = balanced_weights(train, len(self.labels)) if plan.class_weights == "balanced" else None
        return classification_loss(network, lora, label_smoothing=plan.label_smoothing, class_weights=weights)


@dataclass(frozen=True)
class MultiLabel(Target):
    """Any number of labels a row: a sigmoid for each, binary cross-entropy."""

    labels: MultiLabelSet

    def loss(self, network: Network[SequenceClassifier], lora: LoraConfig | None, plan: Epochs, train: NDArray[Any]) -> Loss:
        """Binary cross-entropy."""
        return multi_label_loss(network, lora)


@dataclass(frozen=True)
class Regression(Target):
    """A measurement a row: squared error of the standardized values."""

    labels: Measurements

    has_accuracy = False

    def loss(self, network: Network[SequenceClassifier], lora: LoraConfig | None, plan: Epochs, train: NDArray[Any]) -> Loss:
        """Squared error."""
        return regression_loss(network, lora, mean=self.labels.mean, deviation=self.labels.deviation)


TARGETS: dict[TaskKind, type[Target]] = {
    "single_label": SingleLabel,
    "multi_label": MultiLabel,
    "regression": Regression,
}


def target_of(labels: Labels) -> Target:
    """The aim that belongs to some labels."""
    return TARGETS[labels.head.task](labels)


def balanced_weights(labels: NDArray[np.integer], num_classes: int) -> NDArray[np.float32]:
    """Weights n / (C n_c) of the classes c: each contributes equally, and their mean over the table is 1. [C]."""
    counts = np.bincount(labels, minlength=num_classes)
    return (len(labels) / (num_classes * counts)).astype(np.float32)
