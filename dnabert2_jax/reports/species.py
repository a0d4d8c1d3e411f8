"""How a pretrained model does on each species: a picture of its held-out loss over the run, and the last values."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression

from dnabert2_jax.errors import UserError
from dnabert2_jax.reports.plots import LIGHT, Theme, new_figure, short_name

BY_SPECIES = "validation_loss_by_species"
"""Where a line of ``metrics.jsonl`` has the losses."""

_MOST_LABELLED = 24
_LINE = 0.165  # inches from one label to the next
_STYLES = ("-", "--", ":")


def species_losses(lines: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """(step, held-out loss in nats per masked token) of every evaluation by species, the highest last loss first.

    Args:
        lines: of ``metrics.jsonl``.
    """
    curves: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        for name, loss in line.get(BY_SPECIES, {}).items():
            curves.setdefault(name, []).append((line["step"], loss))
    return dict(sorted(curves.items(), key=lambda item: -item[1][-1][1]))


def species_curves(lines: Sequence[Mapping[str, Any]], theme: Theme = LIGHT) -> Figure:
    """Held-out loss of each species by optimizer step; every line is named at its end.

    Of more than 24 species, the 12 hardest to predict and the 12 easiest have colours and names; the others are grey.

    Args:
        lines: of ``metrics.jsonl``.
        theme: colours.

    Raises:
        UserError: no evaluation has been made yet.
    """
    curves = species_losses(lines)
    if not curves:
        raise UserError("the run has no held-out losses yet: draw them after its first evaluation")
    names, half = list(curves), _MOST_LABELLED // 2
    named = names if len(names) <= _MOST_LABELLED else names[:half] + names[-half:]
    room = max(2.5, _LINE * len(named))
    figure, (axis,) = new_figure(theme, room + 0.7, heights=(1,))
    for name in names:
        if name not in named:
            axis.plot(*zip(*curves[name], strict=True), color=theme.muted, lw=0.8, alpha=0.5)
    single = all(len(curve) == 1 for curve in curves.values())
    for number, name in enumerate(named):
        axis.plot(
            *zip(*curves[name], strict=True),
            color=theme.colours[number % len(theme.colours)],
            ls=_STYLES[number // len(theme.colours) % len(_STYLES)],
            lw=1.4,
            marker="o" if single else "",
            ms=4,
        )
    axis.margins(x=0, y=0.04)
    axis.set_xlabel("optimizer step")
    axis.set_ylabel("held-out loss (nats per masked token)")
    axis.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    low, high = axis.get_ylim()
    ends = np.array([curves[name][-1][1] for name in named])
    places = _apart((ends - low) / (high - low), _LINE / room)
    for number, (name, end, place) in enumerate(zip(named, ends, places, strict=True)):
        colour = theme.colours[number % len(theme.colours)]
        leader = [(end - low) / (high - low), place]
        axis.plot([1.01, 1.1], leader, color=colour, lw=1, transform=axis.transAxes, clip_on=False)
        label = f"{end:.3f} {short_name(name)}"
        axis.text(1.12, place, label, transform=axis.transAxes, va="center", color=theme.ink, fontsize=8)
    if named is not names:
        axis.set_title(
            f"the {half} highest and {half} lowest of {len(names)} species", color=theme.ink, fontsize=9, loc="left"
        )
    return figure


def _apart(wanted: NDArray[np.float64], distance: float) -> NDArray[np.float64]:
    """Places in [0, 1], falling by ``distance`` or more, as near as possible to the falling ones wanted (least squares)."""
    steps = distance * np.arange(len(wanted))
    fitted = IsotonicRegression(increasing=False, y_min=steps[-1], y_max=1.0).fit_transform(steps, wanted + steps)
    return np.asarray(fitted - steps, np.float64)
