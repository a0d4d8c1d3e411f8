"""Peak memory of commands on inputs of growing size, to show that it does not grow with them.

    python benchmarks/memory.py [--reads 10000 100000] [--fasta CONTIG.fa.gz]

Reads of 150 bases (random DNA) go through `predict` to CSV and `embed` to parquet; with --fasta, that file goes through
`track`, a classifier in bins of 512 bases. The models are tiny and untrained: what is measured is the host side. Every line
is a process of its own; its peak is the maximum resident set size that the kernel reports.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from dnabert2_jax.artifacts.model import SavedModel, save_model
from dnabert2_jax.artifacts.provenance import make_provenance
from dnabert2_jax.modeling.models import sequence_classifier
from dnabert2_jax.tokenizer.training import train_bpe
from tests.genome.helpers import random_dna
from tests.helpers import tiny_config

READ = 150


def write_reads(path: Path, count: int) -> Path:
    """A FASTQ file of random reads."""
    rng = np.random.default_rng(0)
    letters = np.frombuffer(b"ACGT", np.uint8)
    qualities = "I" * READ
    with path.open("w") as file:
        for first in range(0, count, 10_000):
            block = letters[rng.integers(0, 4, (min(10_000, count - first), READ))]
            file.writelines(f"@read{first + n}\n{row.tobytes().decode()}\n+\n{qualities}\n" for n, row in enumerate(block))
    return path


def write_model(path: Path) -> Path:
    """A tiny classifier with random weights."""
    config = tiny_config(vocab_size=1024, num_hidden_layers=1)
    model = SavedModel(
        kind="classifier",
        config=config,
        params=sequence_classifier(config, 2).init(0),
        tokenizer=train_bpe([random_dna(200_000, 0)], vocab_size=1024),
        labels=("no", "yes"),
        provenance=make_provenance(["benchmark"], run_config={}, parents={}, metrics={}),
    )
    save_model(path, model)
    return path


def measure(*words: object) -> tuple[float, float]:
    """Seconds and peak memory (GB) of a command."""
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "dnabert2_jax", *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        errors = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(errors.decode())
    return time.perf_counter() - began, usage.ru_maxrss * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reads", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--fasta", type=Path)
    options = parser.parse_args()
    table = Table("command", "input", "seconds", "peak, GB")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = write_model(folder / "model")
        for count in options.reads:
            reads = write_reads(folder / f"{count}.fq", count)
            for command, suffix in (("predict", "csv"), ("embed", "parquet")):
                out = folder / f"out.{suffix}"
                seconds, peak = measure(command, "--model", model, "--data", reads, "--out", out, "--force")
                table.add_row(f"{command} to .{suffix}", f"{count:,} reads", f"{seconds:,.0f}", f"{peak:.2f}")
        if options.fasta:
            words = ("track", "--model", model, "--fasta", options.fasta, "--out", folder / "tracks", "--step", 512)
            seconds, peak = measure(*words, "--format", "bedgraph")
            table.add_row("track", options.fasta.name, f"{seconds:,.0f}", f"{peak:.2f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
