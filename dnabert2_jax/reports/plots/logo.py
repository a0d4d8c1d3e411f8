"""Letters as high as their values: sequence logos, drawn as paths, so that they look alike everywhere."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.textpath import TextPath
from numpy.typing import NDArray

from dnabert2_jax.genome.letters import BASES
from dnabert2_jax.reports.plots.style import Theme

_GAP = 0.06
"""Share of a base's width that stays free."""


def letter_colors(theme: Theme) -> dict[str, str]:
    """The colors of A, C, G and T: green, blue, yellow and red, as genome browsers have them."""
    blue, red, green, _, yellow, *_ = theme.colors
    return dict(zip(BASES, (green, blue, yellow, red), strict=True))


def draw_logo(axis: Axes, letters: Sequence[str], heights: NDArray[np.floating], theme: Theme, first: int = 1) -> None:
    """Draw each letter as high as its value, upside down below the axis where the value is negative.

    Args:
        axis: where; its limits are the caller's.
        letters: one for each base; other letters than A, C, G and T are left out.
        heights: of each letter; NaN is left out. [L].
        theme: colors.
        first: the number of the first base on the x axis; letter n is centered at first + n.
    """
    for base, color in letter_colors(theme).items():
        glyph = _glyph(base)
        shapes = []
        for n, (letter, height) in enumerate(zip(letters, heights.tolist(), strict=True)):
            if letter == base and np.isfinite(height) and height:
                corners = np.asarray(glyph.vertices) * (1 - _GAP, height) + (first + n - 0.5 + _GAP / 2, 0)
                shapes.append(Path(corners, glyph.codes))
        if shapes:
            axis.add_patch(PathPatch(Path.make_compound_path(*shapes), facecolor=color, lw=0))
    axis.axhline(0, color=theme.muted, lw=0.8)


@cache
def _glyph(letter: str) -> Path:
    """The outline of a letter, stretched to the unit square."""
    outline = TextPath((0, 0), letter, size=1, prop=FontProperties(family="DejaVu Sans", weight="bold"))
    box = outline.get_extents()
    return Path((np.asarray(outline.vertices) - (box.x0, box.y0)) / (box.width, box.height), outline.codes)
