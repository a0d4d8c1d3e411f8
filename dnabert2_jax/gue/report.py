"""The benchmark's page, made from its directory, so that it can be rewritten at any time."""

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from dnabert2_jax.gue.catalog import METRIC_NAMES, REFERENCE, published_models
from dnabert2_jax.gue.notes import benchmark_notes, pending_runs
from dnabert2_jax.gue.plots import distance_picture, score_picture
from dnabert2_jax.gue.summary import NONE, Summary, TaskSummary, format_score, mean_over, score_rows, summarize, task_of
from dnabert2_jax.reports.page import Block, Heading, Page, Section, Table, Text, write_page
from dnabert2_jax.reports.sections import Drawing, draw_pictures
from dnabert2_jax.storage.atomic import write_json

REPORT_FILE = "report.html"
SUMMARY_FILE = "summary.json"


def write_gue_report(workdir: Path) -> Path:
    """Write ``report.html``, ``pictures/*.png`` and ``summary.json`` from the records of a benchmark, finished or not.

    Returns:
        The page.

    Raises:
        UserError: the directory holds no benchmark, a record is damaged, or it is not writable.
    """
    summary = summarize(workdir)
    write_json(workdir / SUMMARY_FILE, summary)
    return write_page(workdir / REPORT_FILE, _page(workdir, summary))


def _page(workdir: Path, summary: Summary) -> Page:
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
    asked = summary["asked"]
    sections = [
        *([_scores(workdir, scored)] if scored else []),
        *([_published(published)] if published else []),
        *([_clean(scored)] if scored else []),
        *([_data(summary["tasks"])] if summary["tasks"] else []),
        *([_settings(scored, asked["overrides"]), _runs(scored)] if scored else []),
        _not_run(summary),
    ]
    return Page(
        "GUE benchmark", f"mode {asked['mode']}, model {asked['model']}", sections, figures, list(benchmark_notes(summary))
    )


def _scores(workdir: Path, tasks: list[TaskSummary]) -> Section:
    drawings = [
        Drawing("scores", "Test scores by data set, in the published metric.", partial(score_picture, tasks)),
        Drawing(
            "distances",
            "Distance of the mean over seeds above each reference; points left of the line are below it.",
            partial(distance_picture, tasks),
        ),
    ]
    text = Text(
        "Mean ± standard deviation over seeds, on the whole test table. The k-mer regression was fitted on the same rows."
    )
    table = Table.from_records(score_rows(tasks))
    return Section("scores", "Scores", [draw_pictures(workdir, drawings), Heading("Mean over seeds"), text, table])


def _published(tasks: list[TaskSummary]) -> Section:
    models = published_models()
    rows = [
        {
            "data set, metric": f"{task.name}, {METRIC_NAMES[task.metric]} x 100",
            "this model": f"{100 * summary['scores'][task.metric]['mean']:.2f}",
            **{model: f"{task.published[model]:.2f}" for model in models},
        }
        for summary in tasks
        for task in [task_of(summary)]
    ]
    means = (f"{mean_over(tasks, model):.2f}" for model in (None, *models))
    mean = dict(zip(rows[0], (f"mean of the {len(tasks)} data sets above", *means), strict=True))
    text = Text(
        "Published: Zhou et al. 2024, table 6. virus/covid is macro F1, everything else MCC. Seeds, row order and the "
        "selection of checkpoints differ; a difference smaller than the deviation over seeds is not meaningful."
    )
    return Section("published", "Compared with the published scores", [text, Table.from_records([*rows, mean])])


def _clean(tasks: list[TaskSummary]) -> Section:
    rows = []
    for summary in tasks:
        data = summary["data"]
        row = {
            "data set": summary["task"],
            "test rows": f"{data['report']['tables']['test']['rows']:,}",
            "leaked": f"{len(data['leaked_lines']):,}",
        }
        for metric, name in METRIC_NAMES.items():
            for which, scores in (("all", summary["scores"]), ("without", summary["clean"])):
                row[f"{name} x 100, {which}"] = format_score(scores[metric]) if scores else NONE
        for which, kmer in (("all", data["kmer"]), ("without", data["kmer_clean"])):
            row[f"k-mer MCC x 100, {which}"] = f"{100 * kmer['mcc']:.2f}" if kmer else NONE
        rows.append(row)
    text = Text("A test row is leaked if its sequence is also in the train or the dev table, whatever the label.")
    return Section("clean", "Without leaked rows", [text, Table.from_records(rows)])


def _data(tasks: list[TaskSummary]) -> Section:
    blocks: list[Block] = [
        Text(
            "Whole tables, before any cap. A repeat has the sequence of an earlier row of its table. The published limit is "
            "the original's maximum length, in its tokens; the rows it truncates are counted with the tokenizer of this "
            "benchmark's model. Only mode parity truncates."
        ),
        Table.from_records([_data_row(summary) for summary in tasks]),
    ]
    if remarks := [(task["task"], "; ".join(task["data"]["remarks"])) for task in tasks if task["data"]["remarks"]]:
        blocks += [Heading("Row counts that differ from the published ones"), Table(("data set", "rows"), remarks, 2)]
    return Section("data", "Data", blocks)


