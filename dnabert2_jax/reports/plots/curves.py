"""Curves over training: loss, scores, learning rate and gradient norm, and the held-out loss of each species."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from dnabert2_jax.errors import UserError
from dnabert2_jax.reports.plots.style import LIGHT, Theme, display_name, legend_inside, new_figure

BY_SPECIES = "validation_loss_by_species"
"""Key of a line of ``metrics.jsonl`` with the losses."""

_STYLES = ("-", "--", ":")
_FEW_POINTS = 12  # up to which points are marked
_MOST_LABELED = 24
_LINE = 0.165  # inches from one label to the next


def training_curves(lines: Sequence[Mapping[str, Any]], theme: Theme = LIGHT, *, kept_step: int | None = None) -> Figure:
    """Loss, score, learning rate and gradient norm by optimizer step.

    Args:
        lines: the lines of ``metrics.jsonl``, from pretraining or fine-tuning.
        theme: colors.
        kept_step: the step whose parameters were kept, which is marked.

    Raises:
        UserError: there is nothing to draw yet.
    """
    if not any("loss" in line for line in lines):
        raise UserError("the run has no measurements yet: draw its curves after the first line of metrics.jsonl")
    pretraining = any("masked_accuracy" in line for line in lines)
    figure, axes = new_figure(theme, 6.0, heights=(3.0, 3.0, 1.2, 1.2))
    for axis, (label, series) in zip(axes, _panels(lines, pretraining), strict=True):
        drawn = 0
        for number, (name, key) in enumerate(series.items()):
            points = [(line["step"], line[key]) for line in lines if key in line]
            if points:
                axis.plot(
                    *zip(*points, strict=True),
                    color=theme.colors[number] if name else theme.ink,
                    ls="--" if number == 2 else "-",  # what it covers shows through
                    label=name,
                    lw=1.6,
                    marker="o" if len(points) <= _FEW_POINTS else "",
                    ms=4,
                    clip_on=False,
                )
                drawn += bool(name)
        if kept_step is not None:
            axis.axvline(kept_step, color=theme.muted, lw=1, ls=":")
        axis.margins(y=0.08)
        axis.set_ylabel(label)
        axis.tick_params(labelbottom=axis is axes[-1])
        axis.yaxis.set_major_locator(MaxNLocator(nbins=5 if axis in axes[:2] else 2))
        if drawn > 1:
            legend_inside(axis, theme)
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


def _panels(lines: Sequence[Mapping[str, Any]], pretraining: bool) -> list[tuple[str, dict[str, str]]]:
    """(axis label, key in the log by name) of each panel."""
    if pretraining:
        unit = "nats per masked token"
        score, scores = "masked accuracy\n(%)", {"training": "masked_accuracy", "held out": "validation_masked_accuracy"}
    elif any("dev_spearman" in line for line in lines):
        unit = "squared deviations"
        score, scores = "score", {"dev Spearman": "dev_spearman", "dev Pearson": "dev_pearson"}
    elif any("dev_auprc" in line and "dev_top_k" in line for line in lines):
        unit = "nats per base"
        score, scores = "score", {"dev AUPRC": "dev_auprc", "dev top-k": "dev_top_k", "dev segment F1": "dev_segment_f1"}
    else:
        unit = "nats per row"
        score, scores = "score", {"dev MCC": "dev_mcc", "dev macro F1": "dev_macro_f1", "dev accuracy": "dev_accuracy"}
    return [
        (f"loss\n({unit})", {"training": "loss", "held out": "validation_loss" if pretraining else "dev_loss"}),
        (score, scores),
        ("learning\nrate", {"": "learning_rate"}),
        ("gradient\nnorm", {"": "gradient_norm"}),
    ]


def species_losses(lines: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """(step, held-out loss in nats per masked token) of every evaluation by species, highest final loss first.

    Args:
        lines: of ``metrics.jsonl``.
    """
    curves: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        for name, loss in line.get(BY_SPECIES, {}).items():
            curves.setdefault(name, []).append((line["step"], loss))
    return dict(sorted(curves.items(), key=lambda item: -item[1][-1][1]))


def species_curves(lines: Sequence[Mapping[str, Any]], theme: Theme = LIGHT) -> Figure:
    """Held-out loss of each species by optimizer step, each line labeled at its end.

    Of more than 24 species, the 12 with the highest and the 12 with the lowest loss are colored and labeled; the others are
    gray.

    Args:
        lines: of ``metrics.jsonl``.
        theme: colors.

    Raises:
        UserError: no evaluation has been made yet.
    """
    curves = species_losses(lines)
    if not curves:
        raise UserError("the run has no held-out losses yet: draw them after its first evaluation")
    names, half = list(curves), _MOST_LABELED // 2
    named = names if len(names) <= _MOST_LABELED else names[:half] + names[-half:]
    room = max(2.5, _LINE * len(named))
    figure, (axis,) = new_figure(theme, room + 0.7, heights=(1,))
    for name in names:
        if name not in named:
            axis.plot(*zip(*curves[name], strict=True), color=theme.muted, lw=0.8, alpha=0.5)
    single = all(len(curve) == 1 for curve in curves.values())
    for number, name in enumerate(named):
        axis.plot(
            *zip(*curves[name], strict=True),
            color=theme.colors[number % len(theme.colors)],
            ls=_STYLES[number // len(theme.colors) % len(_STYLES)],
            lw=1.4,
            marker="o" if single else "",
            ms=4,
            clip_on=False,
        )
    axis.margins(x=0, y=0.04)
    axis.set(xlabel="optimizer step", ylabel="held-out loss (nats per masked token)")
    axis.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    low, high = axis.get_ylim()
    ends = np.array([curves[name][-1][1] for name in named])
    places = _apart((ends - low) / (high - low), _LINE / room)
    for number, (name, end, place) in enumerate(zip(named, ends, places, strict=True)):
        color = theme.colors[number % len(theme.colors)]
        leader = [(end - low) / (high - low), place]
        axis.plot([1.01, 1.1], leader, color=color, lw=1, transform=axis.transAxes, clip_on=False)
        label = f"{end:.3f} {display_name(name, 30, most_lines=1)}"
        axis.text(1.12, place, label, transform=axis.transAxes, va="center", color=theme.ink, fontsize=8)
    if named is not names:
        axis.set_title(
            f"the {half} highest and {half} lowest of {len(names)} species", color=theme.ink, fontsize=9, loc="left"
        )
    return figure


def _apart(wanted: NDArray[np.float64], distance: float) -> NDArray[np.float64]:
    """Places in [0, 1], descending by at least ``distance``, as close as possible to the descending ones wanted (L2)."""
    from sklearn.isotonic import IsotonicRegression

    steps = distance * np.arange(len(wanted))
    fitted = IsotonicRegression(increasing=False, y_min=steps[-1], y_max=1.0).fit_transform(steps, wanted + steps)
    return np.asarray(fitted - steps, np.float64)
