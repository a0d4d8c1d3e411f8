"""Speed of raw BPE encoding in Mbp/s, on real windows: what feeds pretraining.

    python benchmarks/tokenizer.py [FASTA ...] [--tokenizer DIR] [--json FILE]

Without FASTA files it reads the package's sample data; without a tokenizer it trains one of 4096 pieces on what it reads.
"threads" is Tokenizer.encode_raw_batch(num_threads=...); "Python threads" calls it from that many threads at once, as data
workers do, which helps only because SentencePiece releases the GIL.
"""

import argparse
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dnaio
import numpy as np
from rich.console import Console
from rich.table import Table

from dnabert2_jax import sample_data
from dnabert2_jax.tokenizer.bpe import Tokenizer
from dnabert2_jax.tokenizer.letters import clean_letters
from dnabert2_jax.tokenizer.training import train_bpe


def read_fasta(paths: list[Path]) -> list[str]:
    sequences = []
    for path in paths:
        with dnaio.open(path) as reader:
            for record in reader:
                letters, _ = clean_letters(record.sequence, source=str(path), record=record.name)
                sequences.append(letters.tobytes().decode("ascii"))
    return sequences


def draw_windows(sequences: list[str], window_bases: int, total_bases: int) -> list[str]:
    rng = np.random.default_rng(0)
    usable = [sequence for sequence in sequences if len(sequence) > window_bases]
    starts = np.array([len(sequence) - window_bases for sequence in usable])
    contigs = rng.choice(len(usable), total_bases // window_bases, p=starts / starts.sum())
    return [usable[contig][(at := rng.integers(starts[contig])) : at + window_bases] for contig in contigs]


def seconds(run: Callable[[], object], repeats: int) -> float:
    """The best wall time of ``run``: what the code can do, whatever else the machine is busy with."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fasta", nargs="*", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--window-bases", type=int, nargs="+", default=[150, 650, 10_000])
    parser.add_argument("--megabases", type=float, default=4.0, help="how much to encode in each measurement")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    sequences = read_fasta(args.fasta or list(sample_data.fasta_files().values()))
    start = time.perf_counter()
    tokenizer = Tokenizer.load(args.tokenizer) if args.tokenizer else train_bpe(draw_windows(sequences, 1000, 4_000_000))
    console = Console()
    console.print(f"tokenizer of {tokenizer.vocab_size} pieces ready after {time.perf_counter() - start:.1f} s")

    table = Table("window, bases", "bases/token", "how", "Mbp/s", "M tokens/s")
    results = []
    for window_bases in args.window_bases:
        windows = draw_windows(sequences, window_bases, int(args.megabases * 1e6))
        halves = [windows[::2], windows[1::2]]
        bases = sum(map(len, windows))
        tokens = sum(map(len, tokenizer.encode_raw_batch(windows)))
        with ThreadPoolExecutor(2) as pool:
            ways = {
                "1 thread": lambda rows=windows: tokenizer.encode_raw_batch(rows),
                "2 threads": lambda rows=windows: tokenizer.encode_raw_batch(rows, num_threads=2),
                "2 Python threads": lambda rows=halves, pool=pool: list(pool.map(tokenizer.encode_raw_batch, rows)),
            }
            for how, run in ways.items():
                speed = bases / seconds(run, args.repeats) / 1e6
                row = {"window_bases": window_bases, "bases_per_token": bases / tokens, "how": how, "mbp_per_s": speed}
                results.append(row)
                table.add_row(
                    str(window_bases), f"{bases / tokens:.2f}", how, f"{speed:.2f}", f"{speed * tokens / bases:.2f}"
                )
    console.print(table)
    if args.json:
        args.json.write_text(json.dumps({"tokenizer": tokenizer.sha256, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
