"""``dnabert2 quickstart``."""

from pathlib import Path
from typing import Annotated

import typer

from dnabert2_jax.cli.app import app


@app.command(epilog="Example: dnabert2 quickstart --workdir runs/quickstart")
def quickstart(
    workdir: Annotated[Path, typer.Option(help="Directory for everything that is made.")] = Path("runs/quickstart"),
) -> None:
    """Run everything once on yeast DNA, in minutes.

    Trains a tokenizer, builds a corpus, pretrains, fine-tunes (full and LoRA), and prints the test scores.
    """
    from dnabert2_jax.recipes.quickstart import quickstart as run_quickstart

    run_quickstart(workdir)
