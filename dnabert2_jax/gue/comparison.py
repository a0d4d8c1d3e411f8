"""Several benchmarks side by side on one page: scratch, probe, LoRA and full, or one encoder and another."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from matplotlib.figure import Figure

from dnabert2_jax.errors import UserError
from dnabert2_jax.gue.catalogue import METRIC_NAMES, REFERENCE, Task
from dnabert2_jax.gue.report import notes_on_tables
from dnabert2_jax.gue.summary import NONE, Summary, TaskSummary, format_score, summarize, task_of
from dnabert2_jax.reports import plots
from dnabert2_jax.reports.page import Section, grid, page, picture, write_page
from dnabert2_jax.reports.plots import LIGHT, Theme, legend_below, new_figure

Benchmarks = dict[str, Summary]
"""By the name of their directory."""


def write_comparison(workdirs: Sequence[Path], file: Path) -> Path:
    """Write a page with a column for each benchmark.

    Args:
        workdirs: the benchmarks' directories; columns are named by them.
        file: the page.

    Returns:
        ``file``.

    Raises:
        UserError: a directory holds no benchmark, is there twice, or the page cannot be written.
    """
    benchmarks = read_benchmarks(workdirs)
    document = _page(benchmarks)
    return write_page(file, document)


def read_benchmarks(workdirs: Sequence[Path]) -> Benchmarks:
    """What the directories say, by as much of their path as tells them apart.

    Raises:
        UserError: a directory holds no benchmark, or is there twice.
    """
    paths = [workdir.resolve() for workdir in workdirs]
    if twice := next((path for path in paths if paths.count(path) > 1), None):
        raise UserError(f"{twice} is given twice; name each --workdir once")
    parts = 1
    while len({path.parts[-parts:] for path in paths}) < len(paths):
        parts += 1
    return {"/".join(path.parts[-parts:]): summarize(path) for path in paths}


def comparison_rows(benchmarks: Benchmarks) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows of the table of scores, as text; the last row is the mean over what all benchmarks have."""
    header = ("data set, metric", *benchmarks, "k-mer regression", f"published {REFERENCE}")
    scored = _scored(benchmarks)
    rows = []
    for task, columns in scored:
        cells = [format_score(column["scores"][task.metric]) if column else NONE for column in columns]
        published = f"{task.published[REFERENCE]:.2f}" if task.published else NONE
        rows.append((f"{task.name}, {METRIC_NAMES[task.metric]} x 100", *cells, f"{_kmer(task, columns):.2f}", published))
    if common := [(task, columns) for task, columns in scored if all(columns)]:
        means = [
            fmean(100 * column["scores"][task.metric]["mean"] for task, columns in common if (column := columns[n]))
            for n in range(len(benchmarks))
        ]
        kmer = fmean(_kmer(task, columns) for task, columns in common)
        whole = all(task.published for task, _ in common)
        published = f"{fmean(task.published[REFERENCE] for task, _ in common):.2f}" if whole else NONE
        what = f"mean of the {len(common)} data sets that all have"
        rows.append((what, *(f"{mean:.2f}" for mean in means), f"{kmer:.2f}", published))
    return header, rows


def _scored(benchmarks: Benchmarks) -> list[tuple[Task, list[TaskSummary | None]]]:
    """Every data set that some benchmark has scored, and what each has of it."""
    by_name = [{task["task"]: task for task in summary["tasks"] if task["scores"]} for summary in benchmarks.values()]
    names = dict.fromkeys(name for tasks in by_name for name in tasks)
    rows = []
    for name in names:
        columns = [tasks.get(name) for tasks in by_name]
        rows.append((next(task_of(column) for column in columns if column), columns))
    return rows


def _kmer(task: Task, columns: list[TaskSummary | None]) -> float:
    return 100 * next(column["data"]["kmer"][task.metric] for column in columns if column)


def _page(benchmarks: Benchmarks) -> str:
    scored = _scored(benchmarks)
    sections = []
    if scored:
        light, dark = (plots.png(comparison_picture(benchmarks, theme)) for theme in (plots.LIGHT, plots.DARK))
        drawn = picture(light, dark, "Scores on the test table by data set, a dot a seed, in the published metric.")
        text = "<h3>Mean over seeds</h3><p>Mean ± standard deviation over seeds, on the whole test table.</p>"
        body = f'<div class="pictures">{drawn}</div>{text}{grid(*comparison_rows(benchmarks))}'
        sections.append(Section("scores", "Scores", body))
    sections.append(Section("runs", "Runs", _runs(benchmarks)))
    title = "GUE benchmarks side by side"
    return page(title, ", ".join(benchmarks), sections, [], _notes(benchmarks, scored))


