"""Colors, sizes and names that all pictures share.

Colors follow Okabe and Ito (2008), which color-blind readers can tell apart, on a light or a dark background.
"""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from dnabert2_jax.reports.page import Picture

PictureFormat = Literal["png", "svg", "pdf"]

WIDTH = 4.5  # inches: a phone shows 10-point text about 11 pixels high
MARKERS = "osD^"
_SEPARATORS = r"\s_./-"


@dataclass(frozen=True)
class Theme:
    """The colors of a picture.

    Attributes:
        ground: background.
        ink: text.
        muted: axes, grid and reference lines.
        colors: of the lines, in order.
        shade: the far end of a color scale that starts at ``ground``.
    """

    ground: str
    ink: str
    muted: str
    colors: tuple[str, ...]
    shade: str

    def marker(self, number: int) -> tuple[str, str]:
        """Color and marker of the n-th group; they repeat after 32."""
        return self.colors[number % len(self.colors)], MARKERS[number // len(self.colors) % len(MARKERS)]


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
    return render(figure, "png", dpi)


def render(figure: Figure, picture_format: PictureFormat, dpi: int = 150) -> bytes:
    """The figure in one format, without a date, so that the same figure gives the same PNG or PDF.

    Args:
        figure: what to draw.
        picture_format: PNG, or SVG or PDF for print.
        dpi: resolution of a PNG.
    """
    buffer = io.BytesIO()
    metadata: dict[str, Any] = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    figure.savefig(
        buffer, format=picture_format, dpi=dpi, facecolor=figure.get_facecolor(), metadata=metadata[picture_format]
    )
    return buffer.getvalue()


def drawn(caption: str, draw: Callable[[Theme], Figure]) -> Picture:
    """A picture for a page, drawn for both color schemes."""
    return Picture(png(draw(LIGHT)), png(draw(DARK)), caption)


def new_figure(theme: Theme, height: float, *, heights: tuple[float, ...], grid: bool = True) -> tuple[Figure, list[Axes]]:
    """A figure with panels stacked vertically; no pyplot, whose global state would outlive the picture."""
    figure = Figure(figsize=(WIDTH, height), facecolor=theme.ground, layout="constrained")
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


def legend_inside(axis: Axes, theme: Theme) -> None:
    """A legend for a few entries."""
    axis.legend(fontsize=9, frameon=False, labelcolor=theme.ink)


def legend_below(figure: Figure, theme: Theme, *, columns: int, title: str | None = None) -> None:
    """A legend below the axes, where it hides nothing however many entries it has."""
    style: dict[str, Any] = {"fontsize": 9, "title_fontsize": 9, "frameon": False, "labelcolor": theme.ink}
    legend = figure.legend(loc="outside lower center", ncols=columns, title=title, columnspacing=1.4, **style)
    legend.get_title().set_color(theme.ink)


def display_name(name: str, width: int = 24, most_lines: int = 3) -> str:
    """A name broken into lines that fit beside a picture.

    One that is longer still loses its middle, because names often differ only at their ends.
    """
    if len(name) > width * most_lines:
        kept = width * most_lines - 1
        name = f"{name[: kept - kept // 2]}…{name[-(kept // 2) :]}"
    if most_lines == 1:
        return name
    lines = [""]
    for piece in re.findall(rf"[^{_SEPARATORS}]{{1,{width - 1}}}[{_SEPARATORS}]?|[{_SEPARATORS}]", name):
        if len(lines[-1]) + len(piece) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.strip() for line in lines)


def natural(name: str) -> list[str | int]:
    """Sorting key that puts class 2 before class 10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def readable_on(color: tuple[float, ...], theme: Theme) -> str:
    """Ground or ink, whichever has the higher contrast on a color (contrast ratio of WCAG 2)."""

    def luminance(c: Any) -> float:
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in to_rgb(c)]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    behind = luminance(color)
    return max(theme.ground, theme.ink, key=lambda c: abs(np.log((luminance(c) + 0.05) / (behind + 0.05))))
