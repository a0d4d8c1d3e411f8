"""Caveats on a benchmark's scores."""

from collections.abc import Iterable

from dnabert2_jax.gue.summary import Summary, TaskSummary


def benchmark_notes(summary: Summary) -> Iterable[str]:
    """Caps, changed settings, collapsed, missing and failed runs, scores that k-mers reach, and flaws of the tables."""
    asked, tasks = summary["asked"], summary["tasks"]
    if asked["max_train_rows"] is not None:
        capped = [task for task in tasks if task["data"]["train_rows"] < task["data"]["report"]["tables"]["train"]["rows"]]
        yield (
            f"At most {asked['max_train_rows']:,} training rows were used ({len(capped)} of {len(tasks)} data sets have "
            "more); the published scores come from all rows."
        )
    if asked["overrides"]:
        yield f"Settings of every run were changed by --set {', --set '.join(asked['overrides'])}."
    if collapsed := sum(task["collapsed_attempts"] for task in tasks):
        still = sum(task["collapsed_runs"] for task in tasks)
        attempts = sum(len(run["attempts"]) for task in tasks for run in task["runs"])
        probe = any(run["attempts"][-1]["run"]["training"]["method"] == "probe" for task in tasks for run in task["runs"])
        again = "each was repeated with another seed; " if asked["mode"] != "parity" and not probe else ""
        yield (
            f"{collapsed} of {attempts} runs collapsed (every test row predicted as one class): {again}"
            f"{still} of the scores below come from a collapsed run."
        )
    if behind := [
        f"{task['task']} ({100 * task['scores']['mcc']['mean']:.2f} versus {100 * task['data']['kmer']['mcc']:.2f})"
        for task in tasks
        if task["scores"] and task["scores"]["mcc"]["mean"] <= task["data"]["kmer"]["mcc"]
    ]:
        yield (
            f"No better than a logistic regression on counts of 1-5-mers, MCC x 100: {', '.join(behind)}: the model adds "
            "nothing there to what composition explains."
        )
    if pending := pending_runs(summary):
        yield f"Not finished: {len(pending)} data sets have pending runs; the last section lists them."
    if failed := {task["task"]: len(task["failures"]) for task in tasks if task["failures"]}:
        count = ", ".join(f"{name} ({runs})" for name, runs in failed.items())
        yield f"Runs that failed: {count}; the last section says why."
    if summary["problems"]:
        yield f"Data sets that could not be used: {', '.join(summary['problems'])}; the last section says why."
    yield from table_notes(tasks)


def table_notes(tasks: list[TaskSummary]) -> Iterable[str]:
    """Tables that differ from the published ones, and leaked rows."""
    if odd := [task["task"] for task in tasks if task["data"]["remarks"]]:
        yield f"Row counts differ from the published ones: {', '.join(odd)}; see Data. Their scores are not comparable."
    if leaked := {task["task"]: len(task["data"]["leaked_lines"]) for task in tasks if task["data"]["leaked_lines"]}:
        count = ", ".join(f"{name} {rows:,}" for name, rows in leaked.items())
        yield f"Test rows that are also in the train or dev table: {count}. The scores without them are given as well."


def pending_runs(summary: Summary) -> dict[str, str]:
    """What was requested and is still to do, by data set."""
    seeds = {task["task"]: ", ".join(map(str, task["pending"])) for task in summary["tasks"] if task["pending"]}
    return {name: f"seed {numbers}" for name, numbers in seeds.items()} | dict.fromkeys(summary["unprepared"], "all seeds")
