"""How long the rows of tables are."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from dnabert2_jax.reports.plots.style import LIGHT, Theme, legend_inside, new_figure


def token_lengths(lengths: Mapping[str, Sequence[Sequence[int]]], max_tokens: int | None, theme: Theme = LIGHT) -> Figure:
    """Histogram of row lengths, as fractions of each table.

    Args:
        lengths: for each table the pairs (tokens per row, special ones included; rows of that length).
        max_tokens: the truncation limit, drawn if some row is longer.
        theme: colors.
    """
    figure, (axis,) = new_figure(theme, 3.2, heights=(1,))
    pairs = {name: np.asarray(rows, np.int64).reshape(-1, 2) for name, rows in lengths.items()}
    every = np.concatenate([rows[:, 0] for rows in pairs.values()])
    low, high = int(every.min()), int(every.max())
    width = max(1, -(-(high - low + 1) // 40))
    edges = np.arange(low, high + width + 1, width) - 0.5
    for number, (name, rows) in enumerate(pairs.items()):
        share, _ = np.histogram(rows[:, 0], edges, weights=rows[:, 1] / rows[:, 1].sum())
        color = theme.colors[number]
        if number == 0:
            axis.stairs(share, edges, color=color, fill=True, alpha=0.25)
        axis.stairs(share, edges, color=color, lw=1.6, label=name)
    if max_tokens is not None and high > max_tokens:
        axis.axvline(max_tokens, color=theme.ink, lw=1, ls="--", label=f"max_tokens {max_tokens:,}")
    axis.set(xlabel="tokens per row", ylabel="rows" if width == 1 else f"rows in {width} tokens")
    axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    legend_inside(axis, theme)
    return figure
