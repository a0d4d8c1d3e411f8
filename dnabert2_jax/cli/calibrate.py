"""``dnabert2 calibrate``."""

from pathlib import Path
from typing import Annotated

from typer import Option

from dnabert2_jax.cli import options
from dnabert2_jax.cli.app import app
from dnabert2_jax.cli.output import check_page, print_saved, print_table
from dnabert2_jax.progress import remark
from dnabert2_jax.storage.overwriting import refuse_overwriting


@app.command(
    epilog="Example: dnabert2 calibrate --model runs/promoters/model --data dev.csv --out runs/promoters_calibrated"
)
@options.with_option_groups
def calibrate(
    model: options.ComputedModel,
    data: Annotated[Path, Option(parser=options.path, help="Table with labels that the model was not trained on (dev).")],
    out: Annotated[Path, Option(parser=options.path, help="Model directory to write.")],
    page: Annotated[Path | None, Option(parser=options.path, help="HTML page to write, with a picture.")] = None,
    sequence_column: options.SequenceColumn = "sequence",
    label_column: options.LabelColumn = "label",
    batch_tokens: options.BatchTokens = None,
    force: options.Force = False,
) -> None:
    """Fit a classifier's probabilities to a table.

    Writes the model with its last layer divided by a temperature, so that the probabilities of dnabert2 predict match how
    often predictions are correct. No predicted class changes.
    """
    from dnabert2_jax.artifacts.model import save_model
    from dnabert2_jax.data.reading import read_table
    from dnabert2_jax.inference.calibration import calibrate as calibrate_model
    from dnabert2_jax.reports.calibration import write_calibration

    refuse_overwriting(out, force=force)
    check_page(page, force=force)
    opened = model.open()
    opened.need("classifier", "calibration", "train one with `dnabert2 finetune`")
    table = read_table(data, sequence_column=sequence_column, label_column=label_column)
    remark(table.summary())
    calibration = calibrate_model(opened, table, batch_tokens=batch_tokens, title="predicting")
    save_model(out, calibration.model.saved())
    print_table(calibration.rows())
    remark(f"temperature {calibration.temperature:.4f}")
    if page is not None:
        print_saved(write_calibration(page, calibration))
    print_saved(out)
