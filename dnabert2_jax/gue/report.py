"""The benchmark's page, made from its directory, so that it can be made again at any time."""

from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path

from dnabert2_jax.errors import UserError
from dnabert2_jax.gue.catalogue import METRIC_NAMES, REFERENCE, published_models
from dnabert2_jax.gue.pictures import distance_picture, score_picture
from dnabert2_jax.gue.summary import (
    NONE,
    Summary,
    TaskSummary,
    format_score,
    mean_over,
    score_rows,
    summarize,
    task_of,
)
from dnabert2_jax.reports.page import Section, grid, page, write_page
from dnabert2_jax.reports.sections import draw_pictures
from dnabert2_jax.storage.atomic import write_json

REPORT_FILE = "report.html"
SUMMARY_FILE = "summary.json"


def write_gue_report(workdir: Path) -> Path:
    """Write ``report.html``, ``pictures/*.png`` and ``summary.json`` from the records of a benchmark, finished or not.

    Returns:
        The page.

    Raises:
        UserError: the directory holds no benchmark, a record is damaged, or it cannot be written to.
    """
    summary = summarize(workdir)
    document = _page(workdir, summary)
    file = workdir / SUMMARY_FILE
    try:
        write_json(file, summary)
    except OSError as error:
        raise UserError(f"{file} cannot be written ({error.strerror}); make room, or make {workdir} writable") from error
    return write_page(workdir / REPORT_FILE, document)


def _page(workdir: Path, summary: Summary) -> str:
    scored = [task for task in summary["tasks"] if task["scores"]]
    published = [task for task in scored if task_of(task).published]
    runs = sum(len(task["runs"]) for task in scored)
    figures = [(str(len(scored)), "data sets scored"), (str(runs), "runs finished")]
    if published:
        of = f"{len(published)} data sets" if len(published) > 1 else "1 data set"
        figures += [
            (f"{mean_over(published):.2f}", f"mean of the published metric x 100, {of} of GUE"),
            (f"{mean_over(published, REFERENCE):.2f}", f"published {REFERENCE}, same data sets"),
        ]
    sections = []
    if scored:
        sections.append(_scores(workdir, scored))
    if published:
        sections.append(_published(published))
    if scored:
        sections.append(_clean(scored))
    if summary["tasks"]:
        sections.append(_data(summary["tasks"]))
    if scored:
        sections += [_settings(scored, summary["asked"]["overrides"]), _runs(scored)]
    sections.append(_absent(summary))
    asked = summary["asked"]
    subtitle = f"mode {asked['mode']}, model {asked['model']}"
    return page("GUE benchmark", subtitle, sections, figures, list(_notes(summary)))


def _notes(summary: Summary) -> Iterable[str]:
    """What a reader must know before comparing."""
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
        again = "each was tried again with another seed; " if asked["mode"] == "recommended" and not probe else ""
        yield (
            f"{collapsed} of {attempts} runs collapsed (every test row predicted as one class): {again}"
            f"{still} of the scores below come from a collapsed run."
        )
    if pending := _pending(summary):
        yield f"Not finished: {len(pending)} data sets have runs to come; the last section names them."
    if failed := {task["task"]: len(task["failures"]) for task in tasks if task["failures"]}:
        count = ", ".join(f"{name} ({runs})" for name, runs in failed.items())
        yield f"Runs that failed: {count}; the last section says why."
    if summary["problems"]:
        yield f"Data sets that could not be used: {', '.join(summary['problems'])}; the last section says why."
    yield from notes_on_tables(tasks)


def notes_on_tables(tasks: list[TaskSummary]) -> Iterable[str]:
    """What of the tables a reader must know before comparing scores."""
    if odd := [task["task"] for task in tasks if task["data"]["remarks"]]:
        yield f"Other rows than published: {', '.join(odd)}; see Data. Scores of other rows are no comparison."
    if leaked := {task["task"]: len(task["data"]["leaked_lines"]) for task in tasks if task["data"]["leaked_lines"]}:
        count = ", ".join(f"{name} {rows:,}" for name, rows in leaked.items())
        yield f"Test rows that are in the train or dev table, too: {count}. The scores are given without them as well."


def _scores(workdir: Path, tasks: list[TaskSummary]) -> Section:
    header, rows = score_rows(tasks)
    drawings = [
        (
            "scores",
            "Scores on the test table by data set, in the published metric.",
            lambda theme: score_picture(tasks, theme),
        ),
        (
            "distances",
            "How far the mean over seeds is above what it has to be compared with; left of the line is below.",
            lambda theme: distance_picture(tasks, theme),
        ),
    ]
    text = (
        "<h3>Mean over seeds</h3><p>Mean ± standard deviation over seeds, on the whole test table. The k-mer regression "
        "learned from the same rows.</p>"
    )
    return Section("scores", "Scores", draw_pictures(workdir, drawings) + text + grid(header, rows))


