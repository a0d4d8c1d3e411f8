"""A map of embeddings in two dimensions."""

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Literal

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dnabert2_jax.errors import UserError
from dnabert2_jax.reports.plots.style import LIGHT, Theme, display_name, legend_below, natural, new_figure

MapMethod = Literal["auto", "pca", "umap"]
"""How an embedding map is made; ``auto`` is UMAP if the package umap-learn is installed, else PCA."""


def embedding_map(
    embeddings: NDArray[np.floating], groups: Sequence[str], theme: Theme = LIGHT, *, method: MapMethod = "auto"
) -> Figure:
    """Embeddings in two dimensions, colored by group; the picture names the method.

    Args:
        embeddings: [rows, D].
        groups: class or species of each row.
        theme: colors.
        method: see :data:`MapMethod`.

    Raises:
        UserError: fewer than three rows, or UMAP is requested and not installed.
    """
    if len(embeddings) < 3:
        raise UserError(f"a map needs at least three embeddings, found {len(embeddings)}")
    installed = find_spec("umap") is not None
    if method == "umap" and not installed:
        raise UserError("the package umap-learn is not installed: `pip install umap-learn`, or choose the method pca")
    points, axis_names, title = _pca(embeddings) if method == "pca" or not installed else _umap(embeddings)
    names = sorted(set(groups), key=natural)
    columns = 2 if max(map(len, names)) > 14 else 3
    figure, (axis,) = new_figure(theme, 4.2 + 0.19 * -(-len(names) // columns), heights=(1,))
    of_row = np.asarray(groups)
    for number, name in enumerate(names):
        chosen = points[of_row == name]
        color, marker = theme.marker(number)
        label = display_name(name)
        axis.scatter(chosen[:, 0], chosen[:, 1], s=14, color=color, marker=marker, lw=0, alpha=0.65, label=label)
    axis.set(xlabel=axis_names[0], ylabel=axis_names[1])
    axis.set_title(f"{title}, {len(points):,} rows", color=theme.ink, fontsize=10, loc="left")
    legend_below(figure, theme, columns=columns)
    return figure


def _pca(embeddings: NDArray[np.floating]) -> tuple[NDArray[np.floating], tuple[str, str], str]:
    centered = np.asarray(embeddings, np.float64) - np.mean(embeddings, axis=0, dtype=np.float64)
    left, singular, right = np.linalg.svd(centered, full_matrices=False)
    # The sign of a component is arbitrary: its largest loading is made positive, so that the picture is reproducible.
    sign = np.sign(right[np.arange(2), np.abs(right[:2]).argmax(axis=1)])
    share = singular**2 / max(float((singular**2).sum()), 1e-30)
    first, second = (f"component {n + 1} ({share[n]:.0%} of the variance)" for n in range(2))
    return left[:, :2] * singular[:2] * np.where(sign == 0, 1, sign), (first, second), "PCA"


def _umap(embeddings: NDArray[np.floating]) -> tuple[NDArray[np.floating], tuple[str, str], str]:
    umap = import_module("umap")  # optional, and untyped
    reducer = umap.UMAP(n_neighbors=min(15, len(embeddings) - 1), random_state=0, n_jobs=1)
    return reducer.fit_transform(np.asarray(embeddings, np.float32)), ("UMAP 1", "UMAP 2"), "UMAP"
