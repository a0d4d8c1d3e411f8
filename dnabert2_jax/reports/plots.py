"""Pictures of a run, drawn with matplotlib: training curves, scores, token lengths and a map of embeddings.

Every function returns a figure of one column's width, so that its text stays legible on a telephone; :func:`png` turns it
into bytes. Colours are those of Okabe and Ito (2008), told apart by colour-blind readers, on a light or a dark ground.
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_curve

from dnabert2_jax.errors import UserError

MapMethod = Literal["auto", "pca", "umap"]
"""How an embedding map is made; ``auto`` is UMAP where the package umap-learn is installed, else PCA."""

_WIDTH = 4.5  # inches: a telephone shows 10-point text about 11 pixels high
_MOST_NAMED = 8
_MOST_CELLS_WITH_TEXT = 20


@dataclass(frozen=True)
class Theme:
    """The colours of a picture.

    Attributes:
        ground: behind everything.
        ink: text.
        muted: axes, grid and reference lines.
        colours: of the lines, in order.
        shade: the far end of a scale that starts at ``ground``.
    """

    ground: str
    ink: str
    muted: str
    colours: tuple[str, ...]
    shade: str


LIGHT = Theme(
    "#ffffff",
    "#1f2328",
    "#8a919a",
    ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6b4fa0", "#7a7a00"),
    "#0072B2",
)
DARK = Theme(
    "#16191d",
    "#e3e7ec",
    "#79828c",
    ("#56B4E9", "#FF8A3D", "#2FC79B", "#E39AC1", "#F0E442", "#9DB8FF", "#B79CED", "#C9C96A"),
    "#56B4E9",
)


def png(figure: Figure, dpi: int = 150) -> bytes:
    """The figure as a PNG file's bytes; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor=figure.get_facecolor(), metadata={"Software": None})
    return buffer.getvalue()


def training_curves(lines: Sequence[Mapping[str, Any]], theme: Theme = LIGHT, *, kept_step: int | None = None) -> Figure:
    """Loss, score, learning rate and gradient norm by optimizer step.

    Args:
        lines: the lines of ``metrics.jsonl``, of pretraining or of fine-tuning.
        theme: colours.
        kept_step: the step whose parameters were kept, which is marked.

    Raises:
        UserError: there is nothing to draw yet.
    """
    pretraining = any("masked_accuracy" in line for line in lines)
    measurements = any("dev_spearman" in line for line in lines)
    unit = "nats per masked token" if pretraining else "squared deviations" if measurements else "nats per row"
    scores = (
        {"training": "masked_accuracy", "held out": "validation_masked_accuracy"}
        if pretraining
        else {"dev Spearman": "dev_spearman", "dev Pearson": "dev_pearson"}
        if measurements
        else {"dev MCC": "dev_mcc", "dev macro F1": "dev_macro_f1", "dev accuracy": "dev_accuracy"}
    )
    panels = [
        (f"loss\n({unit})", {"training": "loss", "held out": "validation_loss" if pretraining else "dev_loss"}),
        ("masked accuracy\n(%)" if pretraining else "score", scores),
        ("learning\nrate", {"": "learning_rate"}),
        ("gradient\nnorm", {"": "gradient_norm"}),
    ]
    if not any("loss" in line for line in lines):
        raise UserError("the run has no measurements yet: draw its curves after the first line of metrics.jsonl")
    figure, axes = new_figure(theme, 6.0, heights=(3.0, 3.0, 1.2, 1.2))
    for axis, (label, series) in zip(axes, panels, strict=True):
        drawn = 0
        for number, (name, key) in enumerate(series.items()):
            steps, values = _series(lines, key)
            if len(steps):
                colour = theme.colours[number] if name else theme.ink
                axis.plot(steps, values, color=colour, label=name, lw=1.6, marker="o" if len(steps) <= 12 else "", ms=4)
                drawn += bool(name)
        if kept_step is not None:
            axis.axvline(kept_step, color=theme.muted, lw=1, ls=":")
        axis.set_ylabel(label)
        axis.tick_params(labelbottom=axis is axes[-1])
        axis.yaxis.set_major_locator(MaxNLocator(nbins=5 if axis in axes[:2] else 2))
        if drawn > 1:
            _legend(axis, theme)
    if pretraining:
        axes[1].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None, symbol=""))
    if kept_step is not None:
        axes[0].annotate(
            "kept",
            (kept_step, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            va="bottom",
            color=theme.ink,
            fontsize=9,
        )
    axes[-1].set_xlabel("optimizer step")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    for axis in axes[1:]:
        axis.sharex(axes[0])
    figure.align_ylabels(axes)
    return figure


def confusion_matrix(matrix: Sequence[Sequence[int]], classes: Sequence[str], theme: Theme = LIGHT) -> Figure:
    """Rows of each class by prediction; colour is the share of the true class, numbers are rows.

    Args:
        matrix: counts, rows are labels and columns predictions, [C, C].
        classes: their names, C of them.
        theme: colours.
    """
    counts = np.asarray(matrix, np.int64)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = len(classes)
    figure, (axis,) = new_figure(theme, _WIDTH * 0.85, heights=(1,), grid=False)
    figure.set_layout_engine("compressed")  # the constrained one loses the label of an axis whose aspect is fixed
    scale = LinearSegmentedColormap.from_list("share", [theme.ground, theme.shade])
    image = axis.imshow(share, cmap=scale, vmin=0, vmax=1)
    if size <= _MOST_CELLS_WITH_TEXT:
        font = 11 if size <= 4 else 9 if size <= 8 else 6
        for (row, column), count in np.ndenumerate(counts):
            colour = _readable_on(scale(share[row, column]), theme)
            if count or size <= 8:
                axis.text(column, row, f"{count:,}", ha="center", va="center", color=colour, fontsize=font)
    names = [short_name(name) for name in classes]
    small = 10 if size <= 8 else 7
    axis.set_xticks(range(size), names, rotation=90 if size > 4 and max(map(len, names)) > 2 else 0, fontsize=small)
    axis.set_yticks(range(size), names, fontsize=small)
    axis.tick_params(length=0)
    axis.set_xlabel("predicted class")
    axis.set_ylabel("true class")
    axis.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axis, fraction=0.045, pad=0.03, format=PercentFormatter(1.0))
    bar.outline.set_visible(False)
    bar.set_label("share of the true class", color=theme.ink)
    bar.ax.tick_params(colors=theme.ink, length=0, labelsize=9)
    return figure


