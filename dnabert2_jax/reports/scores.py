"""The scores on the test table, by task: the figures at the head of a page, pictures, and a table."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from dnabert2_jax.config.model import TaskKind
from dnabert2_jax.metrics.tasks import TASK_METRICS
from dnabert2_jax.reports import plots
from dnabert2_jax.reports.page import Section, grid
from dnabert2_jax.reports.plots import LIGHT, Theme, new_figure
from dnabert2_jax.reports.sections import EMBEDDINGS_FILE, PREDICTIONS_FILE, Drawing, Material, draw_pictures


def score_figures(task: TaskKind, scores: dict[str, Any]) -> list[tuple[str, str]]:
    """The few numbers that matter most: of the test table, and the one that chose the evaluation to keep."""
    names, main = TASK_METRICS[task].shown, TASK_METRICS[task].main
    return [
        *((_number(scores["test"][key]), f"test {name}") for key, name in names.items()),
        (_number(scores["dev"][main]), f"dev {names[main]}, step {scores['best_step']:,}"),
        (f"{scores['trained_parameters']:,}", "trained parameters"),
    ]


def score_section(task: TaskKind, run: Material, test: dict[str, Any]) -> Section:
    """Scores on the test table: pictures, and a table."""
    sections: dict[TaskKind, Callable[[Material, dict[str, Any]], Section]] = {
        "single_label": _of_classes,
        "multi_label": _of_labels,
        "regression": _of_measurements,
    }
    return sections[task](run, test)


def _of_classes(run: Material, test: dict[str, Any]) -> Section:
    """Confusion matrix, curves, map, and a table by class."""
    classes = test["classes"]
    matrix = np.asarray(test["confusion_matrix"], np.float64)
    shown: list[Drawing] = [
        (
            "confusion_matrix",
            f"Confusion matrix of the {test['n']:,} test rows; numbers are rows.",
            lambda theme: plots.confusion_matrix(test["confusion_matrix"], classes, theme),
        )
    ]
    areas: dict[str, tuple[str, str]] = {}
    predictions = run.workdir / PREDICTIONS_FILE
    if predictions.exists():
        with np.load(predictions) as arrays:
            labels, probabilities = arrays["labels"], arrays["probabilities"]
        areas = {name: _areas(labels == c, probabilities[:, c]) for c, name in enumerate(classes)}
        rest = f"of {classes[1]} against {classes[0]}" if len(classes) == 2 else "of each class against the rest"
        for name, title, draw in (
            ("roc", "ROC curve", plots.roc_curves),
            ("precision_recall", "Precision and recall", plots.precision_recall_curves),
        ):
            shown.append((name, f"{title} {rest}, test table.", partial(draw, labels, probabilities, classes)))
    embeddings = run.workdir / EMBEDDINGS_FILE
    if embeddings.exists():
        with np.load(embeddings) as arrays:
            vectors, groups = arrays["embeddings"], [classes[label] for label in arrays["labels"]]
        shown.append(
            (
                "embedding_map",
                f"What the classifier sees of {len(groups):,} test rows (pooled [CLS]), coloured by true class.",
                lambda theme: plots.embedding_map(vectors, groups, theme, method=run.map_method),
            )
        )
    right, labelled, predicted = matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)
    rows = [
        (
            name,
            f"{labelled[c]:,.0f}",
            f"{predicted[c]:,.0f}",
            _ratio(right[c], predicted[c]),
            _ratio(right[c], labelled[c]),
            _ratio(2 * right[c], labelled[c] + predicted[c]),
            *areas.get(name, ("", "")),
        )
        for c, name in enumerate(classes)
    ]
    header = ("class", "rows", "predicted", "precision", "recall", "F1", "AUROC", "average precision")
    return Section("scores", "Test scores", draw_pictures(run.workdir, shown) + "<h3>By class</h3>" + grid(header, rows))


_FLOOR_SCORES = {"mcc": "MCC", "macro_f1": "macro F1", "accuracy": "accuracy"}


def floor_figure(floor: dict[str, Any]) -> tuple[str, str]:
    """The k-mer regression's score, for the head of the page."""
    return _number(floor["kmer"]["mcc"]), "test MCC of counting 1-5-mers"


def floor_notes(test: dict[str, Any], floor: dict[str, Any]) -> list[str]:
    """What the floor says against the scores."""
    ours, counted = test["mcc"], floor["kmer"]["mcc"]
    if ours > counted:
        return []
    return [
        f"A logistic regression on counts of 1-5-mers does as well or better on the same rows, MCC {counted:.4f} beside "
        f"{ours:.4f}: what the model says here, composition says too."
    ]


