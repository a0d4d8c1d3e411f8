"""A data set's run in two modes: ``parity`` does what the original did, ``recommended`` what is better founded."""

import json
from pathlib import Path
from typing import Any

from dnabert2_jax.config.loading import load_run, run_to_dict
from dnabert2_jax.config.runs import FinetuneRun
from dnabert2_jax.errors import UserError
from dnabert2_jax.gue.catalogue import SPLITS, Mode, Task

MODES: dict[Mode, dict[str, dict[str, Any]]] = {
    # The original asks its collator for ids and labels alone, so that token types are lost on the way, and it keeps the
    # checkpoint with the lowest loss, which is what its trainer does unless told otherwise.
    "parity": {"data": {"token_types": False}, "training": {"selection": "loss"}},
    "recommended": {"data": {"token_types": True}, "training": {"selection": "mcc"}},
}
"""What the modes set beyond the published settings, by section of the run."""

_FIXED = {
    *("seed", "command", "data", "data.train", "data.dev", "data.test"),
    *("model", "model.path", "model.size", "model.tokenizer"),
}
_ROUND = 8

NEVER = 1_000_000
"""The patience of every run: evaluations without a better one, more than any run has. The original does not stop early."""


def preset(task: Task, mode: Mode, *, longest_row: int, train_rows: int) -> dict[str, dict[str, Any]]:
    """The sections ``data``, ``optimizer`` and ``training`` of a fine-tuning run.

    Args:
        task: the data set, with its published settings.
        mode: see ``Mode``.
        longest_row: tokens of the longest row of any table, special tokens included.
        train_rows: rows to learn from; they turn the original's steps between evaluations into evaluations of an epoch.
    """
    settings = task.settings
    steps_of_epoch = -(-train_rows // settings.batch_size)
    evaluations = max(1, round(steps_of_epoch / settings.evaluate_every))
    whole = -(-longest_row // _ROUND) * _ROUND
    limit = whole if mode == "recommended" or settings.max_tokens is None else settings.max_tokens
    content: dict[str, dict[str, Any]] = {
        "data": {"max_tokens": limit},
        "optimizer": {
            "learning_rate": settings.learning_rate,
            "warmup_steps": settings.warmup_steps,
            "weight_decay": settings.weight_decay,
        },
        "training": {
            "epochs": settings.epochs,
            "batch_size": settings.batch_size,
            "evaluations_per_epoch": evaluations,
        },
    }
    training = content["training"]
    if settings.max_steps is not None:
        training["max_steps"] = settings.max_steps
    training["patience"] = NEVER
    for section, values in MODES[mode].items():
        content[section] = {**content.get(section, {}), **values}
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
    """Write the run, overrides included, as the TOML file that `dnabert2 finetune` takes.

    Args:
        file: to write.
        content: of :func:`preset`.
        seed: the run's.
        model: ``path``, or ``size`` and ``tokenizer``, as the run's section has them.
        tables: by split.
        overrides: ``section.key=value``.

    Raises:
        UserError: a setting is not accepted, or not together with the others.
    """
    changed = {override.partition("=")[0].strip() for override in overrides}
    training = content["training"]
    if "training.epochs" in changed and "training.max_steps" not in changed:  # who asks for epochs gets them
        training = {key: value for key, value in training.items() if key != "max_steps"}
    sections = {
        "model": model,
        **content,
        "training": training,
        "data": {**{split: str(path) for split, path in tables.items()}, **content["data"]},
    }
    file.write_text(_toml({"command": "finetune", "seed": seed, **sections}), encoding="utf-8")
    run = load_run(FinetuneRun, file, overrides)
    file.write_text(_toml(run_to_dict(run)), encoding="utf-8")
    return run


def _toml(content: dict[str, Any]) -> str:
    """Values and sections of values; TOML has no word for None, which a run takes for a missing key."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in content.items() if not isinstance(value, dict)]
    for name, section in content.items():
        if isinstance(section, dict):
            values = [f"{key} = {json.dumps(value)}" for key, value in section.items() if value is not None]
            lines += ["", f"[{name}]", *values]
    return "\n".join(lines) + "\n"


def check_overrides(overrides: tuple[str, ...], model: dict[str, str]) -> FinetuneRun:
    """Refuse, before the first run, overrides of what the benchmark itself varies and those that no run accepts.

    Returns:
        A run as it would be, but for its tables.

    Raises:
        UserError: names the key.
    """
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key == "data.task":
            raise UserError(
                f"--set {override}: the benchmark is of classes; measurements and several labels go to `dnabert2 finetune`"
            )
        if key in _FIXED:
            raise UserError(f"--set {override}: `gue run` gives every run its {key}; use --seeds, --data and --model")
    start = [f"model.{key}={value}" for key, value in model.items()]
    return load_run(FinetuneRun, None, [*start, *(f"data.{split}={split}.csv" for split in SPLITS), *overrides])
