"""The benchmark's runs: every data set, every seed; what fails is recorded, and what is done is never done again.

The directory of a benchmark::

    run.json                        what was asked for; another model, mode or cap is refused
    found.json                      the seeds asked for by data set, and directories that cannot be used
    tasks/prom/prom_300_tata/
        data.json                   counts of the tables, and the k-mer regression's scores
        train_capped.csv            the rows to learn from, where they are capped
        seed_0.json                 one record a run: settings, scores, collapse, or the error
        seed_0.toml                 the run, overrides included, for `dnabert2 finetune`
        seed_0/                     its directory; its checkpoints go when the record is written
    summary.json, report.html, pictures/
"""

import shutil
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnabert2_jax.config.loading import run_to_dict
from dnabert2_jax.errors import UserError
from dnabert2_jax.gue.catalogue import Mode
from dnabert2_jax.gue.discovery import Discovery, FoundTask, discover
from dnabert2_jax.gue.presets import check_overrides, preset, write_run
from dnabert2_jax.gue.report import write_gue_report
from dnabert2_jax.gue.summary import FOUND_FILE, read_record, remember_found
from dnabert2_jax.gue.tables import CAPPED_TABLE, TaskData, prepare, table_hashes
from dnabert2_jax.model_directory import tree_sha256
from dnabert2_jax.progress import remark
from dnabert2_jax.recipes.finetuning import finetune
from dnabert2_jax.recipes.base_model import load_base
from dnabert2_jax.storage.atomic import write_json
from dnabert2_jax.tokenizer.base import Tokenizer
from dnabert2_jax.training.workdir import Workdir

MOST_ATTEMPTS = 3
"""Runs of one seed in recommended mode, until one does not collapse; a probe has no luck to try."""

_NEXT_SEED = 1000  # a retry's seed is beyond every seed that can be asked for


@dataclass(frozen=True, kw_only=True)
class GueRun:
    """What to run.

    Attributes:
        data: directory at or above the data sets.
        model: model directory to start from; None starts from random weights.
        size: named size of random weights.
        tokenizer: tokenizer directory for ``size``.
        workdir: the benchmark's directory; the same one again goes on.
        tasks: names or globs; all that are found without one.
        seeds: runs of each data set, with the seeds 0, 1, ...
        mode: see :data:`~dnabert2_jax.gue.catalogue.Mode`.
        max_train_rows: rows to learn from, at most, the same for every seed; None: all.
        overrides: ``section.key=value`` for every run.
        keep_models: keep the fine-tuned models.
    """

    data: Path
    workdir: Path
    model: Path | None = None
    size: str | None = None
    tokenizer: Path | None = None
    tasks: tuple[str, ...] = ()
    seeds: int = 3
    mode: Mode = "recommended"
    max_train_rows: int | None = None
    overrides: tuple[str, ...] = ()
    keep_models: bool = True

    @property
    def start(self) -> dict[str, str]:
        """The ``model`` section of every run.

        Raises:
            UserError: neither of the two ways to start, or something of both.
        """
        if self.model is not None and self.size is None and self.tokenizer is None:
            return {"path": str(self.model.resolve())}
        if self.model is None and self.size is not None and self.tokenizer is not None:
            return {"size": self.size, "tokenizer": str(self.tokenizer.resolve())}
        raise UserError("give either --model (a model directory), or --size and --tokenizer to start from random weights")


def run_gue(run: GueRun) -> Path:
    """Run what is there and not done yet, and write the report.

    Seed 0 of every data set comes first, so that an interrupted benchmark has a whole table.

    Returns:
        The report's page.

    Raises:
        UserError: the model, the data or the directory cannot be used; or, after the report is written, something failed.
    """
    _, tokenizer, model = load_base(check_overrides(run.overrides, run.start).model)
    discovery = discover(run.data, run.tasks)
    asked = {
        "command": "gue run",
        "mode": run.mode,
        "model": run.start.get("path", f"{run.size} from random weights"),
        "model_sha256": tree_sha256(model.params["encoder"]) if model else "random weights",
        "tokenizer_sha256": tokenizer.sha256,
        "max_train_rows": run.max_train_rows,
        "overrides": list(run.overrides),
    }
    directory = Workdir(run.workdir, asked)
    names = [found.task.name for found in discovery.found]
    directory.write_json(FOUND_FILE, remember_found(run.workdir, names, discovery.problems, run.seeds))
    _say(discovery)

    failures = dict(discovery.problems)
    ready: list[tuple[FoundTask, TaskData, Path]] = []
    for found in discovery.found:
        folder = run.workdir / "tasks" / found.task.name
        folder.mkdir(parents=True, exist_ok=True)
        failed = folder / "failed.json"
        try:
            data = _prepared(found, tokenizer, folder, run.max_train_rows)
        except Exception as error:
            failures[found.task.name] = _record_failure(failed, _of_classes(error), {"task": found.task.name})
            continue
        failed.unlink(missing_ok=True)
        ready.append((found, data, folder))
    for seed in range(run.seeds):
        pending = [entry for entry in ready if not _done(entry[2] / f"seed_{seed}.json")]
        for number, (found, data, folder) in enumerate(pending, start=1):
            record = folder / f"seed_{seed}.json"
            remark(f"{found.task.name}, seed {seed} ({number} of {len(pending)} data sets that are left)")
            try:
                content = _run_seed(run, found, data, folder, seed)
            except Exception as error:
                about = {"task": found.task.name, "seed": seed}
                failures[f"{found.task.name}, seed {seed}"] = _record_failure(record, error, about)
                continue
            write_json(record, content)
            _tidy(folder, content, run.keep_models)
        if pending and seed < run.seeds - 1:
            write_gue_report(run.workdir)
    page = write_gue_report(run.workdir)
    if failures:
        first, message = next(iter(failures.items()))
        raise UserError(
            f"{len(failures)} of the benchmark's parts failed, the first is {first}: {message}; {page} lists them all; mend "
            "them and give the same command again, what is done is kept"
        )
    return page