def _published(tasks: list[TaskSummary]) -> Section:
    models = published_models()
    rows = []
    for summary in tasks:
        task = task_of(summary)
        ours = f"{100 * summary['scores'][task.metric]['mean']:.2f}"
        name = f"{task.name}, {METRIC_NAMES[task.metric]} x 100"
        rows.append((name, ours, *(f"{task.published[model]:.2f}" for model in models)))
    means = [f"{mean_over(tasks, model):.2f}" for model in (None, *models)]
    rows.append((f"mean of the {len(tasks)} data sets above", *means))
    text = (
        "<p>Published: Zhou et al. 2024, table 6. virus/covid is macro F1, everything else MCC. Their seeds, row order and "
        "selection of a checkpoint are theirs; a difference of less than the deviation over seeds says nothing.</p>"
    )
    return Section(
        "published", "Beside the published scores", text + grid(("data set, metric", "this model", *models), rows)
    )


def _clean(tasks: list[TaskSummary]) -> Section:
    header = (
        "data set",
        "test rows",
        "of them leaked",
        "MCC x 100, all",
        "MCC x 100, without",
        "macro F1 x 100, all",
        "macro F1 x 100, without",
        "k-mer MCC x 100, all",
        "k-mer MCC x 100, without",
    )
    rows = []
    for summary in tasks:
        data = summary["data"]
        pairs = [
            format_score(scores[metric]) if scores else NONE
            for metric in METRIC_NAMES
            for scores in (summary["scores"], summary["clean"])
        ]
        kmers = [f"{100 * kmer['mcc']:.2f}" if kmer else NONE for kmer in (data["kmer"], data["kmer_clean"])]
        test_rows = data["report"]["tables"]["test"]["rows"]
        rows.append((summary["task"], f"{test_rows:,}", f"{len(data['leaked_lines']):,}", *pairs, *kmers))
    text = "<p>A test row is leaked where the train or the dev table has its sequence, whatever the label.</p>"
    return Section("clean", "Without leaked rows", text + grid(header, rows))


def _data(tasks: list[TaskSummary]) -> Section:
    header = (
        "data set",
        "train / dev / test rows",
        "classes",
        "bases of a row",
        "repeats in train / dev / test",
        "sequences with several labels",
        "test rows in train",
        "of them other label",
        "test rows in dev",
        "of them other label",
        "published limit, tokens",
        "rows it cuts",
        "letters",
    )
    rows = []
    for summary in tasks:
        report = summary["data"]["report"]
        tables = report["tables"]
        shared = {(pair["earlier"], pair["later"]): pair for pair in report["shared"]}
        limit = task_of(summary).settings.max_tokens
        total = sum(table["rows"] for table in tables.values())
        cut = sum(table["truncated_rows"] for table in tables.values())
        lengths = (min(table["shortest"] for table in tables.values()), max(table["longest"] for table in tables.values()))
        rows.append(
            (
                summary["task"],
                " / ".join(f"{table['rows']:,}" for table in tables.values()),
                str(len(tables["train"]["label_counts"])),
                f"{lengths[0]:,}" if lengths[0] == lengths[1] else f"{lengths[0]:,}-{lengths[1]:,}",
                " / ".join(f"{table['duplicate_rows']:,}" for table in tables.values()),
                " / ".join(f"{table['contradictory_sequences']:,}" for table in tables.values()),
                *(
                    f"{shared[earlier, 'test'][key]:,}"
                    for earlier in ("train", "dev")
                    for key in ("rows", "contradictory_rows")
                ),
                f"{limit:,}" if limit else NONE,
                f"{cut:,} ({cut / total:.1%})" if limit else NONE,
                _letters(summary),
            )
        )
    remarks = [(task["task"], "; ".join(task["data"]["remarks"])) for task in tasks if task["data"]["remarks"]]
    text = (
        "<p>Whole tables, before any cap. A repeat has the sequence of an earlier row of its table. The published limit is "
        "the original's max length; mode recommended cuts nothing.</p>"
    )
    odd = "<h3>Other rows than published</h3>" + grid(("data set", "rows"), remarks, text_columns=2) if remarks else ""
    return Section("data", "Data", text + grid(header, rows) + odd)


_OF_STEPS = slice(4, None)
"""The columns of the settings that concern a run of optimizer steps."""


