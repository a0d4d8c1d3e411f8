"""A small encoder from random weights beside the k-mer regression, on any tables: the floor that pretraining has to beat.

    python benchmarks/from_scratch.py --workdir runs/scratch --tokenizer runs/tokenizer GUE/prom/prom_300_tata GUE/mouse/3

Each directory holds train.csv, dev.csv and test.csv.
"""

import argparse
import json
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dnabert2_jax.data.tables import load_splits
from dnabert2_jax.evaluation.kmer_baseline import KmerBaseline
from dnabert2_jax.evaluation.metrics import classification_metrics
from dnabert2_jax.runs import FinetuneRun, parse_run
from dnabert2_jax.training.finetuning import finetune


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", nargs="+", type=Path)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--size", default="1m")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    results = []
    for task in options.task:
        files = [task / f"{split}.csv" for split in ("train", "dev", "test")]
        began = time.monotonic()
        splits = load_splits(*files)
        baseline = KmerBaseline().fit(splits.train, splits.dev, splits.labels)
        probabilities = baseline.predict_proba(splits.test)
        kmer = classification_metrics(splits.labels.encode(splits.test), probabilities, splits.labels.names)
        kmer_seconds = time.monotonic() - began
        content = {
            "model": {"size": options.size, "tokenizer": str(options.tokenizer), "remat": "full"},
            "data": dict(zip(("train", "dev", "test"), map(str, files), strict=True)),
            "optimizer": {"learning_rate": options.learning_rate},
            "training": {"epochs": options.epochs},
        }
        name = "/".join(task.parts[-2:])
        result = finetune(parse_run(FinetuneRun, content, "benchmark"), options.workdir / name.replace("/", "_"))
        results.append(
            {
                "task": name,
                "train_rows": len(splits.train),
                "kmer_mcc": kmer["mcc"],
                "kmer_seconds": kmer_seconds,
                "scratch_mcc": result.test["mcc"],
                "scratch_seconds": result.seconds,
            }
        )
    table = Table("task", "train rows", "k-mer MCC", "seconds", "encoder from scratch MCC", "seconds")
    for row in results:
        kmer, scratch = (f"{row[key]:.3f}" for key in ("kmer_mcc", "scratch_mcc"))
        seconds = [f"{row[key]:.0f}" for key in ("kmer_seconds", "scratch_seconds")]
        table.add_row(row["task"], f"{row['train_rows']:,}", kmer, seconds[0], scratch, seconds[1])
    Console(width=100).print(table)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
        print(f"saved {options.json}")


if __name__ == "__main__":
    main()
