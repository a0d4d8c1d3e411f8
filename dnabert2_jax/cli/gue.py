"""``dnabert2 gue run`` and ``gue report``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from dnabert2_jax.cli.app import group
from dnabert2_jax.cli.options import Set, local_path, path
from dnabert2_jax.cli.output import print_table
from dnabert2_jax.errors import UserError
from dnabert2_jax.gue.catalog import Mode
from dnabert2_jax.progress import remark

if TYPE_CHECKING:
    from dnabert2_jax.gue.summary import Summary

gue = group("gue", "Run the GUE benchmark, and report it.")


@gue.command("run", epilog="Example: dnabert2 gue run --data GUE --model runs/released --workdir runs/gue --tasks 'tf/*'")
def run(
    data: Annotated[
        Path, Option(parser=local_path, help="Directory at or above the data sets, as in GUE/EMP/H3/train.csv.")
    ],
    workdir: Annotated[Path, Option(parser=local_path, help="Directory of the benchmark; reuse it to resume.")],
    model: Annotated[Path | None, Option(parser=path, help="Model directory to start from.")] = None,
    size: Annotated[str | None, Option(help="Named size, such as 3m, with random weights.")] = None,
    tokenizer: Annotated[Path | None, Option(parser=path, help="Tokenizer directory for --size.")] = None,
    tasks: Annotated[
        list[str] | None, Option(metavar="NAMES", help="Data sets or globs, as in 'prom/*,tf/0'.", show_default="all")
    ] = None,
    seeds: Annotated[int, Option(min=1, max=1000, help="Runs per data set.")] = 3,
    mode: Annotated[Mode, Option(help="As the original, our settings, or those for small encoders.")] = "recommended",
    max_train_rows: Annotated[int | None, Option(min=2, help="Maximum training rows.", show_default="all")] = None,
    keep_models: Annotated[
        bool, Option("--keep-models/--no-keep-models", help="Keep the models (470 MB each for the 117M).")
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
    workdir: Annotated[
        list[Path],
        Option(metavar="DIR", parser=local_path, help="Directory of a benchmark; several are shown side by side."),
    ],
    out: Annotated[Path | None, Option(parser=local_path, help="Page for several benchmarks: an .html file.")] = None,
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
        _print_scores(summarize(workdir[0]))
    else:
        if out is None:
            raise UserError("several benchmarks need --out, the .html file to write")
        check_output(out, (".html",))
        benchmarks = read_benchmarks(workdir)
        page = write_comparison(benchmarks, out)
        if rows := comparison_rows(benchmarks):
            print_table(rows)
    print(f"saved {page}")


def _print_scores(summary: "Summary") -> None:
    """The table of scores, and what the page warns of."""
    from dnabert2_jax.gue.notes import benchmark_notes
    from dnabert2_jax.gue.summary import score_rows

    if scored := [task for task in summary["tasks"] if task["scores"]]:
        print_table(score_rows(scored))
    for note in benchmark_notes(summary):
        remark(f"warning: {note}")
