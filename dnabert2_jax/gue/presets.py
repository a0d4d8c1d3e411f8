"""The settings of a data set's run: the original's, the recommended ones, or those for small encoders."""

import json
from pathlib import Path
from typing import Any

from dnabert2_jax.config.loading import load_run, run_to_dict, to_toml
from dnabert2_jax.config.runs import FinetuneRun
from dnabert2_jax.errors import UserError
from dnabert2_jax.gue.catalog import SPLITS, Mode, Task

MODES: dict[Mode, dict[str, dict[str, Any]]] = {
    # The original's collator passes on ids and labels only, so that token types are lost, and its trainer keeps the
    # checkpoint with the lowest loss, which is its default.
    "parity": {"data": {"token_types": False}, "training": {"selection": "loss"}},
    "recommended": {"data": {"token_types": True}, "training": {"selection": "mcc"}},
    # The published rate of 3e-5 is for 117 million parameters.
    "small": {
        "data": {"token_types": True},
        "optimizer": {"learning_rate": 1e-3},
        "training": {"selection": "mcc", "pooling": "mean", "epochs": 5},
    },
}
"""What each mode sets in addition to the published settings, by section of the run."""

_FIXED = {
    *("seed", "command", "data", "data.train", "data.dev", "data.test"),
    *("model", "model.path", "model.size", "model.tokenizer"),
}
_ROUND = 8
_STEPS_OF_SMALL = 2000  # at most, so that large tables take minutes

NEVER = 1_000_000
"""The patience of every run, more evaluations than any run has: the original does not stop early."""


def preset(task: Task, mode: Mode, *, longest_row: int, train_rows: int) -> dict[str, dict[str, Any]]:
    """The sections ``data``, ``optimizer`` and ``training`` of a fine-tuning run.

    Args:
        task: the data set, with its published settings.
        mode: see ``Mode``.
        longest_row: tokens in the longest row of any table, special tokens included.
        train_rows: training rows; they turn the original's steps between evaluations into evaluations per epoch.
    """
    settings = task.settings
    steps_of_epoch = -(-train_rows // settings.batch_size)
    evaluations = max(1, round(steps_of_epoch / settings.evaluate_every))
    whole = -(-longest_row // _ROUND) * _ROUND
    limit = settings.max_tokens if mode == "parity" and settings.max_tokens is not None else whole
    content: dict[str, dict[str, Any]] = {
        "data": {"max_tokens": limit},
        "optimizer": {
            "learning_rate": settings.learning_rate,
            "warmup_steps": settings.warmup_steps,
            "weight_decay": settings.weight_decay,
        },
        "training": {"epochs": settings.epochs, "batch_size": settings.batch_size, "evaluations_per_epoch": evaluations},
    }
    training = content["training"]
    if settings.max_steps is not None:
        training["max_steps"] = settings.max_steps
    training["patience"] = NEVER
    for section, values in MODES[mode].items():
        content[section] = {**content.get(section, {}), **values}
    if mode == "small":
        epochs = content["training"]["epochs"]
        content["training"]["max_steps"] = min(epochs * steps_of_epoch, _STEPS_OF_SMALL)
    return content


def write_run(
    file: Path,
    content: dict[str, dict[str, Any]],
    *,
    seed: int,
    model: dict[str, str],
    tables: dict[str, Path],
    overrides: tuple[str, ...],
) -> FinetuneRun:
    """Write the run, overrides included, as a TOML file for `dnabert2 finetune`.

    Args:
        file: the file to write.
        content: of :func:`preset`.
        seed: the seed of the run.
        model: the run's ``model`` section: ``path``, or ``size`` and ``tokenizer``.
        tables: by split.
        overrides: ``section.key=value``.

    Raises:
        UserError: a setting is not accepted, or not in combination with the others.
    """
    changed = {override.partition("=")[0].strip() for override in overrides}
    training = content["training"]
    if "training.epochs" in changed and "training.max_steps" not in changed:  # an explicit request for epochs wins
        training = {key: value for key, value in training.items() if key != "max_steps"}
    sections = {
        "model": model,
        **content,
        "training": training,
        "data": {**{split: str(path) for split, path in tables.items()}, **content["data"]},
    }
    settings = [f"{name}.{key}={json.dumps(value)}" for name, section in sections.items() for key, value in section.items()]
    run = load_run(FinetuneRun, None, [f"seed={seed}", *settings, *overrides])
    file.write_text(to_toml(run_to_dict(run)), encoding="utf-8")
    return run


def check_overrides(overrides: tuple[str, ...], model: dict[str, str]) -> FinetuneRun:
    """Refuse, before the first run, overrides of what the benchmark itself varies, and overrides that no run accepts.

    Returns:
        The run as it will be, except for its tables.

    Raises:
        UserError: names the key.
    """
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key == "data.task":
            raise UserError(
                f"--set {override}: the benchmark has classes only; for measurements and several labels use `dnabert2 "
                "finetune`"
            )
        if key in _FIXED:
            raise UserError(f"--set {override}: `gue run` sets the {key} of every run; use --seeds, --data and --model")
    start = [f"model.{key}={value}" for key, value in model.items()]
    return load_run(FinetuneRun, None, [*start, *(f"data.{split}={split}.csv" for split in SPLITS), *overrides])