def _data_row(summary: TaskSummary) -> dict[str, str]:
    report = summary["data"]["report"]
    tables = report["tables"]
    shared = {pair["earlier"]: pair for pair in report["shared"] if pair["later"] == "test"}
    limit = task_of(summary).settings.max_tokens
    total = sum(table["rows"] for table in tables.values())
    cut = sum(table["truncated_rows"] for table in tables.values())
    shortest, longest = min(t["shortest"] for t in tables.values()), max(t["longest"] for t in tables.values())
    return {
        "data set": summary["task"],
        "train / dev / test rows": " / ".join(f"{table['rows']:,}" for table in tables.values()),
        "classes": str(len(tables["train"]["label_counts"])),
        "bases per row": f"{shortest:,}" if shortest == longest else f"{shortest:,}-{longest:,}",
        "repeats in train / dev / test": " / ".join(f"{table['duplicate_rows']:,}" for table in tables.values()),
        "sequences with several labels": " / ".join(f"{t['contradictory_sequences']:,}" for t in tables.values()),
        "test rows in train": f"{shared['train']['rows']:,}",
        "test rows in train, other label": f"{shared['train']['contradictory_rows']:,}",
        "test rows in dev": f"{shared['dev']['rows']:,}",
        "test rows in dev, other label": f"{shared['dev']['contradictory_rows']:,}",
        "published limit, tokens": f"{limit:,}" if limit else NONE,
        "rows it truncates": f"{cut:,} ({cut / total:.1%})" if limit else NONE,
        "letters": _letters(summary),
    }


def _settings(tasks: list[TaskSummary], overrides: list[str]) -> Section:
    rows = [_settings_row(summary, overrides) for summary in tasks]
    text = Text("The original's settings if they are published; its step count if its epochs are not a number.")
    return Section("settings", "Settings", [text, Table.from_records(rows, text_columns=3)])


def _settings_row(summary: TaskSummary, overrides: list[str]) -> dict[str, str]:
    run: dict[str, dict[str, Any]] = summary["runs"][0]["attempts"][-1]["run"]
    data, training, optimizer = run["data"], run["training"], run["optimizer"]
    whole = training["epochs"] * -(-summary["data"]["train_rows"] // training["batch_size"])
    source = "published" if task_of(summary).has_published_settings else "defaults"
    of_steps = {
        "epochs": NONE if training.get("max_steps") else training["epochs"],
        "batch size": training["batch_size"],
        "learning rate": optimizer["learning_rate"],
        "warm-up steps": optimizer["warmup_steps"],
        "weight decay": optimizer["weight_decay"],
        "evaluations per epoch": training["evaluations_per_epoch"],
        "steps": f"{training.get('max_steps') or whole:,}",
    }
    if training["method"] == "probe":  # fitted at once, without optimizer steps
        of_steps = dict.fromkeys(of_steps, NONE)
    return {
        "data set": summary["task"],
        "settings": source + (", changed by --set" if overrides else ""),
        "method": training["method"],
        "max tokens": str(data["max_tokens"]),
        "selects by": training["selection"],
        "token types": "0 and 1" if data["token_types"] else "0",
        **{name: str(value) for name, value in of_steps.items()},
    }


def _runs(tasks: list[TaskSummary]) -> Section:
    rows = [
        {
            "data set": summary["task"],
            "seed": str(attempt["seed"]),
            **{f"test {name} x 100": _with_interval(attempt, metric) for metric, name in METRIC_NAMES.items()},
            "dev MCC x 100": f"{100 * attempt['dev']['mcc']:.2f}",
            "best step": f"{attempt['best_step']:,}",
            "seconds": f"{attempt['seconds']:,.0f}",
            "to the end of the first step": NONE
            if attempt.get("first_step_seconds") is None
            else f"{attempt['first_step_seconds']:,.1f}",
            "collapsed": "yes" if attempt["collapsed"] else "no",
        }
        for summary in tasks
        for run in summary["runs"]
        for attempt in run["attempts"]
    ]
    text = Text(
        "Test scores with their 95% interval, by the bootstrap over test rows: how they would vary over other rows of the "
        "same kind. The deviation over seeds, above, is how they vary over runs."
    )
    return Section("runs", "Runs", [text, Table.from_records(rows)])


def _with_interval(attempt: dict[str, Any], metric: str) -> str:
    score = f"{100 * attempt['test'][metric]:.2f}"
    if "intervals" not in attempt:  # a record of version 0.2.0 or earlier
        return score
    low, high = attempt["intervals"]["scores"][metric]
    return f"{score} ({100 * low:.2f}-{100 * high:.2f})"


def _not_run(summary: Summary) -> Section:
    rows = [(name, "could not be used", problem) for name, problem in summary["problems"].items()]
    for task in summary["tasks"]:
        rows += [(task["task"], f"seed {seed} failed", error) for seed, error in task["failures"].items()]
    blocks: list[Block] = [Table(("data set", "", "why"), rows, 3)] if rows else []
    if pending := pending_runs(summary):
        rest = ", ".join(f"{name} ({what})" for name, what in pending.items())
        blocks += [Heading("Not run yet"), Text(f"{rest}. Rerun the same command to resume.")]
    blocks = blocks or [Text("Everything that was found was run.")]
    if summary["missing"]:
        blocks += [Heading("GUE data sets without a result"), Text(", ".join(summary["missing"]))]
    return Section("absent", "Not run", blocks)


def _letters(summary: TaskSummary) -> str:
    tables = summary["data"]["report"]["tables"].values()
    lower = sum(table["lower_case"] for table in tables)
    ambiguous = Counter[str]()
    for table in tables:
        ambiguous.update(table["ambiguous"])
    found = [f"{lower:,} lower case"] if lower else []
    found += [f"{letter} {count:,}" for letter, count in sorted(ambiguous.items())]
    return ", ".join(found) or "A C G T only"
