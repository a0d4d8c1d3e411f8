"""What makes a small encoder better, one change at a time: pretraining for equal time, then fine-tuning on few rows.

    python benchmarks/small_models.py GUE/tf/0 GUE/mouse/0 --corpus runs/corpus --workdir runs/study [--arms base 4-mers]

Each arm differs from ``base``, which is `configs/pretrain_small_5mer.toml`, in what its name says. All are pretrained for
the same number of seconds on this machine: short runs tell how many steps that is, and the learning rate falls to zero over
just these. Arms of fine-tuning use the encoder of ``base``. Every arm runs with one seed, ``base`` with several, so that the
differences can be compared with its noise. Scores are Matthews correlations on the dev tables. Rerun the command to resume:
arms that are done are read from disk, and with other arms the table grows.
"""

import argparse
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from transfer import capped_tables

from dnabert2_jax.config.loading import load_run
from dnabert2_jax.config.runs import FinetuneRun, PretrainRun
from dnabert2_jax.genome.corpus import Corpus
from dnabert2_jax.models import shipped_model
from dnabert2_jax.recipes.finetuning import finetune
from dnabert2_jax.recipes.pretraining import pretrain
from dnabert2_jax.tokenizer.bpe import BpeTokenizer
from dnabert2_jax.tokenizer.kmer import KmerTokenizer
from dnabert2_jax.training.workdir import MetricsLog

CONFIG = Path(__file__).parents[1] / "configs" / "pretrain_small_5mer.toml"
BASE = "base"
TIMED_STEPS, LOGGED_EVERY = 60, 10


@dataclass(frozen=True)
class Arm:
    """A change of ``base``.

    Attributes:
        pretraining: settings of the encoder's run.
        finetuning: settings of the runs that follow; with no others, the arm reads the encoder of ``base``.
        tokenizer: ``kmer`` and a length, for k-mers at every base; or a model whose byte pairs are read, such as ``small``.
        time: seconds of pretraining, as a factor.
        pretrained: False: random weights.
    """

    pretraining: tuple[str, ...] = ()
    finetuning: tuple[str, ...] = ()
    tokenizer: str = "kmer 5"
    time: float = 1.0
    pretrained: bool = True


def spans(rate: float, tokens: int) -> tuple[str, ...]:
    """Settings of masking."""
    return (f"masking.rate={rate}", f"masking.span_tokens={tokens}")


ARMS: dict[str, Arm] = {
    BASE: Arm(),
    "no pretraining": Arm(pretrained=False),
    "half the time": Arm(time=0.5),
    "twice the time": Arm(time=2),
    "3-mers": Arm(spans(0.2, 6), tokenizer="kmer 3"),
    "4-mers": Arm(spans(0.2, 7), tokenizer="kmer 4"),
    "6-mers": Arm(spans(0.2, 9), tokenizer="kmer 6"),
    "256 byte pairs": Arm(("masking.rate=0.15", "masking.span_tokens=1"), tokenizer="small"),
    "mask 15 %": Arm(spans(0.15, 8)),
    "mask 30 %": Arm(spans(0.3, 8)),
    "mask 40 %": Arm(spans(0.4, 8)),
    "spans of 5": Arm(spans(0.2, 5)),
    "spans of 14": Arm(spans(0.2, 14)),
    "rate 1e-3": Arm(("optimizer.learning_rate=1e-3",)),
    "rate 4e-3": Arm(("optimizer.learning_rate=4e-3",)),
    "batches of 16": Arm(("training.batch_size=16",)),
    "batches of 64": Arm(("training.batch_size=64",)),
    "rows of 64 tokens": Arm(("data.tokens_per_row=64", "training.batch_size=64")),
    "rows of 512 tokens": Arm(("data.tokens_per_row=512", "training.batch_size=8")),
    "size 3m": Arm(("model.size=3m",)),
    "the shipped encoder": Arm(finetuning=("model.path=small_5mer",)),
    "[CLS]": Arm(finetuning=("training.pooling=cls",)),
    "fine-tuning rate 3e-4": Arm(finetuning=("optimizer.learning_rate=3e-4",)),
    "fine-tuning rate 3e-3": Arm(finetuning=("optimizer.learning_rate=3e-3",)),
    "6 epochs": Arm(finetuning=("training.epochs=6",)),
    "both strands": Arm(finetuning=("data.reverse_complement=true",)),
    "label smoothing": Arm(finetuning=("training.label_smoothing=0.1",)),
    "weight decay 0.1": Arm(finetuning=("optimizer.weight_decay=0.1",)),
}
FINETUNING = ("model.remat=full", "training.pooling=mean", "training.epochs=3", "optimizer.learning_rate=1e-3")


def tokenizer_of(arm: Arm, workdir: Path) -> Path:
    """The directory of an arm's tokenizer, made if it does not exist."""
    kind, _, length = arm.tokenizer.partition(" ")
    directory = workdir / "tokenizers" / arm.tokenizer.replace(" ", "_")
    if not directory.exists():
        if kind == "kmer":
            KmerTokenizer(int(length), 1).save(directory)
        else:
            BpeTokenizer.load(shipped_model(kind) or Path(kind)).save(directory)
    return directory


