"""The results in a benchmark's directory so far: one entry per data set, mean and deviation over seeds."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from dnabert2_jax.errors import UserError
from dnabert2_jax.gue.catalog import METRIC_NAMES, REFERENCE, Task, benchmark_order, catalog
from dnabert2_jax.gue.tables import TaskData
from dnabert2_jax.training.workdir import RUN_FILE

FOUND_FILE = "found.json"
"""What the calls so far found: the requested seeds by data set, and why a directory that looks like one is not used."""

NONE = "—"
"""What a table shows where there is nothing to show."""


class Score(TypedDict):
    """One metric over the seeds.

    Attributes:
        values: by seed, in their order.
        mean: of them.
        deviation: sample standard deviation (n - 1); None for a single seed.
    """

    values: list[float]
    mean: float
    deviation: float | None


class TaskSummary(TypedDict):
    """A data set's results.

    Attributes:
        task: its name.
        data: what is known of its tables.
        runs: the records of finished runs, by seed.
        scores: by metric, on the whole test table; empty if no run is finished.
        clean: the same without leaked rows; empty if no row is left.
        collapsed_runs: finished runs whose last attempt collapsed.
        collapsed_attempts: all attempts that collapsed.
        failures: message by seed.
        pending: requested seeds that are neither done nor failed.
    """

    task: str
    data: TaskData
    runs: list[dict[str, Any]]
    scores: dict[str, Score]
    clean: dict[str, Score]
    collapsed_runs: int
    collapsed_attempts: int
    failures: dict[str, str]
    pending: list[int]


class Summary(TypedDict):
    """A benchmark's results.

    Attributes:
        asked: mode, model and limits.
        tasks: in the benchmark's order, others last.
        unprepared: data sets that were found, but whose tables have not been read yet.
        missing: data sets of GUE that are in none of the others.
        problems: data sets that could not be used, and why.
    """

    asked: dict[str, Any]
    tasks: list[TaskSummary]
    unprepared: list[str]
    missing: list[str]
    problems: dict[str, str]


def summarize(workdir: Path) -> Summary:
    """Read every record of a benchmark's directory.

    Raises:
        UserError: the directory holds no benchmark, or a record is damaged.
    """
    asked = read_record(workdir / RUN_FILE) if (workdir / RUN_FILE).is_file() else {}
    if asked.get("command") != "gue run":
        raise UserError(f"{workdir} holds no benchmark (no {RUN_FILE} of `dnabert2 gue run`); name the --workdir of one")
    folder = workdir / "tasks"
    found = _found(workdir)
    problems = dict(found["problems"])
    for record in sorted(folder.rglob("failed.json")):
        problems[record.parent.relative_to(folder).as_posix()] = read_record(record)["error"]
    names = [record.parent.relative_to(folder).as_posix() for record in sorted(folder.rglob("data.json"))]
    names.sort(key=benchmark_order)
    seeds: dict[str, int] = found["seeds"]
    tasks = [_summary(name, folder / name, seeds.get(name, 0)) for name in names]
    unprepared = [name for name in seeds if name not in names and name not in problems]
    known = {*names, *unprepared, *problems}
    missing = [task.name for task in catalog().values() if task.suite == "GUE" and task.name not in known]
    return Summary(asked=asked, tasks=tasks, unprepared=unprepared, missing=missing, problems=problems)


def remember_found(workdir: Path, found: Iterable[str], problems: dict[str, str], seeds: int) -> dict[str, Any]:
    """The new content of :data:`FOUND_FILE` after a call for some data sets; what earlier calls found stays."""
    before = _found(workdir)
    asked = {**before["seeds"], **{name: max(seeds, before["seeds"].get(name, 0)) for name in found}}
    still = {name: why for name, why in before["problems"].items() if name not in asked}
    return {"seeds": asked, "problems": still | problems}


def _found(workdir: Path) -> dict[str, Any]:
    file = workdir / FOUND_FILE
    return read_record(file) if file.exists() else {"seeds": {}, "problems": {}}


def task_of(summary: TaskSummary) -> Task:
    """The catalog's entry of a data set, or one of its own."""
    return catalog().get(summary["task"], Task(summary["task"]))


def mean_over(tasks: Iterable[TaskSummary], model: str | None = None) -> float:
    """Mean of the published metric over data sets, x 100: of the runs, or of a model with published scores."""
    scores = [
        task_of(task).published[model] if model else 100 * task["scores"][task_of(task).metric]["mean"] for task in tasks
    ]
    return float(np.mean(scores))


def score_rows(tasks: Sequence[TaskSummary]) -> list[dict[str, str]]:
    """The table of scores, cells by column: mean and deviation over seeds, the baseline, and the published scores."""
    rows = []
    for summary in tasks:
        task, kmer = task_of(summary), summary["data"]["kmer"]
        attempts = sum(len(run["attempts"]) for run in summary["runs"])
        rows.append(
            {
                "data set": summary["task"],
                "train rows": f"{summary['data']['train_rows']:,}",
                "seeds": str(len(summary["runs"])),
                **{f"{name} x 100": format_score(summary["scores"][metric]) for metric, name in METRIC_NAMES.items()},
                **{f"k-mer {name} x 100": f"{100 * kmer[key]:.2f}" for key, name in METRIC_NAMES.items()},  # type: ignore[literal-required]
                "published metric": f"{METRIC_NAMES[task.metric]} x 100" if task.published else NONE,
                f"published {REFERENCE}": f"{task.published[REFERENCE]:.2f}" if task.published else NONE,
                "best published": f"{max(task.published.values()):.2f}" if task.published else NONE,
                "collapsed": f"{summary['collapsed_attempts']} of {attempts}",
            }
        )
    return rows


def format_score(score: Score) -> str:
    """Mean x 100, and the deviation if there is one."""
    deviation = "" if score["deviation"] is None else f" ± {100 * score['deviation']:.2f}"
    return f"{100 * score['mean']:.2f}{deviation}"


def _summary(name: str, folder: Path, seeds: int) -> TaskSummary:
    records = sorted((read_record(file) for file in folder.glob("seed_*.json")), key=lambda record: record["seed"])
    runs = [record for record in records if record["status"] == "done"]
    return TaskSummary(
        task=name,
        data=read_record(folder / "data.json"),
        runs=runs,
        scores=_scores([run["test"] for run in runs]),
        clean=_scores([run["clean"] for run in runs if run["clean"] is not None]),
        collapsed_runs=sum(run["collapsed"] for run in runs),
        collapsed_attempts=sum(run["collapsed_attempts"] for run in runs),
        failures={str(record["seed"]): record["error"] for record in records if record["status"] == "failed"},
        pending=sorted(set(range(seeds)) - {record["seed"] for record in records}),
    )


def _scores(tables: Sequence[dict[str, Any]]) -> dict[str, Score]:
    if not tables:
        return {}
    values = {metric: [float(scores[metric]) for scores in tables] for metric in METRIC_NAMES}
    return {
        metric: Score(
            values=of_seed,
            mean=float(np.mean(of_seed)),
            deviation=float(np.std(of_seed, ddof=1)) if len(of_seed) > 1 else None,
        )
        for metric, of_seed in values.items()
    }


def read_record(file: Path) -> Any:
    """A JSON file of a benchmark's directory.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error}); delete it and rerun the command to recreate it") from error
