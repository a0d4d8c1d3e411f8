"""``dnabert2 gue`` and ``dnabert2 flops``."""

from pathlib import Path
from typing import Annotated

import typer

from dnabert2_jax.cli.data import results
from dnabert2_jax.cli.train import Set
from dnabert2_jax.errors import UserError
from dnabert2_jax.gue.catalogue import Mode
from dnabert2_jax.reports.efficiency import BASES_PER_TOKEN

commands = typer.Typer()
gue = typer.Typer(no_args_is_help=True, help="Run the GUE benchmark, and report it.")

Workdir = Annotated[Path, typer.Option(help="The benchmark's directory; the same one again goes on.")]


@gue.command("run", epilog="Example: dnabert2 gue run --data GUE --model runs/released --workdir runs/gue --tasks 'tf/*'")
def run(
    data: Annotated[Path, typer.Option(help="Directory at or above the data sets, as in GUE/EMP/H3/train.csv.")],
    workdir: Workdir,
    model: Annotated[Path | None, typer.Option(help="Model directory to start from.")] = None,
    size: Annotated[str | None, typer.Option(help="Or a named size to start from random weights, as in 3m.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Tokenizer directory for --size.")] = None,
    tasks: Annotated[
        list[str] | None, typer.Option(help="Data set or glob, as in 'prom/*'; may be given many times. [default: all]")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Runs of each data set.")] = 3,
    mode: Annotated[
        Mode, typer.Option(help="parity: as the original, rows cut at its lengths; recommended: whole rows, no collapse.")
    ] = "recommended",
    max_train_rows: Annotated[
        int | None, typer.Option(min=2, help="Learn from at most so many rows; the report says so. [default: all]")
    ] = None,
    keep_models: Annotated[bool, typer.Option(help="Keep the fine-tuned models (470 MB each of the 117M).")] = True,
    set_: Set = None,
) -> None:
    """Fine-tune on every data set that is there, several seeds each, and compare with the published scores.

    What fails is recorded and the rest goes on; a killed benchmark goes on where it was.
    """
    from dnabert2_jax.gue.runner import GueRun, run_gue

    page = run_gue(
        GueRun(
            data=data,
            workdir=workdir,
            model=model,
            size=size,
            tokenizer=tokenizer,
            tasks=tuple(tasks or ()),
            seeds=seeds,
            mode=mode,
            max_train_rows=max_train_rows,
            overrides=tuple(set_ or ()),
            keep_models=keep_models,
        )
    )
    print(f"saved {page}")


@gue.command(
    "report",
    epilog="Example: dnabert2 gue report --workdir runs/gue_probe --workdir runs/gue_full --out runs/comparison.html",
)
def report(
    workdir: Annotated[list[Path], typer.Option(help="A benchmark's directory; several are set side by side.")],
    out: Annotated[Path | None, typer.Option(help="Page of several benchmarks: an .html file.")] = None,
) -> None:
    """Make a benchmark's page again from its records, or one page of several; prints the scores as well."""
    from rich.table import Table

    from dnabert2_jax.gue.comparison import comparison_rows, read_benchmarks, write_comparison
    from dnabert2_jax.gue.report import write_gue_report
    from dnabert2_jax.gue.summary import score_rows, summarize
    from dnabert2_jax.inference.output import check_output

    if len(workdir) == 1:
        if out is not None:
            raise UserError("--out is for several benchmarks; the page of one is in its --workdir")
        page = write_gue_report(workdir[0])
        header, rows = score_rows([task for task in summarize(workdir[0])["tasks"] if task["scores"]])
    else:
        if out is None:
            raise UserError("several benchmarks need --out, the .html file to write")
        check_output(out, (".html",))
        page = write_comparison(workdir, out)
        header, rows = comparison_rows(read_benchmarks(workdir))
    table = Table(*header)
    for row in rows:
        table.add_row(*row)
    results().print(table)
    print(f"saved {page}")


@commands.command(epilog="Example: dnabert2 flops --bases 500")
def flops(
    bases: Annotated[
        int, typer.Option(min=8, max=512, help="Length of the sequence; the published figures are for 500.")
    ] = 500,
    bases_per_token: Annotated[float, typer.Option(min=1, help="Of DNABERT-2's byte pairs, on average.")] = BASES_PER_TOKEN,
) -> None:
    """Parameters and forward FLOPs of DNABERT-2, DNABERT and the Nucleotide Transformer, beside the published ones."""
    from rich.table import Table

    from dnabert2_jax.reports.efficiency import costs, explanations

    header = ("model", "parameters", "published, millions", "tokens", "forward GFLOP", "relative", "published relative")
    table = Table(*header)
    rows = costs(bases, bases_per_token)
    for row in rows:
        table.add_row(
            row.model.name,
            f"{row.model.parameters:,}",
            f"{row.published_parameters:,}",
            f"{row.tokens:,}",
            f"{row.flops / 1e9:.2f}",
            f"{row.relative:.2f}",
            f"{row.published_relative:.2f}",
        )
    print(
        f"Assumed of a sequence of {bases} bases: DNABERT reads a token at every base and 2 special ones; NT one for 6 "
        f"bases, one for each base that is left, and [CLS]; DNABERT-2 one for {bases_per_token:g} bases and 2 special ones. "
        "Counted are the encoder's matrix products, 2 operations for a product and its sum; no padding, no head."
    )
    results().print(table)
    if bases == 500:
        for text in explanations(rows):
            print(text)
