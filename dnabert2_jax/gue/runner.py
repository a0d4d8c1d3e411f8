"""The benchmark's runs: every data set, every seed. Failures are recorded, and finished runs are never repeated.

The directory of a benchmark::

    run.json                        the request; another model, mode or cap is refused
    found.json                      requested seeds by data set, and directories that cannot be used
    tasks/prom/prom_300_tata/
        data.json                   checks of the tables, and the k-mer regression's scores
        train_capped.csv            the training rows, if they are capped
        seed_0.json                 one record per run: settings, scores, collapse, or the error
        seed_0.toml                 the run, overrides included, for `dnabert2 finetune`
        seed_0/                     its directory; its checkpoints are removed when the record is written
    summary.json, report.html, pictures/
"""

import shutil
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnabert2_jax.artifacts.tensors import tree_sha256
from dnabert2_jax.config.loading import run_to_dict
from dnabert2_jax.convert.opening import path_from_anywhere
from dnabert2_jax.errors import UserError, WrongTaskError
from dnabert2_jax.gue.catalog import Mode
from dnabert2_jax.gue.discovery import Discovery, FoundTask, discover
from dnabert2_jax.gue.presets import check_overrides, preset, write_run
from dnabert2_jax.gue.report import write_gue_report
from dnabert2_jax.gue.summary import FOUND_FILE, Summary, read_record, remember_found, summarize
from dnabert2_jax.gue.tables import CAPPED_TABLE, TaskData, prepare, table_hashes
from dnabert2_jax.progress import remark
from dnabert2_jax.recipes.base_model import load_base
from dnabert2_jax.recipes.finetuning import finetune
from dnabert2_jax.storage.atomic import write_json
from dnabert2_jax.tokenizer.base import Tokenizer
from dnabert2_jax.training.workdir import Workdir

MOST_ATTEMPTS = 3
"""Runs per seed until one does not collapse, except in parity mode; a probe does not depend on the seed."""

_NEXT_SEED = 1000  # retries use seeds beyond all that can be requested


@dataclass(frozen=True, kw_only=True)
class GueRun:
    """What to run.

    Attributes:
        data: directory at or above the data sets.
        model: model directory to start from; None for random weights.
        size: named size of random weights.
        tokenizer: tokenizer directory for ``size``.
        workdir: the benchmark's directory; reuse it to resume.
        tasks: names or globs; empty for all that are found.
        seeds: runs per data set, with the seeds 0, 1, ...
        mode: see :data:`~dnabert2_jax.gue.catalog.Mode`.
        max_train_rows: maximum number of training rows, the same for every seed; None for all.
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
            UserError: neither of the two ways to start, or a mix of both.
        """
        if self.model is not None and self.size is None and self.tokenizer is None:
            return {"path": path_from_anywhere(self.model)}
        if self.model is None and self.size is not None and self.tokenizer is not None:
            return {"size": self.size, "tokenizer": path_from_anywhere(self.tokenizer)}
        raise UserError("give either --model (a model directory), or --size and --tokenizer to start from random weights")


