"""``dnabert2 report``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from dnabert2_jax.cli.app import app
from dnabert2_jax.progress import remark


@app.command(epilog="Example: dnabert2 report runs/promoters --embedding-map --format pdf")
def report(
    workdir: Annotated[Path, typer.Argument(help="The --workdir of a pretrain or finetune run, finished or not.")],
    embedding_map: Annotated[
        bool, typer.Option("--embedding-map", help="Embed up to 1,000 test rows with the fine-tuned model and draw a map.")
    ] = False,
    map_method: Annotated[
        Literal["auto", "pca", "umap"], typer.Option(help="auto is UMAP if umap-learn is installed, else PCA.")
    ] = "auto",
    picture_format: Annotated[
        Literal["png", "svg", "pdf"], typer.Option("--format", help="Also save the pictures as SVG or PDF, for print.")
    ] = "png",
) -> None:
    """Rewrite a run's report.

    One HTML page, and its pictures as files.
    """
    from dnabert2_jax.reports import write_report
    from dnabert2_jax.reports.embeddings import embed_test_rows

    if embedding_map:
        embed_test_rows(workdir)
    page = write_report(workdir, map_method, picture_format)
    remark(f"pictures in {page.parent / 'pictures'}")
    print(f"saved {page}")
