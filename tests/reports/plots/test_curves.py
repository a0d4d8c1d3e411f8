import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnabert2_jax.errors import UserError
from dnabert2_jax.reports.plots.curves import _apart, species_curves, species_losses, training_curves
from dnabert2_jax.reports.plots.style import DARK, LIGHT, Theme, png
from tests.reports.plots.helpers import FINETUNING, PRETRAINING, THEMES, pixels, shows, texts


@THEMES
def test_curves_of_pretraining_show_both_splits(theme: Theme):
    figure = training_curves(PRETRAINING, theme)
    assert {"training", "held out", "optimizer step", "loss\n(nats per masked token)"} <= texts(figure)
    picture = pixels(png(figure))
    assert shows(picture, theme.colors[0])
    assert shows(picture, theme.colors[1])


def test_curves_of_finetuning_mark_the_step_that_was_kept():
    figure = training_curves(FINETUNING, kept_step=7)
    assert {"dev MCC", "dev macro F1", "dev accuracy", "kept", "loss\n(nats per row)"} <= texts(figure)
    assert "kept" not in texts(training_curves(FINETUNING))


def test_curves_plot_the_values_of_the_log():
    loss = training_curves(PRETRAINING).axes[0]
    drawn = {line.get_label(): line.get_xydata().tolist() for line in loss.lines}
    assert drawn == {"training": [[5, 4.0], [10, 3.5]], "held out": [[10, 3.6]]}


def test_curves_need_a_measurement():
    with pytest.raises(UserError, match=r"metrics\.jsonl"):
        training_curves([{"step": 1}])


def run_of(species: int, evaluations: int = 3) -> list[dict]:
    """Lines of a run: the loss of every species falls, the one of species 0 ends lowest."""
    rng = np.random.default_rng(0)
    start = rng.uniform(6, 8, species)
    lines = []
    for n in range(1, evaluations + 1):
        lines.append({"step": 10 * n, "loss": 5.0})
        losses = {f"species {s}": float(start[s] / n + 0.01 * s) for s in range(species)}
        lines.append({"step": 10 * n, "validation_loss": 6.0, "validation_loss_by_species": losses})
    return lines


def labels(figure) -> list:
    """The texts that name a line, in the order of the picture from above."""
    found = [text for text in figure.axes[0].texts if re.match(r"\d+\.\d{3} ", text.get_text())]
    return sorted(found, key=lambda text: -text.get_position()[1])


def test_losses_are_read_from_the_log_the_hardest_species_first():
    lines = [
        {"step": 1, "loss": 3.0},
        {"step": 1, "validation_loss_by_species": {"yeast": 2.0, "mouse": 1.5}},
        {"step": 2, "validation_loss_by_species": {"yeast": 1.0, "mouse": 1.25}},
    ]
    losses = species_losses(lines)
    assert list(losses.items()) == [("mouse", [(1, 1.5), (2, 1.25)]), ("yeast", [(1, 2.0), (2, 1.0)])]
    assert species_losses(lines[:1]) == {}
    with pytest.raises(UserError, match="no held-out losses yet"):
        species_curves(lines[:1])


@pytest.mark.parametrize("species", [1, 2, 16, 24])
def test_every_line_is_drawn_and_named_with_its_last_value(species: int):
    lines = run_of(species)
    figure = species_curves(lines)
    drawn = [line.get_xydata().tolist() for line in figure.axes[0].lines]
    losses = species_losses(lines)
    for curve in losses.values():
        assert [list(point) for point in curve] in drawn
    assert [label.get_text() for label in labels(figure)] == [f"{c[-1][1]:.3f} {name}" for name, c in losses.items()]


def test_of_many_species_the_hardest_and_the_easiest_are_named_and_the_others_grey():
    lines = run_of(135)
    figure = species_curves(lines)
    order = list(species_losses(lines))
    named = [label.get_text().split(" ", 1)[1] for label in labels(figure)]
    assert named == order[:12] + order[-12:]
    assert "the 12 highest and 12 lowest of 135 species" in texts(figure)
    curves = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 3]
    assert len(curves) == 135
    assert sum(line.get_color() == LIGHT.muted for line in curves) == 135 - 24


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("species", [1, 16, 40])
def test_names_neither_touch_each_other_nor_leave_the_picture(theme, species: int):
    lines = run_of(species, evaluations=1)
    lines[-1]["validation_loss_by_species"] = dict.fromkeys(lines[-1]["validation_loss_by_species"], 6.5)  # all in one place
    figure = species_curves(lines, theme)
    assert png(figure) == png(species_curves(lines, theme))
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in labels(figure)]
    assert all(above.y0 >= below.y1 - 1 for above, below in pairwise(boxes))
    assert all(box.x1 <= figure.bbox.x1 and box.y0 >= figure.bbox.y0 and box.y1 <= figure.bbox.y1 for box in boxes)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=24))
def test_labels_are_moved_apart_only_where_they_would_overlap(wanted: list[float]):
    ends = np.sort(np.array(wanted))[::-1]
    distance = 1 / 24
    places = _apart(ends, distance)
    assert places.min() > -1e-9
    assert places.max() < 1 + 1e-9
    assert (-np.diff(places) >= distance - 1e-9).all()
    if (-np.diff(ends) >= distance).all():
        np.testing.assert_allclose(places, ends, atol=1e-9)
