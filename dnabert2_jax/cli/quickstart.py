"""``dnabert2 quickstart``."""

from pathlib import Path
from typing import Annotated

from typer import Option

from dnabert2_jax.cli.app import app
from dnabert2_jax.cli.options import local_path


@app.command(epilog="Example: dnabert2 quickstart --workdir runs/quickstart")
def quickstart(
    workdir: Annotated[Path, Option(parser=local_path, help="Directory for everything that is made.")] = Path(
        "runs/quickstart"
    ),
) -> None:
    """Run everything once on yeast DNA, in minutes.

    Trains a tokenizer, builds a corpus, pretrains, fine-tunes, and prints the test scores.
    """
    from dnabert2_jax.recipes.quickstart import quickstart as run_quickstart

    run_quickstart(workdir)
