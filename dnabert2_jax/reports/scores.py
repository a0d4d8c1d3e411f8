"""The scores on the test table, by task: the figures at the top of a page, pictures, and a table."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.config.model import TaskKind
from dnabert2_jax.metrics.tasks import TASK_METRICS, interval_text
from dnabert2_jax.reports.page import Heading, Section, Table, Text
from dnabert2_jax.reports.plots.embeddings import embedding_map
from dnabert2_jax.reports.plots.scores import (
    confusion_matrix,
    measured_against_predicted,
    precision_recall_curves,
    roc_curves,
)
from dnabert2_jax.reports.sections import EMBEDDINGS_FILE, PREDICTIONS_FILE, Drawing, RunFiles, draw_pictures
from dnabert2_jax.storage.copies import local_copy


def score_figures(task: TaskKind, scores: dict[str, Any]) -> list[tuple[str, str]]:
    """The few numbers that matter most: the test scores, and the dev score that selected the evaluation to keep."""
    names, main = TASK_METRICS[task].shown, TASK_METRICS[task].main
    return [
        *((_number(scores["test"][key]), f"test {name}{_interval(scores, key)}") for key, name in names.items()),
        (_number(scores["dev"][main]), f"dev {names[main]}, step {scores['best_step']:,}"),
        (f"{scores['trained_parameters']:,}", "trainable parameters"),
    ]


def _interval(scores: dict[str, Any], key: str) -> str:
    intervals = scores.get("intervals")  # runs of earlier versions have none
    if intervals is None or not (text := interval_text(intervals, key)):
        return ""
    return f", {intervals['level']:.0%} interval {text}"


def score_section(task: TaskKind, run: RunFiles, test: dict[str, Any]) -> Section:
    """Scores on the test table: pictures, and a table."""
    sections: dict[TaskKind, Callable[[RunFiles, dict[str, Any]], Section]] = {
        "single_label": _of_classes,
        "multi_label": _of_labels,
        "regression": _of_measurements,
        "per_base": _of_bases,
    }
    return sections[task](run, test)


def _of_classes(run: RunFiles, test: dict[str, Any]) -> Section:
    """Confusion matrix, curves, map, and a table by class."""
    classes = test["classes"]
    matrix = np.asarray(test["confusion_matrix"], np.float64)
    shown = [
        Drawing(
            "confusion_matrix",
            f"Confusion matrix of the {test['n']:,} test rows; numbers are rows.",
            partial(confusion_matrix, test["confusion_matrix"], classes),
        )
    ]
    areas: dict[str, tuple[str, str]] = {}
    predictions = run.workdir / PREDICTIONS_FILE
    if predictions.exists():
        with np.load(local_copy(predictions)) as arrays:
            labels, probabilities = arrays["labels"], arrays["probabilities"]
        areas = {name: _areas(labels == c, probabilities[:, c]) for c, name in enumerate(classes)}
        rest = f"of {classes[1]} against {classes[0]}" if len(classes) == 2 else "of each class against the rest"
        for name, title, draw in (
            ("roc", "ROC curve", roc_curves),
            ("precision_recall", "Precision and recall", precision_recall_curves),
        ):
            shown.append(Drawing(name, f"{title} {rest}, test table.", partial(draw, labels, probabilities, classes)))
    embeddings = run.workdir / EMBEDDINGS_FILE
    if embeddings.exists():
        with np.load(local_copy(embeddings)) as arrays:
            vectors, groups = arrays["embeddings"], [classes[label] for label in arrays["labels"]]
        caption = f"What the classifier sees of {len(groups):,} test rows (pooled [CLS]), colored by true class."
        draw_map = partial(embedding_map, vectors, groups, method=run.map_method)
        shown.append(Drawing("embedding_map", caption, draw_map))
    right, labeled, predicted = matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)
    rows = [
        (
            name,
            f"{labeled[c]:,.0f}",
            f"{predicted[c]:,.0f}",
            _ratio(right[c], predicted[c]),
            _ratio(right[c], labeled[c]),
            _ratio(2 * right[c], labeled[c] + predicted[c]),
            *areas.get(name, ("", "")),
        )
        for c, name in enumerate(classes)
    ]
    header = ("class", "rows", "predicted", "precision", "recall", "F1", "AUROC", "average precision")
    pictures = draw_pictures(run.workdir, shown, run.picture_format)
    return Section("scores", "Test scores", [pictures, Heading("By class"), Table(header, rows)])


_BASELINE_SCORES = {"mcc": "MCC", "macro_f1": "macro F1", "accuracy": "accuracy"}
_MODEL, _REGRESSION = "this model", "1-5-mer logistic regression"


def baseline_figure(baseline: dict[str, Any]) -> tuple[str, str]:
    """The k-mer regression's score, for the top of the page."""
    return _number(baseline["kmer"]["mcc"]), "test MCC of 1-5-mer counts"