def floor_section(test: dict[str, Any], floor: dict[str, Any]) -> Section:
    """The scores beside those of the k-mer regression, of all test rows and without leaked ones."""
    leaked = floor["leaked_lines"]
    columns = {f"all {test['n']:,} rows": {"this model": test, "1-5-mer logistic regression": floor["kmer"]}}
    if leaked:
        clean = {"this model": floor["clean"], "1-5-mer logistic regression": floor["kmer_clean"]}
        columns[f"without leaked rows ({len(leaked):,})"] = clean
    header = ("", *(f"{name}, {rows}" for rows in columns for name in _FLOOR_SCORES.values()))
    rows = [
        (who, *(_number(of[who][key]) if of[who] else "—" for of in columns.values() for key in _FLOOR_SCORES))
        for who in ("this model", "1-5-mer logistic regression")
    ]
    text = "<p>The regression on k-mer counts learned from the same rows."
    if leaked:
        text += " A test row is leaked where the train or the dev table has its sequence, whatever the label."
    return Section("floor", "Beside counting k-mers", f"{text}</p>{grid(header, rows)}")


def _areas(positive: NDArray[np.bool_], score: NDArray[np.floating]) -> tuple[str, str]:
    if not 0 < positive.sum() < len(positive):
        return "", ""
    return f"{roc_auc_score(positive, score):.4f}", f"{average_precision_score(positive, score):.4f}"


def _of_labels(run: Material, test: dict[str, Any]) -> Section:
    """A table by label."""
    rows = [
        (
            name,
            f"{of['rows']:,}",
            f"{of['predicted']:,}",
            *(_number(of[key]) for key in ("mcc", "f1", "auroc", "auprc")),
        )
        for name, of in test["by_label"].items()
    ]
    header = ("label", "rows", "predicted", "MCC", "F1", "AUROC", "average precision")
    text = (
        f"<p>{test['n']:,} test rows, {len(rows):,} labels. All labels are right on {test['exact_match']:.1%} of the rows, "
        f"and {test['accuracy']:.1%} of all decisions are.</p>"
    )
    return Section("scores", "Test scores", text + grid(header, rows))


def _of_measurements(run: Material, test: dict[str, Any]) -> Section:
    """Predictions against measurements."""
    shown: list[Drawing] = []
    predictions = run.workdir / PREDICTIONS_FILE
    if predictions.exists():
        with np.load(predictions) as arrays:
            measured, predicted = arrays["labels"], arrays["values"]
        caption = f"Predictions of the {test['n']:,} test rows against measurements; on the dashed line both are equal."
        shown.append(("predictions", caption, lambda theme: measured_against_predicted(measured, predicted, theme)))
    names = {**TASK_METRICS["regression"].shown, "mae": "mean absolute error", "loss": "squared error, in squared deviations of train"}
    rows = [(name, _number(test[key])) for key, name in names.items()]
    return Section("scores", "Test scores", draw_pictures(run.workdir, shown) + grid(("score", "test"), rows))


def measured_against_predicted(
    measured: NDArray[np.floating], predicted: NDArray[np.floating], theme: Theme = LIGHT
) -> Figure:
    """A dot a row, both axes of one scale.

    Args:
        measured: [rows].
        predicted: in the same unit, [rows].
        theme: colours.
    """
    figure, (axis,) = new_figure(theme, 4.5, heights=(1,))
    low, high = (float(edge(np.concatenate([measured, predicted]))) for edge in (np.min, np.max))
    margin = 0.03 * (high - low)
    axis.plot([low, high], [low, high], color=theme.muted, lw=1, ls="--")
    visible = float(np.clip(30 / np.sqrt(len(measured)), 0.08, 0.7))  # of many rows, where dots crowd shows
    axis.scatter(measured, predicted, s=12, color=theme.colours[0], lw=0, alpha=visible)
    axis.set_xlim(low - margin, high + margin)
    axis.set_ylim(low - margin, high + margin)
    axis.set_aspect("equal")
    axis.set_xlabel("measured")
    axis.set_ylabel("predicted")
    return figure


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}" if abs(value) < 1e4 else f"{value:.5g}"


def _ratio(part: float, whole: float) -> str:
    return f"{part / whole:.4f}" if whole else "undefined"