def roc_curves(
    labels: NDArray[np.integer], probabilities: NDArray[np.floating], classes: Sequence[str], theme: Theme = LIGHT
) -> Figure:
    """Receiver operating characteristic: of the second class where there are two, else of each class against the rest.

    Args:
        labels: class numbers, [rows].
        probabilities: of each class, [rows, C].
        classes: their names, C of them.
        theme: colours.
    """
    figure, (axis,) = new_figure(theme, _WIDTH, heights=(1,))
    axis.plot([0, 1], [0, 1], color=theme.muted, lw=1, ls="--")
    curves = []
    for name, positive, score in _one_vs_rest(labels, probabilities, classes):
        false_rate, true_rate, _ = roc_curve(positive, score)
        curves.append((name, float(auc(false_rate, true_rate)), false_rate, true_rate))
    _draw_curves(axis, theme, curves, "AUROC")
    axis.set_xlabel("false positive rate")
    axis.set_ylabel("true positive rate")
    _unit_square(axis)
    return figure


def precision_recall_curves(
    labels: NDArray[np.integer], probabilities: NDArray[np.floating], classes: Sequence[str], theme: Theme = LIGHT
) -> Figure:
    """Precision against recall; arguments as :func:`roc_curves`. With two classes, the dashed line is that of chance."""
    figure, (axis,) = new_figure(theme, _WIDTH, heights=(1,))
    curves = []
    for name, positive, score in _one_vs_rest(labels, probabilities, classes):
        precision, recall, _ = precision_recall_curve(positive, score)
        curves.append((name, float(average_precision_score(positive, score)), recall, precision))
        if len(classes) == 2:
            axis.axhline(float(positive.mean()), color=theme.muted, lw=1, ls="--")
    _draw_curves(axis, theme, curves, "average precision")
    axis.set_xlabel("recall")
    axis.set_ylabel("precision")
    _unit_square(axis)
    return figure


