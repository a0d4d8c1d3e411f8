"""Pictures of what an output depends on: logos of contributions, and heat maps of mutants, attention and dependencies."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from dnabert2_jax.errors import counted
from dnabert2_jax.genome.letters import BASES
from dnabert2_jax.interpretation.attention import AttentionMaps
from dnabert2_jax.interpretation.dependency import DependencyMap
from dnabert2_jax.interpretation.gradients import Attributions
from dnabert2_jax.interpretation.ism import MutationScores
from dnabert2_jax.interpretation.results import Explanation
from dnabert2_jax.reports.plots.logo import draw_logo
from dnabert2_jax.reports.plots.style import LIGHT, Theme, display_name, new_figure

BASES_A_ROW = 60
_LOGO_INCHES, _MUTANTS_INCHES, _MARGIN_INCHES = 0.75, 0.5, 0.9
_LABELED_TOKENS = 40
_BRIGHTEST = 99  # percentile that has the darkest color, so that one cell does not leave the others white


def explanation_picture(result: Explanation, theme: Theme = LIGHT) -> Figure:
    """The picture of a result of any method."""
    if isinstance(result, MutationScores):
        return mutation_picture(result, theme)
    if isinstance(result, Attributions):
        return attribution_picture(result, theme)
    if isinstance(result, AttentionMaps):
        return attention_picture(result, theme)
    return dependency_picture(result, theme)


def mutation_picture(result: MutationScores, theme: Theme = LIGHT) -> Figure:
    """Contributions as a logo, and below each row of it the scores of the four bases."""
    rows = _rows(len(result.sequence))
    inches = _LOGO_INCHES + _MUTANTS_INCHES
    figure, axes = new_figure(
        theme, _MARGIN_INCHES + inches * len(rows), heights=(_LOGO_INCHES, _MUTANTS_INCHES) * len(rows), grid=False
    )
    _draw_logos(axes[::2], rows, result.sequence, result.contributions, theme)
    largest = _largest(np.abs(result.scores))
    for axis, (start, end) in zip(axes[1::2], rows, strict=True):
        image = axis.imshow(
            result.scores[start:end].T,
            cmap=_around_zero(theme),
            vmin=-largest,
            vmax=largest,
            aspect="auto",
            interpolation="nearest",
            extent=(start + 0.5, end + 0.5, len(BASES) - 0.5, -0.5),
        )
        axis.set_yticks(range(len(BASES)), list(BASES), fontsize=6)
        axis.tick_params(length=0)
        _set_bases(axis, start)
    for axis in axes[::2]:
        axis.set_xticks([])
    _color_bar(figure, axes, image, f"{result.unit}, minus the mean of its site", theme)
    _title(axes[0], result.name, theme)
    return figure


def attribution_picture(result: Attributions, theme: Theme = LIGHT) -> Figure:
    """Contributions as a logo; the bases of a token have the same height."""
    rows = _rows(len(result.sequence))
    figure, axes = new_figure(theme, _MARGIN_INCHES + (_LOGO_INCHES + 0.2) * len(rows), heights=(1,) * len(rows), grid=False)
    _draw_logos(axes, rows, result.sequence, result.contributions, theme)
    for axis, (start, _) in zip(axes, rows, strict=True):
        _set_bases(axis, start)
    axes[-1].set_xlabel(display_name(f"contributions to {result.unit}", width=48, most_lines=2), fontsize=9)
    _title(axes[0], result.name, theme)
    return figure


def attention_picture(result: AttentionMaps, theme: Theme = LIGHT) -> Figure:
    """The mean over the layers and heads of a result: queries down, keys across."""
    mean = result.weights.mean((0, 1))
    figure, (axis,) = new_figure(theme, 4.6, heights=(1,), grid=False)
    image = _draw_square(axis, mean, theme, first=0 if result.resolution == "token" else 1)
    axis.set(xlabel=f"{result.resolution} attended to", ylabel=f"attending {result.resolution}")
    _color_bar(figure, [axis], image, f"attention, {_which(result)}", theme)
    _title(axis, result.name, theme)
    return figure


def dependency_picture(result: DependencyMap, theme: Theme = LIGHT) -> Figure:
    """Which base, down, changes which other one, across."""
    figure, (axis,) = new_figure(theme, 4.6, heights=(1,), grid=False)
    image = _draw_square(axis, result.values, theme, first=1)
    axis.set(xlabel="base predicted", ylabel="base substituted")
    if len(result.sequence) <= _LABELED_TOKENS:
        places = range(1, len(result.sequence) + 1)
        axis.set_xticks(places, list(result.sequence), fontsize=7)
        axis.set_yticks(places, list(result.sequence), fontsize=7)
    _color_bar(figure, [axis], image, "largest change of the log-odds", theme)
    _title(axis, result.name, theme)
    return figure


def _rows(bases: int) -> list[tuple[int, int]]:
    """Start and end of each row; the last one may be shorter than the others."""
    return [(start, min(start + BASES_A_ROW, bases)) for start in range(0, bases, BASES_A_ROW)]


def _draw_logos(
    axes: Sequence[Axes], rows: list[tuple[int, int]], letters: str, heights: NDArray[np.float32], theme: Theme
) -> None:
    known = np.nan_to_num(heights, nan=0.0)
    low, high = min(0.0, float(known.min())), max(0.0, float(known.max()))
    margin = 0.05 * ((high - low) or 1.0)
    for axis, (start, end) in zip(axes, rows, strict=True):
        draw_logo(axis, letters[start:end], heights[start:end], theme, first=start + 1)
        axis.set_ylim(low - margin, high + margin)
        axis.spines["bottom"].set_visible(False)
        axis.tick_params(axis="y", labelsize=7)
        _set_bases(axis, start)


def _set_bases(axis: Axes, start: int) -> None:
    """The x axis of a row: bases counted from 1, as wide as every other row."""
    axis.set_xlim(start + 0.5, start + BASES_A_ROW + 0.5)
    axis.set_xticks([n for n in range(start + 1, start + BASES_A_ROW + 1) if n % 10 == 0])
    axis.tick_params(axis="x", labelsize=7)


def _draw_square(axis: Axes, values: NDArray[np.float32], theme: Theme, first: int) -> AxesImage:
    side = (first - 0.5, first + len(values) - 0.5)
    return axis.imshow(
        values,
        cmap=_from_zero(theme),
        vmin=0,
        vmax=_largest(values),
        interpolation="nearest",
        extent=(*side, *side[::-1]),
    )


def _largest(values: NDArray[np.float32]) -> float:
    known = values[np.isfinite(values)]
    return float(np.percentile(known, _BRIGHTEST)) or float(known.max()) or 1.0 if known.size else 1.0


def _around_zero(theme: Theme) -> Colormap:
    """Red below zero, the ground at zero, blue above it; the unknown is gray."""
    colors = LinearSegmentedColormap.from_list("around_zero", [theme.colors[1], theme.ground, theme.colors[0]])
    return colors.with_extremes(bad=theme.muted)


def _from_zero(theme: Theme) -> Colormap:
    return LinearSegmentedColormap.from_list("from_zero", [theme.ground, theme.shade]).with_extremes(bad=theme.muted)


def _color_bar(figure: Figure, axes: Sequence[Axes], image: AxesImage, label: str, theme: Theme) -> None:
    """A scale below the axes."""
    bar = figure.colorbar(image, ax=list(axes), location="bottom", aspect=40, fraction=0.15 / len(axes), pad=0.02)
    bar.set_label(display_name(label, width=48, most_lines=2), color=theme.ink, fontsize=9)
    bar.ax.tick_params(colors=theme.ink, labelsize=7)
    bar.outline.set_edgecolor(theme.muted)


def _title(axis: Axes, name: str, theme: Theme) -> None:
    axis.set_title(display_name(name, width=60, most_lines=1), color=theme.ink, fontsize=10, loc="left")


def _which(result: AttentionMaps) -> str:
    """The one map that is shown, or how many the mean is over."""
    layers, heads = len(result.layers), len(result.heads)
    if layers == heads == 1:
        return f"layer {result.layers[0]}, head {result.heads[0]}"
    return f"mean of {counted(layers, 'layer')} x {counted(heads, 'head')}"
