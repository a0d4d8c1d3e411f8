"""The page of a calibration: how probabilities compare with what is right, before and after."""

from functools import partial
from pathlib import Path

from dnabert2_jax.inference.calibration import Calibration
from dnabert2_jax.reports.page import Block, Page, Picture, Pictures, Section, Table, Text, write_page
from dnabert2_jax.reports.plots.scores import reliability_diagram
from dnabert2_jax.reports.plots.style import DARK, LIGHT, png


def write_calibration(file: Path, calibration: Calibration) -> Path:
    """Write the page.

    Raises:
        UserError: it cannot be written.
    """
    curves = {"before": calibration.reliability_before, "after": calibration.reliability_after}
    light, dark = (png(draw(theme)) for draw in [partial(reliability_diagram, curves)] for theme in (LIGHT, DARK))
    caption = "Share of right decisions by their probability; on the dashed line, probabilities are what they say."
    blocks: list[Block] = [
        Pictures([Picture(light, dark, caption)]),
        Table.from_records(calibration.rows()),
        Text(
            "The calibration error is the mean distance from the dashed line over all decisions. Predicted classes are the "
            "same before and after. The temperature was fitted on this very table, so `dnabert2 evaluate` on another one "
            "tells what it is worth."
        ),
    ]
    page = Page(
        "Calibration",
        f"{calibration.model.path} on {calibration.table}",
        [Section("reliability", "Reliability", blocks)],
        [
            (f"{calibration.temperature:.3f}", "temperature"),
            *((f"{bins.error:.4f}", f"calibration error {name}") for name, bins in curves.items()),
        ],
    )
    return write_page(file, page.html())