def _say(discovery: Discovery) -> None:
    remark(f"{len(discovery.found)} data sets: {', '.join(found.task.name for found in discovery.found) or 'none'}")
    for found in discovery.found:
        for text in found.remarks:
            remark(f"{found.task.name}: {text}")
    for name, problem in discovery.problems.items():
        remark(f"{name} is left out: {problem}")
    if discovery.missing:
        remark(f"not there: {', '.join(discovery.missing)}")


def _prepared(found: FoundTask, tokenizer: Tokenizer, folder: Path, max_train_rows: int | None) -> TaskData:
    """The record of an earlier call where there is one, as long as the tables are still the same."""
    record = folder / "data.json"
    if record.exists():
        data: TaskData = read_record(record)
        if changed := [split for split, sha256 in table_hashes(found).items() if data["sha256"][split] != sha256]:
            files = ", ".join(str(found.tables[split]) for split in changed)
            raise UserError(f"{files} changed since this benchmark began; use another --workdir, or the tables of before")
        return data
    remark(f"{found.task.name}: reading the tables, k-mer regression")
    data = prepare(found, tokenizer, folder, max_train_rows)
    write_json(record, data)
    return data


def _run_seed(run: GueRun, found: FoundTask, data: TaskData, folder: Path, seed: int) -> dict[str, Any]:
    """Fine-tune; in recommended mode again with another seed where the run collapsed, unless it is a probe."""
    began = time.monotonic()
    content = preset(found.task, run.mode, longest_row=data["longest_row"], train_rows=data["train_rows"])
    tables = {split: path.resolve() for split, path in found.tables.items()}
    if data["capped"]:
        tables["train"] = (folder / CAPPED_TABLE).resolve()
    attempts: list[dict[str, Any]] = []
    for attempt in range(MOST_ATTEMPTS):
        this_seed = seed + attempt * _NEXT_SEED
        workdir = folder / f"seed_{this_seed}"
        settings = write_run(
            workdir.with_suffix(".toml"),
            content,
            seed=this_seed,
            model=run.start,
            tables=tables,
            overrides=run.overrides,
        )
        result = finetune(settings, workdir, baseline=data)
        attempts.append(
            {
                "seed": this_seed,
                "workdir": workdir.name,
                "collapsed": result.test["collapsed"],
                "best_step": result.best_step,
                "trained_parameters": result.trained_parameters,
                "seconds": result.seconds,
                "first_step_seconds": result.first_step_seconds,
                "dev": result.dev,
                "test": result.test,
                "clean": result.clean,
                "run": run_to_dict(settings),
            }
        )
        if not result.test["collapsed"]:
            break
        remark(f"{found.task.name}, seed {this_seed}: every test row was predicted as the same class, the run collapsed")
        if run.mode == "parity" or settings.training.method == "probe":
            break
    return {
        "status": "done",
        "task": found.task.name,
        "seed": seed,
        "mode": run.mode,
        "collapsed_attempts": sum(attempt["collapsed"] for attempt in attempts),
        "seconds": time.monotonic() - began,
        **{key: attempts[-1][key] for key in ("collapsed", "dev", "test", "clean")},
        "attempts": attempts,
    }


def _of_classes(error: Exception) -> Exception:
    """Where the remedy would be another task for the table, say whose that is: the benchmark has one kind."""
    if isinstance(error, UserError) and "data.task" in str(error):
        return UserError(f"{error} (with `dnabert2 finetune`; the benchmark is of classes)")
    return error


def _done(record: Path) -> bool:
    return record.exists() and read_record(record)["status"] == "done"


def _tidy(folder: Path, content: dict[str, Any], keep_models: bool) -> None:
    """Optimizer states are for going on, and the run is over."""
    for attempt in content["attempts"]:
        workdir = folder / attempt["workdir"]
        for name in ("checkpoints", *(() if keep_models else ("model", "adapter"))):
            shutil.rmtree(workdir / name, ignore_errors=True)


def _record_failure(record: Path, error: Exception, about: dict[str, Any]) -> str:
    """Keep what went wrong; the kind of error and its trace, too, where it is no mistake of the user's."""
    message, trace = str(error), None
    if not isinstance(error, UserError):
        message = f"{type(error).__name__}: {message}"
        trace = "".join(traceback.format_exception(error))
    write_json(record, {"status": "failed", **about, "error": message, "traceback": trace})
    remark(f"{', seed '.join(map(str, about.values()))} failed: {message}")
    return message