def _settings(tasks: list[TaskSummary], overrides: list[str]) -> Section:
    columns: dict[str, Callable[[dict[str, dict[str, object]]], object]] = {
        "method": lambda run: run["training"]["method"],
        "max tokens": lambda run: run["data"]["max_tokens"],
        "keeps the best dev": lambda run: run["training"]["selection"],
        "token types": lambda run: "0 and 1" if run["data"]["token_types"] else "0",
        "epochs": lambda run: NONE if run["training"].get("max_steps") else run["training"]["epochs"],
        "rows of a step": lambda run: run["training"]["batch_size"],
        "learning rate": lambda run: run["optimizer"]["learning_rate"],
        "warm-up steps": lambda run: run["optimizer"]["warmup_steps"],
        "weight decay": lambda run: run["optimizer"]["weight_decay"],
        "evaluations an epoch": lambda run: run["training"]["evaluations_per_epoch"],
    }
    rows = []
    for summary in tasks:
        task, run = task_of(summary), summary["runs"][0]["attempts"][-1]["run"]
        source = "published" if task.has_published_settings else "defaults"
        if overrides:
            source += ", changed by --set"
        whole = run["training"]["epochs"] * -(-summary["data"]["train_rows"] // run["training"]["batch_size"])
        steps = run["training"].get("max_steps") or whole
        cells = [*(f"{read(run)}" for read in columns.values()), f"{steps:,}"]
        if run["training"]["method"] == "probe":  # fitted at once, by none of these
            cells[_OF_STEPS] = [NONE] * len(cells[_OF_STEPS])
        rows.append((summary["task"], source, *cells))
    text = "<p>The original's settings where they are published; where its epochs are no number, its steps are.</p>"
    header = ("data set", "settings", *columns, "steps")
    return Section("settings", "Settings", text + grid(header, rows, text_columns=3))


def _runs(tasks: list[TaskSummary]) -> Section:
    header = (
        "data set",
        "seed",
        "test MCC x 100",
        "test macro F1 x 100",
        "dev MCC x 100",
        "best step",
        "seconds",
        "to the end of the first step",
        "collapsed",
    )
    rows = [
        (
            summary["task"],
            str(attempt["seed"]),
            f"{100 * attempt['test']['mcc']:.2f}",
            f"{100 * attempt['test']['macro_f1']:.2f}",
            f"{100 * attempt['dev']['mcc']:.2f}",
            f"{attempt['best_step']:,}",
            f"{attempt['seconds']:,.0f}",
            NONE if attempt.get("first_step_seconds") is None else f"{attempt['first_step_seconds']:,.1f}",
            "yes" if attempt["collapsed"] else "no",
        )
        for summary in tasks
        for run in summary["runs"]
        for attempt in run["attempts"]
    ]
    return Section("runs", "Runs", grid(header, rows))


def _absent(summary: Summary) -> Section:
    rows = [(name, "could not be used", problem) for name, problem in summary["problems"].items()]
    for task in summary["tasks"]:
        rows += [(task["task"], f"seed {seed} failed", error) for seed, error in task["failures"].items()]
    body = grid(("data set", "", "why"), rows, text_columns=3) if rows else ""
    if pending := _pending(summary):
        rest = ", ".join(f"{name} ({what})" for name, what in pending.items())
        body += f"<h3>Not run yet</h3><p>{escape(rest)}. The same command goes on.</p>"
    body = body or "<p>Everything that was found was run.</p>"
    if summary["missing"]:
        body += f"<h3>Of GUE, without a result</h3><p>{escape(', '.join(summary['missing']))}</p>"
    return Section("absent", "Not run", body)


def _pending(summary: Summary) -> dict[str, str]:
    """What was asked for and is still to do, by data set."""
    seeds = {task["task"]: ", ".join(map(str, task["pending"])) for task in summary["tasks"] if task["pending"]}
    return {name: f"seed {numbers}" for name, numbers in seeds.items()} | dict.fromkeys(summary["unprepared"], "all seeds")


def _letters(summary: TaskSummary) -> str:
    tables = summary["data"]["report"]["tables"].values()
    lower = sum(table["lower_case"] for table in tables)
    ambiguous: dict[str, int] = {}
    for table in tables:
        for letter, count in table["ambiguous"].items():
            ambiguous[letter] = ambiguous.get(letter, 0) + count
    found = [f"{lower:,} lower case"] if lower else []
    found += [f"{letter} {count:,}" for letter, count in sorted(ambiguous.items())]
    return ", ".join(found) or "A C G T only"
