"""``dnabert2 report``."""

from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

from dnabert2_jax.cli.app import app
from dnabert2_jax.cli.options import path
from dnabert2_jax.progress import remark


@app.command(epilog="Example: dnabert2 report runs/promoters --embedding-map --format pdf")
def report(
    workdir: Annotated[Path, Argument(parser=path, help="The --workdir of a pretrain or finetune run, finished or not.")],
    embedding_map: Annotated[bool, Option("--embedding-map", help="Embed up to 1,000 test rows and draw a map.")] = False,
    map_method: Annotated[Literal["auto", "pca", "umap"], Option(help="auto is UMAP if installed, else PCA.")] = "auto",
    picture_format: Annotated[
        Literal["png", "svg", "pdf"], Option("--format", help="Also save pictures as SVG or PDF.")
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
