"""Several benchmarks side by side on one page: scratch, probe, LoRA and full, or one encoder and another."""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

from dnabert2_jax.errors import UserError
from dnabert2_jax.gue.catalog import METRIC_NAMES, REFERENCE, Task
from dnabert2_jax.gue.notes import table_notes
from dnabert2_jax.gue.plots import comparison_picture
from dnabert2_jax.gue.summary import NONE, Summary, TaskSummary, format_score, summarize, task_of
from dnabert2_jax.reports.page import Block, Heading, Page, Pictures, Section, Table, Text, write_page
from dnabert2_jax.reports.plots.style import drawn

Benchmarks = dict[str, Summary]
"""By the name of their directory."""


def write_comparison(benchmarks: Benchmarks, file: Path) -> Path:
    """Write a page with a column for each benchmark.

    Args:
        benchmarks: what :func:`read_benchmarks` read.
        file: the page.

    Returns:
        ``file``.

    Raises:
        UserError: the page cannot be written.
    """
    return write_page(file, _page(benchmarks))


def read_benchmarks(workdirs: Sequence[Path]) -> Benchmarks:
    """The results in the directories, named by as much of their paths as tells them apart.

    Raises:
        UserError: a directory holds no benchmark, or is given twice.
    """
    paths = [workdir.resolve() for workdir in workdirs]
    if twice := next((path for path in paths if paths.count(path) > 1), None):
        raise UserError(f"{twice} is given twice; name each --workdir once")
    parts = 1
    while len({path.parts[-parts:] for path in paths}) < len(paths):
        parts += 1
    return {"/".join(path.parts[-parts:]): summarize(path) for path in paths}


def comparison_rows(benchmarks: Benchmarks) -> list[dict[str, str]]:
    """The table of scores, cells by column; the last row is the mean over the data sets that all benchmarks have."""
    scored = _scored(benchmarks)
    rows = []
    for task, columns in scored:
        cells = (format_score(column["scores"][task.metric]) if column else NONE for column in columns)
        published = f"{task.published[REFERENCE]:.2f}" if task.published else NONE
        name = f"{task.name}, {METRIC_NAMES[task.metric]} x 100"
        rows.append(_row(benchmarks, name, cells, _kmer(task, columns), published))
    if common := [(task, columns) for task, columns in scored if all(columns)]:
        means = [
            fmean(100 * column["scores"][task.metric]["mean"] for task, columns in common if (column := columns[n]))
            for n in range(len(benchmarks))
        ]
        kmer = fmean(_kmer(task, columns) for task, columns in common)
        whole = all(task.published for task, _ in common)
        published = f"{fmean(task.published[REFERENCE] for task, _ in common):.2f}" if whole else NONE
        name = f"mean of the {len(common)} data sets that all have"
        rows.append(_row(benchmarks, name, (f"{mean:.2f}" for mean in means), kmer, published))
    return rows


def _row(benchmarks: Benchmarks, name: str, cells: Iterable[str], kmer: float, published: str) -> dict[str, str]:
    return {
        "data set, metric": name,
        **dict(zip(benchmarks, cells, strict=True)),
        "k-mer regression": f"{kmer:.2f}",
        f"published {REFERENCE}": published,
    }


def _scored(benchmarks: Benchmarks) -> list[tuple[Task, list[TaskSummary | None]]]:
    """Every data set that some benchmark has scored, and its results in each."""
    by_name = [{task["task"]: task for task in summary["tasks"] if task["scores"]} for summary in benchmarks.values()]
    names = dict.fromkeys(name for tasks in by_name for name in tasks)
    rows = []
    for name in names:
        columns = [tasks.get(name) for tasks in by_name]
        rows.append((next(task_of(column) for column in columns if column), columns))
    return rows


def _kmer(task: Task, columns: list[TaskSummary | None]) -> float:
    return 100 * next(column["data"]["kmer"][task.metric] for column in columns if column)


def _page(benchmarks: Benchmarks) -> Page:
    scored = _scored(benchmarks)
    sections = []
    if scored:
        draw = partial(comparison_picture, list(benchmarks), scored)
        caption = "Scores on the test table by data set, one dot per seed, in the published metric."
        blocks: list[Block] = [
            Pictures([drawn(caption, draw)]),
            Heading("Mean over seeds"),
            Text("Mean ± standard deviation over seeds, on the whole test table."),
            Table.from_records(comparison_rows(benchmarks)),
        ]
        sections.append(Section("scores", "Scores", blocks))
    sections.append(Section("runs", "Runs", [_runs(benchmarks)]))
    return Page("GUE benchmarks side by side", ", ".join(benchmarks), sections, [], _notes(benchmarks, scored))