def _notes(benchmarks: Benchmarks, scored: list[tuple[Task, list[TaskSummary | None]]]) -> list[str]:
    """Why columns may not be comparable."""
    notes = []
    caps = {summary["asked"]["max_train_rows"] for summary in benchmarks.values()}
    if len(caps) == 1 and None not in caps:
        notes.append(f"At most {caps.pop():,} training rows were used; the published scores come from all rows.")
    elif len(caps) > 1:
        notes.append(f"The k-mer regression is that of {next(iter(benchmarks))}; it learned from as many rows as that.")
    for key, what in (("mode", "modes"), ("max_train_rows", "caps of the training rows")):
        values = {name: summary["asked"][key] or "none" for name, summary in benchmarks.items()}
        if len(set(values.values())) > 1:
            notes.append(f"Different {what}: " + ", ".join(f"{name} {value}" for name, value in values.items()) + ".")
    changed = [
        task.name
        for task, columns in scored
        if len({tuple(sorted(column["data"]["sha256"].items())) for column in columns if column}) > 1
    ]
    if changed:
        notes.append(f"Different tables under one name, so that scores are no comparison: {', '.join(changed)}.")
    seeds = {
        f"{task.name} {name} {len(column['runs'])}"
        for task, columns in scored
        if len({len(column["runs"]) for column in columns if column}) > 1
        for name, column in zip(benchmarks, columns, strict=True)
        if column
    }
    if seeds:
        notes.append(f"Different numbers of seeds: {', '.join(sorted(seeds))}.")
    tables = {task["task"]: task for summary in benchmarks.values() for task in summary["tasks"] if task["scores"]}
    notes.extend(notes_on_tables(list(tables.values())))
    for name, summary in benchmarks.items():
        if collapsed := [task["task"] for task in summary["tasks"] if task["collapsed_runs"]]:
            notes.append(f"{name}: among the scores of {', '.join(collapsed)} are some of collapsed runs.")
    if missing := [task.name for task, columns in scored if not all(columns)]:
        notes.append(f"Not in every column: {', '.join(missing)}.")
    for name, summary in benchmarks.items():
        if failed := [*summary["problems"], *(task["task"] for task in summary["tasks"] if task["failures"])]:
            notes.append(f"{name}: failed or not usable were {', '.join(failed)}.")
    return notes


def _runs(benchmarks: Benchmarks) -> str:
    """What each column is, and what it cost: a row a fact."""
    columns = [_facts(summary) for summary in benchmarks.values()]
    rows = [(fact, *(column[fact] for column in columns)) for fact in columns[0]]
    return grid(("", *benchmarks), rows, text_columns=1 + len(columns))


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
        "trained parameters": ", ".join(f"{n:,}" for n in sorted({attempt["trained_parameters"] for attempt in attempts}))
        or NONE,
        "runs": f"{len(runs):,}",
        "collapsed": f"{sum(attempt['collapsed'] for attempt in attempts):,} of {len(attempts):,}",
        "seconds of a run, mean": f"{fmean(run['seconds'] for run in runs):,.1f}" if runs else NONE,
        "seconds to the end of the first step, mean": f"{fmean(firsts):,.1f}" if firsts else NONE,
    }


def comparison_picture(benchmarks: Benchmarks, theme: Theme = LIGHT) -> Figure:
    """One line a data set, on it a row of dots for each benchmark.

    Args:
        benchmarks: some of whose data sets are scored.
        theme: colours.
    """
    scored = _scored(benchmarks)
    height = 0.16 + 0.12 * len(benchmarks)
    figure, (axis,) = new_figure(theme, 1.6 + height * len(scored), heights=(1,))
    step = 0.7 / len(benchmarks)
    for row, (task, columns) in enumerate(scored):
        axis.plot([_kmer(task, columns)] * 2, [row - 0.4, row + 0.4], color=theme.muted, lw=1.6)
        for n, column in enumerate(columns):
            if column:
                values = [100 * value for value in column["scores"][task.metric]["values"]]
                at = row + (n - (len(columns) - 1) / 2) * step
                colour, marker = theme.colours[n % len(theme.colours)], "osD^"[n // len(theme.colours) % 4]
                axis.plot(values, [at] * len(values), marker, color=colour, ms=5, alpha=0.75, mew=0)
    for n, name in enumerate(benchmarks):
        marker = "osD^"[n // len(theme.colours) % 4]
        axis.plot([], [], marker, color=theme.colours[n % len(theme.colours)], ms=5, mew=0, label=name)
    axis.plot([], [], color=theme.muted, lw=1.6, label="k-mer regression")
    axis.set_yticks(range(len(scored)), [f"{task.name} ({METRIC_NAMES[task.metric]})" for task, _ in scored], fontsize=8)
    axis.set_ylim(len(scored) - 0.4, -0.6)
    axis.grid(False, axis="y")
    axis.set_xlabel("score x 100")
    legend_below(figure, theme, columns=2)
    return figure