def token_lengths(lengths: Mapping[str, Sequence[Sequence[int]]], max_tokens: int | None, theme: Theme = LIGHT) -> Figure:
    """How long rows are, as shares of each table.

    Args:
        lengths: for each table the pairs (tokens of a row, special ones included; rows of that length).
        max_tokens: the limit above which rows are cut, drawn where some row is longer.
        theme: colours.
    """
    figure, (axis,) = new_figure(theme, 3.2, heights=(1,))
    pairs = {name: np.asarray(rows, np.int64).reshape(-1, 2) for name, rows in lengths.items()}
    every = np.concatenate([rows[:, 0] for rows in pairs.values()])
    low, high = int(every.min()), int(every.max())
    width = max(1, -(-(high - low + 1) // 40))
    edges = np.arange(low, high + width + 1, width) - 0.5
    for number, (name, rows) in enumerate(pairs.items()):
        share, _ = np.histogram(rows[:, 0], edges, weights=rows[:, 1] / rows[:, 1].sum())
        colour = theme.colours[number]
        if number == 0:
            axis.stairs(share, edges, color=colour, fill=True, alpha=0.25)
        axis.stairs(share, edges, color=colour, lw=1.6, label=name)
    if max_tokens is not None and high > max_tokens:
        axis.axvline(max_tokens, color=theme.ink, lw=1, ls="--", label=f"max_tokens {max_tokens:,}")
    axis.set_xlabel("tokens of a row")
    axis.set_ylabel("rows" if width == 1 else f"rows in {width} tokens")
    axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    _legend(axis, theme)
    return figure


def embedding_map(
    embeddings: NDArray[np.floating], groups: Sequence[str], theme: Theme = LIGHT, *, method: MapMethod = "auto"
) -> Figure:
    """Embeddings in two dimensions, coloured by group; the picture names the method.

    Args:
        embeddings: [rows, D].
        groups: class or species of each row.
        theme: colours.
        method: see :data:`MapMethod`.

    Raises:
        UserError: fewer than three rows, or UMAP is asked for and not installed.
    """
    if len(embeddings) < 3:
        raise UserError(f"a map needs three embeddings or more, found {len(embeddings)}")
    installed = find_spec("umap") is not None
    if method == "umap" and not installed:
        raise UserError("the package umap-learn is not installed: `pip install umap-learn`, or choose the method pca")
    if method == "pca" or not installed:
        points, axis_names, title = _pca(embeddings)
    else:
        points, axis_names, title = _umap(embeddings)
    names = sorted(set(groups), key=_natural)
    columns = 2 if max(map(len, names)) > 14 else 3
    figure, (axis,) = new_figure(theme, 4.2 + 0.19 * -(-len(names) // columns), heights=(1,))
    of_row = np.asarray(groups)
    for number, name in enumerate(names):
        chosen = points[of_row == name]
        colour = theme.colours[number % len(theme.colours)]
        marker = "os^D"[number // len(theme.colours) % 4]
        axis.scatter(chosen[:, 0], chosen[:, 1], s=14, color=colour, marker=marker, lw=0, alpha=0.65, label=short_name(name))
    axis.set_xlabel(axis_names[0])
    axis.set_ylabel(axis_names[1])
    axis.set_title(f"{title}, {len(points):,} rows", color=theme.ink, fontsize=10, loc="left")
    legend_below(figure, theme, columns=columns)
    return figure


def _pca(embeddings: NDArray[np.floating]) -> tuple[NDArray[np.floating], tuple[str, str], str]:
    centred = np.asarray(embeddings, np.float64) - np.mean(embeddings, axis=0, dtype=np.float64)
    left, singular, right = np.linalg.svd(centred, full_matrices=False)
    # The sign of a component is arbitrary: its largest loading is made positive, so that a picture repeats.
    sign = np.sign(right[np.arange(2), np.abs(right[:2]).argmax(axis=1)])
    share = singular**2 / max(float((singular**2).sum()), 1e-30)
    first, second = (f"component {n + 1} ({share[n]:.0%} of the variance)" for n in range(2))
    return left[:, :2] * singular[:2] * np.where(sign == 0, 1, sign), (first, second), "PCA"


def _umap(embeddings: NDArray[np.floating]) -> tuple[NDArray[np.floating], tuple[str, str], str]:
    umap = import_module("umap")  # optional, and without types
    reducer = umap.UMAP(n_neighbors=min(15, len(embeddings) - 1), random_state=0, n_jobs=1)
    return reducer.fit_transform(np.asarray(embeddings, np.float32)), ("UMAP 1", "UMAP 2"), "UMAP"


def _one_vs_rest(
    labels: NDArray[np.integer], probabilities: NDArray[np.floating], classes: Sequence[str]
) -> list[tuple[str, NDArray[np.bool_], NDArray[np.floating]]]:
    """(name, is it this class, its probability) for every class that has rows inside and outside of it."""
    numbers = [1] if len(classes) == 2 else range(len(classes))
    every = [(classes[c], np.asarray(labels) == c, probabilities[:, c]) for c in numbers]
    return [(name, positive, score) for name, positive, score in every if 0 < positive.sum() < len(positive)]


def _draw_curves(axis: Axes, theme: Theme, curves: list[tuple[str, float, Any, Any]], measure: str) -> None:
    """A colour each for a few curves; of many, all in grey and the best, median and worst by name."""
    ranked = sorted(curves, key=lambda curve: -curve[1])
    named = curves if len(curves) <= _MOST_NAMED else [ranked[0], ranked[len(ranked) // 2], ranked[-1]]
    for curve in curves:
        if curve not in named:
            axis.plot(curve[2], curve[3], color=theme.muted, lw=0.8, alpha=0.6)
    for number, (name, area, x, y) in enumerate(named):
        axis.plot(x, y, color=theme.colours[number], lw=1.7, label=f"{short_name(name)}: {area:.3f}")
    title = measure if named is curves else f"{measure}: best, median, worst of {len(curves)}"
    figure = axis.get_figure(root=True)
    assert figure is not None
    legend_below(figure, theme, columns=1 if len(named) == 1 else 2, title=title)


def _unit_square(axis: Axes) -> None:
    axis.set_xlim(-0.01, 1.01)
    axis.set_ylim(-0.01, 1.01)
    axis.set_aspect("equal")


def _series(lines: Sequence[Mapping[str, Any]], key: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    found = [(line["step"], line[key]) for line in lines if key in line]
    return np.array([step for step, _ in found], np.int64), np.array([value for _, value in found], np.float64)


def short_name(name: str, most: int = 22) -> str:
    """The name, cut to fit beside a picture."""
    return name if len(name) <= most else name[: most - 1] + "…"


def new_figure(theme: Theme, height: float, *, heights: tuple[float, ...], grid: bool = True) -> tuple[Figure, list[Axes]]:
    """A figure with panels one below the other; no pyplot, whose global state would outlive the picture."""
    figure = Figure(figsize=(_WIDTH, height), facecolor=theme.ground, layout="constrained")
    axes = list(figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0])
    for axis in axes:
        axis.set_facecolor(theme.ground)
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(theme.muted)
        axis.tick_params(colors=theme.ink, labelsize=9, color=theme.muted)
        axis.xaxis.label.set_color(theme.ink)
        axis.yaxis.label.set_color(theme.ink)
        if grid:
            axis.grid(True, color=theme.muted, alpha=0.25, lw=0.6)
            axis.set_axisbelow(True)
    return figure, axes


def _legend(axis: Axes, theme: Theme) -> None:
    axis.legend(fontsize=9, frameon=False, labelcolor=theme.ink)


def legend_below(figure: Figure, theme: Theme, *, columns: int, title: str | None = None) -> None:
    """A legend under the axes, where it hides nothing however many entries it has."""
    style: dict[str, Any] = {"fontsize": 9, "title_fontsize": 9, "frameon": False, "labelcolor": theme.ink}
    legend = figure.legend(loc="outside lower center", ncols=columns, title=title, columnspacing=1.4, **style)
    legend.get_title().set_color(theme.ink)


def _natural(name: str) -> list[str | int]:
    """Sorts class 2 before class 10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _readable_on(colour: tuple[float, ...], theme: Theme) -> str:
    """Whichever of ground and ink stands out more on a colour (contrast ratio of WCAG 2)."""

    def luminance(c: Any) -> float:
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in to_rgb(c)]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    behind = luminance(colour)
    return max(theme.ground, theme.ink, key=lambda c: abs(np.log((luminance(c) + 0.05) / (behind + 0.05))))
