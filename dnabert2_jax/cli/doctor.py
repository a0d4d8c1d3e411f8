"""``dnabert2 doctor``."""

from pathlib import Path
from typing import Annotated

from typer import Option

from dnabert2_jax.cli.app import app
from dnabert2_jax.cli.options import Base, path
from dnabert2_jax.errors import UserError
from dnabert2_jax.progress import remark


@app.command(epilog="Example: dnabert2 doctor --model runs/promoters/model")
def doctor(
    model: Annotated[Path | None, Option(parser=path, help="Model, adapter or Hugging Face directory to check.")] = None,
    base: Base = None,
) -> None:
    """Report versions and devices, and check a model.

    Prints one block to paste into a report: what is installed, JAX's settings in the environment, the devices, and the
    attention backend for several lengths; with --model, also whether that directory is sound and computes correctly on this
    machine.
    """
    from dnabert2_jax.doctor import check_model, machine

    if model is None and base is not None:
        raise UserError("--base belongs to an adapter; give its directory with --model")
    for subject, finding in machine():
        print(f"{subject:<10} {finding}")
    if model is None:
        remark("give --model DIR to check a model directory as well")
        return
    for check, finding in check_model(model, base):
        print(f"{'model':<10} {check}: {finding}")
