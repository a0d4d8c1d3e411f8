"""The value of pretraining: a randomly initialized encoder vs. a pretrained one, over seeds, and the k-mer regression.

    python benchmarks/transfer.py GUE/prom/prom_300_tata GUE/mouse/3 --workdir runs/transfer --model runs/pretrain/model
    python benchmarks/transfer.py GUE/mouse/3 --workdir runs/scratch --tokenizer runs/tokenizer --size 1m --seeds 1

Each directory holds train.csv, dev.csv and test.csv. The random encoder has the sizes and the tokenizer of the pretrained
model. Every method trains on the same rows, and the dev table selects its epoch. Rerun the command to resume; completed runs
are read from disk. The score is Matthews correlation on the test table, printed as mean and standard deviation over seeds.
"""

import argparse
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dnabert2_jax.baselines.kmer import KmerBaseline
from dnabert2_jax.config.loading import load_run
from dnabert2_jax.config.runs import FinetuneRun
from dnabert2_jax.data.splits import load_splits
from dnabert2_jax.gue.tables import capped_rows, write_table
from dnabert2_jax.metrics.scores import classification_metrics
from dnabert2_jax.recipes.finetuning import finetune

SCRATCH, METHODS = "scratch", ("scratch", "probe", "lora", "full")
LORA_RATE = 3  # times the learning rate of full fine-tuning


def capped_tables(task: Path, workdir: Path, max_train_rows: int | None) -> dict[str, Path]:
    """The paths of a data set's tables; a training table with more rows is capped, and written to ``workdir``."""
    files = {split: task / f"{split}.csv" for split in ("train", "dev", "test")}
    train = load_splits(files["train"], files["dev"], files["test"]).train
    if max_train_rows is not None and max_train_rows < len(train):
        files["train"] = workdir / "train.csv"
        workdir.mkdir(parents=True, exist_ok=True)
        write_table(files["train"], train.take(capped_rows(train.labels, max_train_rows)))
    return files


def kmer_record(tables: dict[str, Path]) -> dict[str, Any]:
    """The sizes of a data set, and the k-mer regression's score on its test table."""
    splits = load_splits(tables["train"], tables["dev"], tables["test"])
    probabilities = KmerBaseline().fit(splits.train, splits.dev, splits.labels).predict_proba(splits.test)
    kmer = classification_metrics(splits.labels.encode(splits.test), probabilities, splits.labels.names)
    return {"train_rows": len(splits.train), "classes": len(splits.labels.names), "kmer_mcc": kmer["mcc"]}


def run_of(method: str, seed: int, tables: dict[str, Path], options: argparse.Namespace) -> FinetuneRun:
    """One fine-tuning run."""
    model: dict[str, Any] = {"remat": "full"}
    if method == SCRATCH:
        model |= {"size": options.size, "tokenizer": str(options.tokenizer or options.model)}
    else:
        model |= {"path": str(options.model)}
    rate = options.learning_rate * (LORA_RATE if method == "lora" else 1)
    training: dict[str, Any] = {"method": "full" if method == SCRATCH else method, "epochs": options.epochs}
    data = {split: str(path) for split, path in tables.items()}
    content = {"model": model, "data": data, "optimizer": {"learning_rate": rate}, "training": training}
    settings = [f"{name}.{key}={json.dumps(value)}" for name, section in content.items() for key, value in section.items()]
    return load_run(FinetuneRun, None, [f"seed={seed}", *settings, *options.set])


def scores(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One record per task."""
    for task in options.task:
        name = "/".join(task.parts[-2:])
        workdir = options.workdir / name.replace("/", "_")
        tables = capped_tables(task, workdir, options.max_train_rows)
        record = kmer_record(tables)
        for method in options.methods:
            seeds = range(1 if method == "probe" else options.seeds)  # a probe involves no randomness
            results = []
            for seed in seeds:
                directory = workdir / f"{method}_{seed}"
                if (done := directory / "scores.json").exists():
                    results.append(json.loads(done.read_text())["test"]["mcc"])
                else:
                    results.append(finetune(run_of(method, seed, tables, options), directory).test["mcc"])
            record[method] = results
        yield {"task": name, **record}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", nargs="+", type=Path)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="pretrained model directory (default: random weights only)")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer for random weights (default: the model's)")
    parser.add_argument("--size", default="3m", help="size of the random encoder: that of the model")
    parser.add_argument("--methods", nargs="+", choices=METHODS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--learning-rate", type=float, default=1e-3, help=f"LoRA uses {LORA_RATE} times this rate")
    parser.add_argument("--max-train-rows", type=int)
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override one key of every run")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.model is None and options.tokenizer is None:
        parser.error("give --model, or --tokenizer for random weights only")
    options.methods = options.methods or list(METHODS if options.model else METHODS[:1])
    if options.model is None and options.methods != [SCRATCH]:
        parser.error(f"--methods {' '.join(options.methods)} need --model")

    records = list(scores(options))
    table = Table("task", "train rows", "classes", "1-5-mers", *options.methods)
    for record in records:
        cells = [_cell(record[method]) for method in options.methods]
        facts = f"{record['train_rows']:,}", str(record["classes"]), f"{record['kmer_mcc']:.3f}"
        table.add_row(record["task"], *facts, *cells)
    Console(width=120).print(table)
    if options.json:
        options.json.write_text(json.dumps(records, indent=2) + "\n")
        print(f"saved {options.json}")


def _cell(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


if __name__ == "__main__":
    main()
