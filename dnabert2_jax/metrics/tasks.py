"""The metrics of each task: which are reported, which is the main one, and how they are computed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.config.model import HeadConfig, TaskKind
from dnabert2_jax.metrics.bases import base_metrics
from dnabert2_jax.metrics.intervals import Intervals
from dnabert2_jax.metrics.scores import Scores, classification_metrics, multi_label_metrics, regression_metrics


@dataclass(frozen=True)
class TaskMetrics:
    """How a task is scored.

    Attributes:
        main: key of the score that selects the best evaluation; higher is better.
        shown: keys of the scores reported for each evaluation, and their display names.
        compute: maps (encoded labels, outputs [rows, C], names of the C outputs, the head) to scores.
    """

    main: str
    shown: Mapping[str, str]
    compute: Callable[[NDArray[Any], NDArray[np.floating], Sequence[str], HeadConfig], Scores]

    def brief(self, scores: Scores) -> str:
        """The main score, with its name."""
        value = scores[self.main]
        return f"{self.shown[self.main]} {'undefined' if value is None else f'{value:.3f}'}"

    def dev_line(self, scores: Scores) -> dict[str, float]:
        """An evaluation on the dev table as a line of the metrics file, without undefined scores."""
        return {f"dev_{key}": scores[key] for key in (*self.shown, "loss") if scores[key] is not None}

    def summary(self, scores: Scores, intervals: Intervals | None = None) -> str:
        """All reported scores on one line, each with its confidence interval if there is one."""
        shown = []
        for key, name in self.shown.items():
            value = "undefined" if scores[key] is None else f"{scores[key]:.4f}"
            shown.append(f"{name} {value}" + (f" {interval_text(intervals, key)}" if intervals else "").rstrip())
        return "  ".join(shown)


def interval_text(intervals: Intervals, key: str) -> str:
    """The confidence interval of a score as ``[0.71, 0.78]``; empty if it has none."""
    if key not in intervals["scores"]:
        return ""
    low, high = intervals["scores"][key]
    return f"[{low:.3g}, {high:.3g}]" if max(abs(low), abs(high)) >= 10 else f"[{low:.3f}, {high:.3f}]"


TASK_METRICS: dict[TaskKind, TaskMetrics] = {
    "single_label": TaskMetrics(
        main="mcc",
        shown={"mcc": "MCC", "macro_f1": "macro F1", "accuracy": "accuracy", "auroc": "AUROC"},
        compute=lambda labels, outputs, names, head: classification_metrics(labels, outputs, names),
    ),
    "multi_label": TaskMetrics(
        main="mcc",
        shown={"mcc": "mean MCC", "macro_f1": "macro F1", "micro_f1": "micro F1", "auroc": "AUROC", "auprc": "AUPRC"},
        compute=lambda labels, outputs, names, head: multi_label_metrics(labels, outputs, names),
    ),
    "regression": TaskMetrics(
        main="spearman",
        shown={"spearman": "Spearman", "pearson": "Pearson", "r2": "R²", "rmse": "RMSE"},
        compute=lambda labels, outputs, names, head: regression_metrics(labels, outputs[:, 0], deviation=head.deviation),
    ),
    "per_base": TaskMetrics(
        main="auprc",
        shown={"auprc": "AUPRC", "top_k": "top-k", "segment_f1": "segment F1", "macro_f1": "base F1", "mcc": "base MCC"},
        compute=lambda labels, outputs, names, head: base_metrics(labels, outputs, names, several=head.several),
    ),
}
"""By the task's name in a run (``data.task``)."""
