"""Which kind of run a TOML file or ``run.json`` describes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dnabert2_jax.config.loading import load_run, read_content
from dnabert2_jax.config.per_base import PerBaseRun
from dnabert2_jax.config.runs import FinetuneRun, PretrainRun

Finetuning = FinetuneRun | PerBaseRun
"""The runs of ``dnabert2 finetune``."""

COMMANDS = ("pretrain", "finetune")


def kind_of_run(command: str, content: Mapping[str, Any]) -> type[PretrainRun] | type[FinetuneRun] | type[PerBaseRun]:
    """The kind of a run.

    Args:
        command: one of ``COMMANDS``.
        content: the run as nested dicts.
    """
    return PretrainRun if command == "pretrain" else kind_of_finetuning(content)


def kind_of_finetuning(content: Mapping[str, Any]) -> type[FinetuneRun] | type[PerBaseRun]:
    """The kind of a run of ``dnabert2 finetune``: ``data.task`` says whether labels are at every base."""
    data = content.get("data")
    return PerBaseRun if isinstance(data, Mapping) and data.get("task") == "per_base" else FinetuneRun


def load_finetuning(config: str | Path | None, overrides: Sequence[str] = ()) -> Finetuning:
    """A run of ``dnabert2 finetune`` from a TOML file and overrides, see :func:`~dnabert2_jax.config.loading.load_run`.

    Raises:
        UserError: the file cannot be read, or a key or value is not accepted.
    """
    kind: type[Finetuning] = kind_of_finetuning(read_content(config, overrides))
    return load_run(kind, config, overrides)
