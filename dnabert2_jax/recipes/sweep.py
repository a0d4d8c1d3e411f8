"""Hyperparameter search: fine-tuning runs whose settings a sampler proposes, and the one with the best dev score.

Optuna proposes (its tree-structured Parzen estimator, Bergstra et al. 2011) and remembers. Each trial is an ordinary
fine-tuning run in a directory of its own, so that a sweep that was killed resumes in the middle of a trial. Test scores
select nothing.
"""

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dnabert2_jax.config.loading import Finetuning, load_finetuning, run_to_dict, to_toml
from dnabert2_jax.config.per_base import PerBaseRun
from dnabert2_jax.errors import UserError
from dnabert2_jax.extras import optional_package
from dnabert2_jax.progress import remark
from dnabert2_jax.recipes.finetuning import finetune
from dnabert2_jax.recipes.finetuning_job import selected_score
from dnabert2_jax.reports.run import saved_baseline
from dnabert2_jax.reports.sweep import Sweep, Trial, write_sweep
from dnabert2_jax.storage.atomic import write_bytes, write_json
from dnabert2_jax.training.workdir import flat_settings

JOURNAL, ASKED, BEST, PAGE = "journal.log", "sweep.json", "best.toml", "sweep.html"
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})(:log)?")


@dataclass(frozen=True)
class Choice:
    """The values that one setting may take.

    Attributes:
        key: ``section.key`` of a fine-tuning run.
        values: to choose from, as text; empty for a range.
        low: lower end of a range, included.
        high: upper end, included.
        log: draw uniformly from the logarithms.
    """

    key: str
    values: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False

    @classmethod
    def parse(cls, text: str) -> "Choice":
        """``KEY=LOW..HIGH``, ``KEY=LOW..HIGH:log`` or ``KEY=A,B,C``; whole numbers at both ends of a range keep it whole.

        Raises:
            UserError: none of these.
        """
        key, equals, values = (part.strip() for part in text.partition("="))
        if not (key and equals and values):
            raise UserError(f"--search {text}: accepted is KEY=LOW..HIGH, KEY=LOW..HIGH:log or KEY=A,B,C")
        if not (found := _RANGE.fullmatch(values)):
            return cls(key, values=tuple(value.strip() for value in values.split(",")))
        low, high, log = (float(found[1]), float(found[2]), bool(found[3]))
        if not low < high or (log and low <= 0):
            raise UserError(f"--search {text}: the first number must be smaller than the second" + ", and above 0" * log)
        return cls(key, (), low, high, log)

    def distribution(self, optuna: Any) -> Any:
        """What the sampler draws from."""
        if self.values:
            return optuna.distributions.CategoricalDistribution(self.values)
        if self.low.is_integer() and self.high.is_integer():
            return optuna.distributions.IntDistribution(int(self.low), int(self.high), log=self.log)
        return optuna.distributions.FloatDistribution(self.low, self.high, log=self.log)

    @property
    def first(self) -> str:
        """One of the values, to check that the setting accepts it."""
        return self.values[0] if self.values else _as_text(int(self.low) if self.low.is_integer() else self.low)


