"""The page of a calibration: how well probabilities match the fraction of correct decisions, before and after."""

from functools import partial
from pathlib import Path

from dnabert2_jax.inference.calibration import Calibration
from dnabert2_jax.reports.page import Block, Page, Pictures, Section, Table, Text, write_page
from dnabert2_jax.reports.plots.scores import reliability_diagram
from dnabert2_jax.reports.plots.style import drawn


def write_calibration(file: Path, calibration: Calibration) -> Path:
    """Write the page.

    Raises:
        UserError: it cannot be written.
    """
    curves = {"before": calibration.reliability_before, "after": calibration.reliability_after}
    caption = "Fraction of correct decisions by their probability; on the dashed line, the two are equal."
    blocks: list[Block] = [
        Pictures([drawn(caption, partial(reliability_diagram, curves))]),
        Table.from_records(calibration.rows()),
        Text(
            "The calibration error is the mean distance from the dashed line over all decisions. Predicted classes are the "
            "same before and after. The temperature was fitted on this table; to see how well it generalizes, run "
            "`dnabert2 evaluate` on another one."
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
    return write_page(file, page)