def settings_of(arm: Arm, options: argparse.Namespace) -> list[str]:
    """Settings of an arm's pretraining, apart from its length."""
    return [f"model.tokenizer={tokenizer_of(arm, options.workdir)}", f"data.corpus={options.corpus}", *arm.pretraining]


def steps_of(name: str, options: argparse.Namespace) -> int:
    """How many steps an arm takes in its time: timed in a short run, or read from disk."""
    arm, directory = ARMS[name], options.workdir / "timed" / _file_name(name)
    if not (file := directory / "steps.json").exists():
        plan = [f"training.steps={TIMED_STEPS}", f"training.log_every={LOGGED_EVERY}"]
        run = load_run(PretrainRun, CONFIG, [*settings_of(arm, options), *plan])
        pretrain(run, directory)
        speeds = [line["tokens_per_second"] for line in MetricsLog.read(directory) if "tokens_per_second" in line]
        tokens = run.training.batch_size * run.data.tokens_per_row
        file.write_text(json.dumps(round(options.seconds * arm.time * float(np.median(speeds[1:])) / tokens)))
    return int(json.loads(file.read_text()))


def encoder(name: str, seed: int, directory: Path, options: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """Pretrains an arm's encoder: where it is as a setting, and the figures of the run."""
    steps = steps_of(name, options)
    plan = [f"training.steps={steps}", f"training.evaluate_every={steps}", "optimizer.warmup_steps=0.07"]
    run = load_run(PretrainRun, CONFIG, [*settings_of(ARMS[name], options), *plan, f"seed={seed}"])
    started = time.perf_counter()
    saved = pretrain(run, directory / "pretraining")
    seconds = time.perf_counter() - started
    tokens = steps * run.training.batch_size * run.data.tokens_per_row
    return f"model.path={saved.path}", {"steps": steps, "tokens": tokens, "seconds": seconds}


def result(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One seed of one arm, from disk if it is there."""
    arm = ARMS[name]
    directory = options.workdir / f"{_file_name(name)}_{seed}"
    if (file := directory / "result.json").exists():
        return json.loads(file.read_text())  # type: ignore[no-any-return]
    directory.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Any] = {}
    if not arm.pretrained:
        model = ["model.size=1m", f"model.tokenizer={tokenizer_of(arm, options.workdir)}"]
    elif arm.finetuning:
        result(BASE, seed, options)
        model = [f"model.path={options.workdir / f'{BASE}_{seed}' / 'pretraining' / 'model'}"]
    else:
        path, figures = encoder(name, seed, directory, options)
        model = [path]
    scores = {}
    for task in options.task:
        of_task = "/".join(task.parts[-2:])
        tables = capped_tables(task, options.workdir / "tables" / of_task.replace("/", "_"), options.max_train_rows)
        data = [f"data.{split}={path}" for split, path in tables.items()]
        run = load_run(FinetuneRun, None, [*model, *data, *FINETUNING, *arm.finetuning, f"seed={seed}"])
        tuned = finetune(run, directory / of_task.replace("/", "_"))
        scores[of_task] = {"dev": tuned.dev["mcc"], "test": tuned.test["mcc"], "seconds": tuned.seconds}
    content = {"arm": name, "seed": seed, **figures, "scores": scores}
    file.write_text(json.dumps(content, indent=2) + "\n")
    return content


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", nargs="+", type=Path)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM", help="default: all")
    parser.add_argument("--seconds", type=float, default=120, help="of pretraining")
    parser.add_argument("--seeds", type=int, default=3, help="of the arm 'base'")
    parser.add_argument("--max-train-rows", type=int, default=1904)
    options = parser.parse_args()
    options.corpus = Corpus.open(options.corpus).path
    for name in options.arms:
        if ARMS[name].pretrained and not ARMS[name].finetuning:
            steps_of(name, options)  # all in a row, so that the machine is the same for all
    results = {}
    for name in options.arms:
        results[name] = [result(name, seed, options) for seed in range(options.seeds if name == BASE else 1)]
    names = ["/".join(task.parts[-2:]) for task in options.task]
    table = Table("arm", "million tokens", *names, "mean")
    for name, runs in results.items():
        tokens = f"{runs[0]['tokens'] / 1e6:.1f}" if "tokens" in runs[0] else "—"
        by_task = [[run["scores"][task]["dev"] for run in runs] for task in names]
        means = [statistics.mean(values) for values in zip(*by_task, strict=True)]
        table.add_row(name, tokens, *map(_cell, by_task), _cell(means))
    Console(width=140).print(table)


def _file_name(arm: str) -> str:
    return arm.replace(" ", "_").replace("%", "percent")


def _cell(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


if __name__ == "__main__":
    main()
