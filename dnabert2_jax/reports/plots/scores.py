"""Pictures of predictions on a test table: confusion matrix, ROC and precision-recall curves, predicted values."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from dnabert2_jax.metrics.calibration import Reliability
from dnabert2_jax.reports.plots.style import LIGHT, WIDTH, Theme, display_name, legend_below, new_figure, readable_on

_MOST_NAMED = 8
_MOST_CELLS_WITH_TEXT = 20

Named = tuple[str, NDArray[Any], NDArray[np.floating]]
"""A score: its name, which rows are positive, and its values. [rows] each."""


def confusion_matrix(matrix: Sequence[Sequence[int]], classes: Sequence[str], theme: Theme = LIGHT) -> Figure:
    """Rows by true and predicted class; the color is the fraction of the true class, the numbers are counts.

    Args:
        matrix: counts, rows are labels and columns predictions, [C, C].
        classes: their names, C of them.
        theme: colors.
    """
    counts = np.asarray(matrix, np.int64)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = len(classes)
    few = size <= 8
    figure, (axis,) = new_figure(theme, WIDTH * 0.85, heights=(1,), grid=False)
    figure.set_layout_engine("compressed")  # the constrained one loses the label of an axis whose aspect is fixed
    scale = LinearSegmentedColormap.from_list("share", [theme.ground, theme.shade])
    image = axis.imshow(share, cmap=scale, vmin=0, vmax=1)
    if size <= _MOST_CELLS_WITH_TEXT:
        font = 11 if size <= 4 else 9 if few else 6
        for (row, column), count in np.ndenumerate(counts):
            color = readable_on(scale(share[row, column]), theme)
            if count or few:
                axis.text(column, row, f"{count:,}", ha="center", va="center", color=color, fontsize=font)
    names = [display_name(name, 16 if few else 32, most_lines=3 if few else 1) for name in classes]
    widest = max(len(line) for name in names for line in name.split("\n"))
    upright = widest > (2 if size > 4 else 12)
    fontsize = 7 if not few else 8 if widest > 12 else 10
    axis.set_xticks(range(size), names, rotation=90 if upright else 0, fontsize=fontsize)
    axis.set_yticks(range(size), names, fontsize=fontsize)
    axis.tick_params(length=0)
    axis.set(xlabel="predicted class", ylabel="true class")
    axis.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axis, fraction=0.045, pad=0.03, format=PercentFormatter(1.0))
    bar.outline.set_visible(False)
    bar.set_label("share of the true class", color=theme.ink)
    bar.ax.tick_params(colors=theme.ink, length=0, labelsize=9)
    return figure


def scores_with_intervals(rows: Sequence[tuple[str, float, float, float]], measure: str, theme: Theme = LIGHT) -> Figure:
    """One score for each of several models, the first on top, as a point on its interval.

    Args:
        rows: name, score, and the two ends of its interval.
        measure: what the score is.
        theme: colors.
    """
    figure, (axis,) = new_figure(theme, 0.9 + 0.42 * len(rows), heights=(1,))
    names, values, lows, highs = zip(*rows, strict=True)
    places = range(len(rows), 0, -1)
    axis.hlines(places, lows, highs, color=theme.colors[0], lw=2, alpha=0.6)
    axis.plot(values, places, "o", color=theme.colors[0])
    for place, value in zip(places, values, strict=True):
        axis.annotate(
            f"{value:.3f}", (value, place), (0, 6), textcoords="offset points", ha="center", fontsize=8, color=theme.ink
        )
    axis.set_yticks(places, names)
    axis.set_ylim(0.5, len(rows) + 0.7)
    axis.grid(False, axis="y")
    axis.set_xlabel(measure)
    return figure


def roc_curves(
    labels: NDArray[np.integer], probabilities: NDArray[np.floating], classes: Sequence[str], theme: Theme = LIGHT
) -> Figure:
    """Receiver operating characteristic: of the second of two classes, or of each class against the rest.

    Args:
        labels: class numbers, [rows].
        probabilities: of each class, [rows, C].
        classes: their names, C of them.
        theme: colors.
    """
    return roc_of(_one_vs_rest(labels, probabilities, classes), theme)


def roc_of(named: Sequence[Named], theme: Theme = LIGHT, height: float = WIDTH) -> Figure:
    """Receiver operating characteristic of several scores.

    Args:
        named: of each score its name, which rows are positive, and its values, higher for positive rows. [rows] each.
        theme: colors.
        height: of the picture in inches.
    """
    from sklearn.metrics import auc, roc_curve

    figure, (axis,) = new_figure(theme, height, heights=(1,))
    axis.plot([0, 1], [0, 1], color=theme.muted, lw=1, ls="--")
    curves = []
    for name, positive, score in named:
        false_rate, true_rate, _ = roc_curve(positive, score)
        curves.append((name, float(auc(false_rate, true_rate)), false_rate, true_rate))
    _draw_curves(axis, theme, curves, "AUROC")
    axis.set(xlabel="false positive rate", ylabel="true positive rate")
    return figure


def precision_recall_curves(
    labels: NDArray[np.integer], probabilities: NDArray[np.floating], classes: Sequence[str], theme: Theme = LIGHT
) -> Figure:
    """Precision against recall; arguments as :func:`roc_curves`. For two classes, the dashed line is chance."""
    named = _one_vs_rest(labels, probabilities, classes)
    return precision_recall_of(named, float(named[0][1].mean()) if len(classes) == 2 and named else None, theme)


def precision_recall_of(named: Sequence[Named], chance: float | None, theme: Theme = LIGHT, height: float = WIDTH) -> Figure:
    """Precision against recall; arguments as for :func:`roc_of`, and the precision of a guess, for a dashed line."""
    from sklearn.metrics import average_precision_score, precision_recall_curve

    figure, (axis,) = new_figure(theme, height, heights=(1,))
    if chance is not None:
        axis.axhline(chance, color=theme.muted, lw=1, ls="--")
    curves = []
    for name, positive, score in named:
        precision, recall, _ = precision_recall_curve(positive, score)
        curves.append((name, float(average_precision_score(positive, score)), recall, precision))
    _draw_curves(axis, theme, curves, "average precision")
    axis.set(xlabel="recall", ylabel="precision")
    return figure


def reliability_diagram(curves: Mapping[str, Reliability], theme: Theme = LIGHT) -> Figure:
    """The fraction of correct decisions against their probability; dots are as large as their bins hold decisions.

    Args:
        curves: bins of decisions, by name.
        theme: colors.
    """
    figure, (axis,) = new_figure(theme, WIDTH, heights=(1,))
    axis.plot([0, 1], [0, 1], color=theme.muted, lw=1, ls="--")
    for color, (name, bins) in zip(theme.colors, curves.items(), strict=False):
        axis.plot(bins.probabilities, bins.shares, color=color, lw=1.2, label=f"{name}: error {bins.error:.3f}")
        axis.scatter(bins.probabilities, bins.shares, s=8 + 120 * bins.counts / bins.counts.sum(), color=color, lw=0)
    legend_below(figure, theme, columns=1)
    axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", xlabel="probability", ylabel="fraction correct")
    return figure


def measured_against_predicted(
    measured: NDArray[np.floating], predicted: NDArray[np.floating], theme: Theme = LIGHT
) -> Figure:
    """One dot per row, both axes on one scale.

    Args:
        measured: [rows].
        predicted: in the same unit, [rows].
        theme: colors.
    """
    figure, (axis,) = new_figure(theme, WIDTH, heights=(1,))
    low, high = (float(edge(np.concatenate([measured, predicted]))) for edge in (np.min, np.max))
    margin = 0.03 * (high - low) or 0.5  # all values may be one
    axis.plot([low, high], [low, high], color=theme.muted, lw=1, ls="--")
    visible = float(np.clip(30 / np.sqrt(len(measured)), 0.08, 0.7))  # crowded dots show as darker areas
    axis.scatter(measured, predicted, s=12, color=theme.colors[0], lw=0, alpha=visible)
    limits = (low - margin, high + margin)
    axis.set(xlim=limits, ylim=limits, aspect="equal", xlabel="measured", ylabel="predicted")
    return figure


def _one_vs_rest(labels: NDArray[np.integer], probabilities: NDArray[np.floating], classes: Sequence[str]) -> list[Named]:
    """The probability of every class with rows inside and outside of it."""
    numbers = [1] if len(classes) == 2 else range(len(classes))
    every = [(classes[c], np.asarray(labels) == c, probabilities[:, c]) for c in numbers]
    return [(name, positive, score) for name, positive, score in every if 0 < positive.sum() < len(positive)]


def _draw_curves(axis: Axes, theme: Theme, curves: list[tuple[str, float, Any, Any]], measure: str) -> None:
    """Up to eight curves in color; of more, all in gray and the best, median and worst in color. In the unit square."""
    ranked = sorted(curves, key=lambda curve: -curve[1])
    named = curves if len(curves) <= _MOST_NAMED else [ranked[0], ranked[len(ranked) // 2], ranked[-1]]
    for curve in curves:
        if curve not in named:
            axis.plot(curve[2], curve[3], color=theme.muted, lw=0.8, alpha=0.6)
    for number, (name, area, x, y) in enumerate(named):
        label = f"{display_name(name)}: {area:.3f}"
        axis.plot(x, y, color=theme.colors[number], lw=1.7, label=label, clip_on=False)
    title = measure if named is curves else f"{measure}: best, median, worst of {len(curves)}"
    figure = axis.get_figure(root=True)
    assert figure is not None
    legend_below(figure, theme, columns=1 if len(named) == 1 else 2, title=title)
    axis.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
