"""``dnabert2 gue run`` and ``gue report``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dnabert2_jax.cli.app import group
from dnabert2_jax.cli.options import Set
from dnabert2_jax.cli.output import print_table
from dnabert2_jax.errors import UserError
from dnabert2_jax.gue.catalogue import Mode

if TYPE_CHECKING:
    from dnabert2_jax.gue.summary import TaskSummary

gue = group("gue", "Run the GUE benchmark, and report it.")


@gue.command("run", epilog="Example: dnabert2 gue run --data GUE --model runs/released --workdir runs/gue --tasks 'tf/*'")
def run(
    data: Annotated[Path, typer.Option(help="Directory at or above the data sets, as in GUE/EMP/H3/train.csv.")],
    workdir: Annotated[Path, typer.Option(help="Directory of the benchmark; reuse it to resume.")],
    model: Annotated[Path | None, typer.Option(help="Model directory to start from.")] = None,
    size: Annotated[
        str | None, typer.Option(help="Instead of --model: a named size, such as 3m, with random weights.")
    ] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Tokenizer directory for --size.")] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            help="Data sets or globs, separated by commas, as in 'prom/*,tf/0'; can be repeated.", show_default="all"
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Runs per data set.")] = 3,
    mode: Annotated[
        Mode,
        typer.Option(help="parity: as the original, truncation included; recommended: whole rows, collapsed runs repeated."),
    ] = "recommended",
    max_train_rows: Annotated[
        int | None, typer.Option(min=2, help="Maximum training rows; the report says so.", show_default="all")
    ] = None,
    keep_models: Annotated[
        bool, typer.Option("--keep-models/--no-keep-models", help="Keep the fine-tuned models (470 MB each for the 117M).")
    ] = True,
    set_: Set = None,
) -> None:
    """Fine-tune on every data set found, with several seeds.

    Compares the scores with the published ones. Failures are recorded, and the other runs continue. Rerun the same command
    to resume.
    """
    from dnabert2_jax.gue.runner import GueRun, run_gue

    patterns = (pattern.strip() for text in tasks or () for pattern in text.split(","))
    page = run_gue(
        GueRun(
            data=data,
            workdir=workdir,
            model=model,
            size=size,
            tokenizer=tokenizer,
            tasks=tuple(pattern for pattern in patterns if pattern),
            seeds=seeds,
            mode=mode,
            max_train_rows=max_train_rows,
            overrides=tuple(set_ or ()),
            keep_models=keep_models,
        ),
        _print_scores,
    )
    print(f"saved {page}")


@gue.command(
    "report",
    epilog="Example: dnabert2 gue report --workdir runs/gue_probe --workdir runs/gue_full --out runs/comparison.html",
)
def report(
    workdir: Annotated[list[Path], typer.Option(help="Directory of a benchmark; several are shown side by side.")],
    out: Annotated[Path | None, typer.Option(help="Page for several benchmarks: an .html file.")] = None,
) -> None:
    """Rewrite a benchmark's page, or compare several.

    Prints the scores as well.
    """
    from dnabert2_jax.gue.comparison import comparison_rows, read_benchmarks, write_comparison
    from dnabert2_jax.gue.report import write_gue_report
    from dnabert2_jax.gue.summary import summarize
    from dnabert2_jax.inference.output import check_output

    if len(workdir) == 1:
        if out is not None:
            raise UserError("--out is for several benchmarks; the page of one is in its --workdir")
        page = write_gue_report(workdir[0])
        _print_scores(summarize(workdir[0])["tasks"])
    else:
        if out is None:
            raise UserError("several benchmarks need --out, the .html file to write")
        check_output(out, (".html",))
        benchmarks = read_benchmarks(workdir)
        page = write_comparison(benchmarks, out)
        if rows := comparison_rows(benchmarks):
            print_table(rows)
    print(f"saved {page}")


def _print_scores(tasks: "list[TaskSummary]") -> None:
    from dnabert2_jax.gue.summary import score_rows

    if scored := [task for task in tasks if task["scores"]]:
        print_table(score_rows(scored))
