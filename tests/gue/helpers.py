"""A benchmark on tiny data, and a trainer that takes no time."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from dnabert2_jax.baselines.comparison import Baseline
from dnabert2_jax.cli import main
from dnabert2_jax.config.runs import FinetuneRun
from dnabert2_jax.data.splits import load_splits
from dnabert2_jax.gue.runner import GueRun
from dnabert2_jax.metrics.intervals import confidence_intervals
from dnabert2_jax.metrics.scores import classification_metrics, scores_without
from dnabert2_jax.recipes.finetuned import Finetuned
from dnabert2_jax.reports.sections import PREDICTIONS_FILE

SETTINGS = (
    "training.batch_size=16",
    "training.epochs=4",
    "training.evaluations_per_epoch=1",
    "training.padded_lengths=1",
    "optimizer.learning_rate=1e-2",
    "optimizer.warmup_steps=2",
    "mesh.data=1",  # of the eight devices that every test has
)


class Trainer:
    """In place of ``finetune``: predicts the training table's first class everywhere, or the right one, or fails.

    Args:
        collapses: seeds whose run collapses.
        fails: what a seed's run raises.
    """

    def __init__(self, collapses: tuple[int, ...] = (), fails: dict[int, BaseException] | None = None) -> None:
        self.collapses, self.fails, self.seeds = collapses, fails or {}, []

    def __call__(self, run: FinetuneRun, workdir: Path, *, baseline: Baseline) -> Finetuned:
        self.seeds.append(run.seed)
        if run.seed in self.fails:
            raise self.fails[run.seed]
        splits = load_splits(run.data.train, run.data.dev, run.data.test)
        labels = splits.labels.encode(splits.test)
        predicted = np.zeros_like(labels) if run.seed in self.collapses else labels
        probabilities = np.eye(len(splits.labels))[predicted]
        (workdir / "model").mkdir(parents=True)
        (workdir / "model" / "weights").touch()
        (workdir / "checkpoints").mkdir()
        lines = np.array(splits.test.lines)
        np.savez(workdir / PREDICTIONS_FILE, labels=labels, probabilities=probabilities, lines=lines)
        clean = scores_without(labels, probabilities, splits.labels.names, lines, baseline["leaked_lines"])
        scores = classification_metrics(labels, probabilities, splits.labels.names)
        return Finetuned(
            model=workdir / "model",
            adapter=None,
            test=scores,
            intervals=confidence_intervals("single_label", labels, probabilities),
            dev=scores,
            best_step=1,
            trained_parameters=1,
            seconds=0.5,
            first_step_seconds=0.25,
            clean=clean,
        )


def crlf(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))


def benchmark(home: Path, workdir: str, **changes) -> GueRun:
    options = {"tasks": ("tf/0",), "seeds": 1, "overrides": SETTINGS, "model": home / "model"}
    return GueRun(data=home / "GUE", workdir=home / workdir, **{**options, **changes})


def record(workdir: Path, task: str, name: str = "seed_0") -> dict:
    return json.loads((workdir / "tasks" / task / f"{name}.json").read_text())


def page_of(workdir: Path) -> str:
    return (workdir / "report.html").read_text()


def command(capsys, monkeypatch, *words: str) -> tuple[int | None, str, str]:
    """Exit code, output and errors of the command line, in this process."""
    monkeypatch.setattr(sys, "argv", ["dnabert2", *words])
    with pytest.raises(SystemExit) as end:
        main()
    return (end.value.code, *capsys.readouterr())