def sweep(
    config: Path | None,
    overrides: Sequence[str],
    search: Sequence[Choice],
    workdir: Path,
    *,
    trials: int,
    seed: int = 0,
    keep_models: bool = False,
) -> Sweep:
    """Run trials until there are ``trials`` of them; those that failed count.

    Args:
        config: TOML file of the run that all trials share.
        overrides: ``section.key=value``, for all trials.
        search: what is varied.
        workdir: gets ``trials/``, ``best.toml``, ``sweep.html``, and the record that a later call resumes from.
        trials: how many.
        seed: of the sampler; each run has its own ``seed`` setting.
        keep_models: keep the models of all trials rather than the best one's.

    Returns:
        The results.

    Raises:
        UserError: a setting is not accepted, the directory holds another sweep, or every trial failed.
    """
    for choice in search:
        if [other.key for other in search].count(choice.key) > 1 or any(_key(given) == choice.key for given in overrides):
            raise UserError(f"{choice.key} is given twice; a setting is either searched, once, or set")
    first = [f"{choice.key}={choice.first}" for choice in search]
    shared = load_finetuning(config, [*overrides, *first], option="--set or --search" if overrides else "--search")
    optuna = optional_package("optuna", "a sweep needs", "dnabert2_jax[sweep]")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    (workdir / "trials").mkdir(parents=True, exist_ok=True)
    _check_same_search(workdir / ASKED, shared, search, seed)
    study = optuna.create_study(
        storage=optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(workdir / JOURNAL))),
        study_name="sweep",
        direction="minimize" if shared.training.selection == "loss" else "maximize",
        load_if_exists=True,
    )
    # A resumed sweep must not repeat its first draws.
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials))
    distributions = {choice.key: choice.distribution(optuna) for choice in search}
    unfinished = [(trial.number, trial.params) for trial in study.trials if not trial.state.is_finished()]
    baseline = None
    while unfinished or len(study.trials) < trials:
        if unfinished:
            number, params = unfinished.pop(0)
        else:
            asked = study.ask(distributions)
            number, params = asked.number, asked.params
        proposed = [f"{key}={_as_text(value)}" for key, value in params.items()]
        remark(f"trial {number + 1} of {trials}: {', '.join(proposed)}")
        directory = _directory(workdir, number)
        try:
            result = finetune(load_finetuning(config, [*overrides, *proposed]), directory, baseline=baseline)
        except UserError as error:
            remark(f"trial {number + 1} failed: {error}")
            write_json(directory.with_suffix(".error.json"), str(error))
            study.tell(number, state=optuna.trial.TrialState.FAIL)
            continue
        baseline = baseline or saved_baseline(directory)
        study.tell(number, result.dev[selected_score(shared)])
        shutil.rmtree(directory / "checkpoints", ignore_errors=True)
        if not keep_models:
            _remove_models_but(study.best_trial.number, workdir, len(study.trials))
    results = [_trial(workdir, trial.number, trial.params) for trial in study.trials]
    if all(trial.error for trial in results):
        raise UserError(f"every trial failed; the last one: {results[-1].error}")
    best = study.best_trial
    chosen = [f"{key}={_as_text(value)}" for key, value in best.params.items()]
    write_bytes(workdir / BEST, to_toml(run_to_dict(load_finetuning(config, [*overrides, *chosen]))).encode())
    dev = ", ".join(shared.data.dev_contigs) if isinstance(shared, PerBaseRun) else str(shared.data.dev)
    swept = Sweep(results, best.number, selected_score(shared), shared.data.task, dev)
    write_sweep(workdir / PAGE, swept)
    return swept


def _check_same_search(file: Path, shared: Finetuning, search: Sequence[Choice], seed: int) -> None:
    """Record what the sweep searches, or check that an earlier call searched the same."""
    keys = {choice.key for choice in search}
    settings = {key: value for key, value in flat_settings(run_to_dict(shared)).items() if key not in keys}
    asked = {
        "settings": settings,
        "search": [asdict(choice) | {"values": list(choice.values)} for choice in search],
        "seed": seed,
    }
    if not file.exists():
        write_json(file, asked)
        return
    before = json.loads(file.read_bytes())
    changed = [key for key, value in settings.items() if before["settings"].get(key, value) != value]
    changed += [name for name in ("search", "seed") if before[name] != asked[name]]
    if changed:
        raise UserError(
            f"{file.parent} holds a sweep with other settings ({', '.join(changed)}); its trials cannot be compared with "
            "these: use another --workdir, or the same settings"
        )


def _trial(workdir: Path, number: int, params: dict[str, Any]) -> Trial:
    directory = _directory(workdir, number)
    settings = {key: _as_text(value) for key, value in params.items()}
    if (failed := directory.with_suffix(".error.json")).exists():
        return Trial(number, settings, error=json.loads(failed.read_bytes()))
    scores = json.loads((directory / "scores.json").read_bytes())
    return Trial(number, settings, scores["dev"], scores["test"], scores["seconds"])


def _directory(workdir: Path, number: int) -> Path:
    return workdir / "trials" / f"{number:03d}"


def _remove_models_but(best: int, workdir: Path, trials: int) -> None:
    for number in range(trials):
        if number != best:
            for part in ("model", "adapter"):
                shutil.rmtree(_directory(workdir, number) / part, ignore_errors=True)


def _key(override: str) -> str:
    return override.partition("=")[0].strip()


def _as_text(value: Any) -> str:
    """A proposed value as ``--set`` takes it; five digits are enough to repeat a run by hand."""
    return f"{value:.5g}" if isinstance(value, float) else str(value)