def baseline_notes(test: dict[str, Any], baseline: dict[str, Any]) -> list[str]:
    """A warning if the model is no better than the baseline."""
    ours, counted = test["mcc"], baseline["kmer"]["mcc"]
    if ours > counted:
        return []
    return [
        f"A logistic regression on counts of 1-5-mers does as well or better on the same rows, MCC {counted:.4f} versus "
        f"{ours:.4f}: the model adds nothing here to what composition explains."
    ]


def baseline_section(test: dict[str, Any], baseline: dict[str, Any]) -> Section:
    """The scores beside those of the k-mer regression, on all test rows and without leaked ones."""
    leaked = baseline["leaked_lines"]
    columns = {f"all {test['n']:,} rows": {_MODEL: test, _REGRESSION: baseline["kmer"]}}
    text = "The regression on k-mer counts was fitted on the same rows."
    if leaked:
        clean = {_MODEL: baseline["clean"], _REGRESSION: baseline["kmer_clean"]}
        columns[f"without leaked rows ({len(leaked):,})"] = clean
        text += " A test row is leaked if its sequence is also in the train or the dev table, whatever the label."
    header = ("", *(f"{name}, {rows}" for rows in columns for name in _BASELINE_SCORES.values()))
    rows = [
        (who, *(_number(of[who][key]) if of[who] else "—" for of in columns.values() for key in _BASELINE_SCORES))
        for who in (_MODEL, _REGRESSION)
    ]
    return Section("floor", "Compared with k-mer counts", [Text(text), Table(header, rows)])


def _areas(positive: NDArray[np.bool_], score: NDArray[np.floating]) -> tuple[str, str]:
    from sklearn.metrics import average_precision_score, roc_auc_score

    if not 0 < positive.sum() < len(positive):
        return "", ""
    return f"{roc_auc_score(positive, score):.4f}", f"{average_precision_score(positive, score):.4f}"


def _of_labels(run: RunFiles, test: dict[str, Any]) -> Section:
    """A table by label."""
    rows = [
        (name, f"{of['rows']:,}", f"{of['predicted']:,}", *(_number(of[key]) for key in ("mcc", "f1", "auroc", "auprc")))
        for name, of in test["by_label"].items()
    ]
    header = ("label", "rows", "predicted", "MCC", "F1", "AUROC", "average precision")
    text = Text(
        f"{test['n']:,} test rows, {len(rows):,} labels. All labels are correct on {test['exact_match']:.1%} of the rows, "
        f"and {test['accuracy']:.1%} of all decisions are correct."
    )
    return Section("scores", "Test scores", [text, Table(header, rows)])


def _of_bases(run: RunFiles, test: dict[str, Any]) -> Section:
    """A table by label, of bases and of segments."""
    bases = [
        (name, f"{of['bases']:,}", f"{of['predicted']:,}", *(_number(of[key]) for key in ("auprc", "top_k", "f1")))
        for name, of in test["by_label"].items()
    ]
    segments = [
        (
            name,
            f"{of['segments']:,}",
            f"{of['predicted_segments']:,}",
            *(_number(of[key]) for key in ("segment_f1", "exact_f1")),
        )
        for name, of in test["by_label"].items()
    ]
    text = Text(f"{test['n']:,} test bases; {test['accuracy']:.2%} of the decisions are correct.")
    note = Text(
        "A predicted segment is correct if it and a true one share more than half of the bases that either has; exact: if "
        "both of its ends are."
    )
    return Section(
        "scores",
        "Test scores",
        [
            text,
            Heading("Bases"),
            Table(("label", "bases", "predicted", "AUPRC", "top-k accuracy", "F1"), bases),
            Heading("Segments"),
            Table(("label", "segments", "predicted", "F1", "exact F1"), segments),
            note,
        ],
    )


def _of_measurements(run: RunFiles, test: dict[str, Any]) -> Section:
    """Predictions against measurements."""
    shown = []
    predictions = run.workdir / PREDICTIONS_FILE
    if predictions.exists():
        with np.load(local_copy(predictions)) as arrays:
            measured, predicted = arrays["labels"], arrays["values"]
        caption = f"Predictions of the {test['n']:,} test rows against measurements; the dashed line marks equality."
        shown.append(Drawing("predictions", caption, partial(measured_against_predicted, measured, predicted)))
    names = {
        **TASK_METRICS["regression"].shown,
        "mae": "mean absolute error",
        "loss": "squared error, in squared deviations of train",
    }
    rows = [(name, _number(test[key])) for key, name in names.items()]
    pictures = draw_pictures(run.workdir, shown, run.picture_format)
    return Section("scores", "Test scores", [pictures, Table(("score", "test"), rows)])


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}" if abs(value) < 1e4 else f"{value:.5g}"


def _ratio(part: float, whole: float) -> str:
    return f"{part / whole:.4f}" if whole else "undefined"