def run_gue(run: GueRun, show: Callable[[Summary], None] = lambda _: None) -> Path:
    """Run what is there and not done yet, and write the report.

    Seed 0 of every data set comes first, so that an interrupted benchmark has a complete table.

    Args:
        run: what to do.
        show: is called once with the results, also if something failed.

    Returns:
        The report's page.

    Raises:
        UserError: the model, the data or the directory cannot be used; or something failed, after the report is written.
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
    _remark_on(discovery)

    failures = dict(discovery.problems)
    ready: list[tuple[FoundTask, TaskData, Path]] = []
    for found in discovery.found:
        folder = run.workdir / "tasks" / found.task.name
        folder.mkdir(parents=True, exist_ok=True)
        failed = folder / "failed.json"
        try:
            data = _prepared(found, tokenizer, folder, run.max_train_rows)
        except Exception as error:
            failures[found.task.name] = _record_failure(failed, error, {"task": found.task.name})
            continue
        failed.unlink(missing_ok=True)
        ready.append((found, data, folder))
    for seed in range(run.seeds):
        pending = [entry for entry in ready if not _done(entry[2] / f"seed_{seed}.json")]
        for number, (found, data, folder) in enumerate(pending, start=1):
            record = folder / f"seed_{seed}.json"
            remark(f"{found.task.name}, seed {seed} ({number} of {len(pending)} remaining data sets)")
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
    show(summarize(run.workdir))
    if failures:
        first, message = next(iter(failures.items()))
        raise UserError(
            f"{len(failures)} of the benchmark's parts failed, the first is {first}: {message}; {page} lists them all; fix "
            "them and rerun the same command, finished runs are kept"
        )
    return page


def _remark_on(discovery: Discovery) -> None:
    remark(f"{len(discovery.found)} data sets: {', '.join(found.task.name for found in discovery.found) or 'none'}")
    for found in discovery.found:
        for text in found.remarks:
            remark(f"{found.task.name}: {text}")
    for name, problem in discovery.problems.items():
        remark(f"{name} is skipped: {problem}")
    if discovery.missing:
        remark(f"not found: {', '.join(discovery.missing)}")


def _prepared(found: FoundTask, tokenizer: Tokenizer, folder: Path, max_train_rows: int | None) -> TaskData:
    """The record of an earlier call if there is one, as long as the tables are unchanged."""
    record = folder / "data.json"
    if record.exists():
        data: TaskData = read_record(record)
        if changed := [split for split, sha256 in table_hashes(found).items() if data["sha256"][split] != sha256]:
            files = ", ".join(str(found.tables[split]) for split in changed)
            raise UserError(f"{files} changed since this benchmark began; use another --workdir, or restore the tables")
        return data
    remark(f"{found.task.name}: reading the tables, k-mer regression")
    data = prepare(found, tokenizer, folder, max_train_rows)
    write_json(record, data)
    return data


def _run_seed(run: GueRun, found: FoundTask, data: TaskData, folder: Path, seed: int) -> dict[str, Any]:
    """Fine-tune; except in parity mode, repeat a collapsed run with another seed, unless it is a probe."""
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
            workdir.with_suffix(".toml"), content, seed=this_seed, model=run.start, tables=tables, overrides=run.overrides
        )
        result = finetune(settings, workdir, baseline=data)
        scored = {name: value for name, value in vars(result).items() if name not in ("model", "adapter")}
        about = {"seed": this_seed, "workdir": workdir.name, "collapsed": result.test["collapsed"]}
        attempts.append({**about, **scored, "run": run_to_dict(settings)})
        if not result.test["collapsed"]:
            break
        remark(f"{found.task.name}, seed {this_seed}: every test row was predicted as the same class: the run collapsed")
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


def _done(record: Path) -> bool:
    return record.exists() and read_record(record)["status"] == "done"


def _tidy(folder: Path, content: dict[str, Any], keep_models: bool) -> None:
    """Remove what only resuming needs, and models that are not wanted."""
    for attempt in content["attempts"]:
        workdir = folder / attempt["workdir"]
        for name in ("checkpoints", *(() if keep_models else ("model", "adapter"))):
            shutil.rmtree(workdir / name, ignore_errors=True)


def _record_failure(record: Path, error: Exception, about: dict[str, Any]) -> str:
    """Record an error; also its type and traceback if the user cannot fix it."""
    message, trace = str(error), None
    if isinstance(error, WrongTaskError):  # the remedy it names is a setting of another command
        message += " (with `dnabert2 finetune`; the benchmark has classes only)"
    if not isinstance(error, UserError):
        message = f"{type(error).__name__}: {message}"
        trace = "".join(traceback.format_exception(error))
    write_json(record, {"status": "failed", **about, "error": message, "traceback": trace})
    remark(f"{', seed '.join(map(str, about.values()))} failed: {message}")
    return message
