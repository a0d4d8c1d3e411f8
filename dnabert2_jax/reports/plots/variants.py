"""Pictures of variants: how scores are distributed, by consequence, and how they separate labels."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dnabert2_jax.reports.plots.scores import Named, precision_recall_of, roc_of
from dnabert2_jax.reports.plots.style import LIGHT, WIDTH, Theme, display_name, new_figure

SHOWN = (0.1, 99.9)
"""Percentiles between which a distribution is drawn: a few extreme values would leave no room for the others."""

_BINS = 60
Scores = NDArray[np.floating]


def score_distribution(values: Scores, name: str, theme: Theme = LIGHT) -> Figure:
    """How many alleles have which score.

    Args:
        values: at least one, all finite. [alleles].
        name: of the score.
        theme: colors.
    """
    figure, (axis,) = new_figure(theme, WIDTH * 0.7, heights=(1,))
    low, high = np.percentile(values, SHOWN)
    shown = (float(low), float(high)) if high > low else None
    axis.hist(values, bins=_BINS, range=shown, color=theme.colors[0])
    axis.axvline(float(np.median(values)), color=theme.colors[1], lw=1.2)
    axis.ticklabel_format(axis="x", scilimits=(-2, 4))  # numbers like 0.0012 would run into each other
    axis.set(xlabel=name, ylabel="alleles")
    return figure


def scores_by_consequence(groups: Sequence[tuple[str, Scores]], name: str, theme: Theme = LIGHT) -> Figure:
    """The quartiles of a score for each consequence, and the range of 90 % of its alleles; the first one is on top.

    Args:
        groups: each consequence with its scores, at least one, all finite. [alleles] each.
        name: of the score.
        theme: colors.
    """
    figure, (axis,) = new_figure(theme, 0.9 + 0.32 * len(groups), heights=(1,))
    places = np.arange(len(groups), 0, -1)
    low, first, middle, third, high = np.transpose([np.percentile(values, (5, 25, 50, 75, 95)) for _, values in groups])
    axis.hlines(places, low, high, color=theme.muted, lw=1)
    axis.hlines(places, first, third, color=theme.colors[0], lw=7, alpha=0.7)
    axis.plot(middle, places, "|", color=theme.ink, ms=10)
    axis.set_yticks(places, [display_name(term, 26, most_lines=1) for term, _ in groups])
    axis.set_ylim(0.3, len(groups) + 0.7)
    axis.grid(False, axis="y")
    axis.set_xlabel(name)
    return figure


def roc_of_scores(labels: NDArray[np.integer], scores: Mapping[str, Scores], theme: Theme = LIGHT) -> Figure:
    """Receiver operating characteristic of several scores of the same alleles.

    Args:
        labels: 1 for positive alleles, 0 for the others. [alleles].
        scores: by name, higher for positive ones; alleles whose score is NaN are left out. [alleles] each.
        theme: colors.
    """
    return roc_of(_known(labels, scores), theme, WIDTH * 1.1)


def precision_recall_of_scores(labels: NDArray[np.integer], scores: Mapping[str, Scores], theme: Theme = LIGHT) -> Figure:
    """Precision against recall; arguments as :func:`roc_of_scores`. The dashed line is chance."""
    return precision_recall_of(_known(labels, scores), float(labels.mean()), theme, WIDTH * 1.1)


def _known(labels: NDArray[np.integer], scores: Mapping[str, Scores]) -> list[Named]:
    known = {name: np.isfinite(values) for name, values in scores.items()}
    return [(name, labels[known[name]], values[known[name]]) for name, values in scores.items()]


def effect_against_score(measured: Scores, score: Scores, name: str, theme: Theme = LIGHT) -> Figure:
    """One dot for each allele.

    Args:
        measured: effects. [alleles].
        score: NaN is left out. [alleles].
        name: of the score.
        theme: colors.
    """
    figure, (axis,) = new_figure(theme, WIDTH * 0.8, heights=(1,))
    visible = float(np.clip(30 / np.sqrt(len(measured)), 0.08, 0.7))  # crowded dots show as darker areas
    axis.scatter(score, measured, s=12, color=theme.colors[0], lw=0, alpha=visible)
    axis.set(xlabel=name, ylabel="measured effect")
    return figure