def _notes(benchmarks: Benchmarks, scored: list[tuple[Task, list[TaskSummary | None]]]) -> list[str]:
    """Why columns may not be comparable."""
    notes = []
    caps = {summary["asked"]["max_train_rows"] for summary in benchmarks.values()}
    if len(caps) == 1 and None not in caps:
        notes.append(f"At most {caps.pop():,} training rows were used; the published scores come from all rows.")
    elif len(caps) > 1:
        notes.append(f"The k-mer regression is that of {next(iter(benchmarks))}, fitted on as many rows as its runs.")
    for key, what in (("mode", "modes"), ("max_train_rows", "caps on the training rows")):
        values = {name: summary["asked"][key] or "none" for name, summary in benchmarks.items()}
        if len(set(values.values())) > 1:
            notes.append(f"Different {what}: " + ", ".join(f"{name} {value}" for name, value in values.items()) + ".")
    changed = [
        task.name
        for task, columns in scored
        if len({tuple(sorted(column["data"]["sha256"].items())) for column in columns if column}) > 1
    ]
    if changed:
        notes.append(f"Different tables under one name, so that scores are not comparable: {', '.join(changed)}.")
    by_benchmark = zip(*(columns for _, columns in scored), strict=True)
    seeds = [sorted({len(task["runs"]) for task in tasks if task}) for tasks in by_benchmark]
    if len({count for counts in seeds for count in counts}) > 1:
        ranges = (
            f"{name} {counts[0]}" + (f" to {counts[-1]}" if len(counts) > 1 else "")
            for name, counts in zip(benchmarks, seeds, strict=True)
            if counts
        )
        notes.append(f"Different numbers of seeds: {', '.join(ranges)}.")
    tables = {task["task"]: task for summary in benchmarks.values() for task in summary["tasks"] if task["scores"]}
    notes.extend(table_notes(list(tables.values())))
    for name, summary in benchmarks.items():
        if collapsed := [task["task"] for task in summary["tasks"] if task["collapsed_runs"]]:
            notes.append(f"{name}: the scores of {', '.join(collapsed)} include collapsed runs.")
    if missing := [task.name for task, columns in scored if not all(columns)]:
        notes.append(f"Not in every column: {', '.join(missing)}.")
    for name, summary in benchmarks.items():
        if failed := [*summary["problems"], *(task["task"] for task in summary["tasks"] if task["failures"])]:
            notes.append(f"{name}: {', '.join(failed)} failed or could not be used.")
    return notes


def _runs(benchmarks: Benchmarks) -> Table:
    """What each column is, and what it cost: one row per fact."""
    columns = [_facts(summary) for summary in benchmarks.values()]
    rows = [(fact, *(column[fact] for column in columns)) for fact in columns[0]]
    return Table(("", *benchmarks), rows, text_columns=1 + len(columns))


def _facts(summary: Summary) -> dict[str, str]:
    asked = summary["asked"]
    runs = [run for task in summary["tasks"] for run in task["runs"]]
    attempts = [attempt for run in runs for attempt in run["attempts"]]
    firsts = [attempt["first_step_seconds"] for attempt in attempts if attempt.get("first_step_seconds") is not None]
    return {
        "starts from": asked["model"],
        "mode": asked["mode"],
        "method": ", ".join(sorted({attempt["run"]["training"]["method"] for attempt in attempts})) or NONE,
        "--set": " ".join(asked["overrides"]) or NONE,
        "training rows, at most": NONE if asked["max_train_rows"] is None else f"{asked['max_train_rows']:,}",
        "trainable parameters": ", ".join(f"{n:,}" for n in sorted({a["trained_parameters"] for a in attempts})) or NONE,
        "runs": f"{len(runs):,}",
        "collapsed": f"{sum(attempt['collapsed'] for attempt in attempts):,} of {len(attempts):,}",
        "seconds per run, mean": f"{fmean(run['seconds'] for run in runs):,.1f}" if runs else NONE,
        "seconds to the end of the first step, mean": f"{fmean(firsts):,.1f}" if firsts else NONE,
    }
