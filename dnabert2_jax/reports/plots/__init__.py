"""Pictures of a run, drawn with matplotlib: training curves, scores, token lengths and a map of embeddings.

Every function returns a figure one column wide, so that its text stays legible on a phone.
"""

from dnabert2_jax.reports.plots.curves import species_curves, species_losses, training_curves
from dnabert2_jax.reports.plots.embeddings import MapMethod, embedding_map
from dnabert2_jax.reports.plots.lengths import token_lengths
from dnabert2_jax.reports.plots.scores import (
    confusion_matrix,
    measured_against_predicted,
    precision_recall_curves,
    roc_curves,
)
from dnabert2_jax.reports.plots.style import DARK, LIGHT, PictureFormat, Theme, legend_below, new_figure, png, render

__all__ = [
    "DARK",
    "LIGHT",
    "MapMethod",
    "PictureFormat",
    "Theme",
    "confusion_matrix",
    "embedding_map",
    "legend_below",
    "measured_against_predicted",
    "new_figure",
    "png",
    "precision_recall_curves",
    "render",
    "roc_curves",
    "species_curves",
    "species_losses",
    "token_lengths",
    "training_curves",
]
