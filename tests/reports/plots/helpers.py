"""What the tests of pictures share."""

import io

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from dnabert2_jax.reports.plots.style import DARK, LIGHT

THEMES = pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])

PRETRAINING = [
    {"step": 5, "loss": 4.0, "masked_accuracy": 0.02, "gradient_norm": 1.0, "learning_rate": 1e-3},
    {"step": 10, "loss": 3.5, "masked_accuracy": 0.05, "gradient_norm": 0.8, "learning_rate": 5e-4},
    {"step": 10, "validation_loss": 3.6, "validation_masked_accuracy": 0.04},
]
FINETUNING = [
    {"step": 7, "loss": 0.7, "accuracy": 0.5, "gradient_norm": 2.0, "learning_rate": 1e-4},
    {"step": 7, "dev_mcc": 0.2, "dev_macro_f1": 0.5, "dev_accuracy": 0.6},
]


def pixels(data: bytes) -> np.ndarray:
    """The picture as 8-bit RGB, [height, width, 3]."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def rgb(color: str) -> tuple[int, ...]:
    return tuple(int(color[at : at + 2], 16) for at in (1, 3, 5))


def shows(picture: np.ndarray, color: str) -> bool:
    """Whether some pixel is about of this color (lines are antialiased)."""
    return bool((np.abs(picture.astype(int) - rgb(color)).max(axis=2) <= 8).any())


def scores(classes: int, rows: int = 200) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(classes)
    labels = np.arange(rows) % classes
    logits = rng.normal(size=(rows, classes))
    logits[np.arange(rows), labels] += 1.0
    probabilities = np.exp(logits)
    return labels, probabilities / probabilities.sum(axis=1, keepdims=True)


def texts(figure) -> set[str]:
    """Everything written on a figure."""
    figure.draw_without_rendering()
    return {text.get_text() for text in figure.findobj(match=lambda artist: hasattr(artist, "get_text"))}


def legend_is_inside(figure) -> bool:
    """Whether every text of the figure's legends, drawn, lies inside the figure."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [text.get_window_extent(canvas.get_renderer()) for each in figure.legends for text in each.get_texts()]
    return bool(boxes) and all(box.x0 >= 0 and box.x1 <= figure.bbox.width and box.y0 >= 0 for box in boxes)
