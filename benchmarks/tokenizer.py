"""Speed of raw encoding, which feeds pretraining, in Mbp/s on real windows; and a comparison of ids with `tokenizers`.

    python benchmarks/tokenizer.py [FASTA ...] [--tokenizer PATH] [--offsets BASES ...] [--json FILE]

Without FASTA files it reads the package's sample data; without a tokenizer it trains one of 4096 pieces on its input.
"threads" is Tokenizer.encode_raw_batch(num_threads=...); "Python threads" calls it from that many threads at once, as data
workers do, which helps only because encoding releases the GIL. "encode_batch" is what users call: it checks letters, adds
special tokens, and uses the cores by default. All ways take turns, so that a busy machine slows them alike.

If Hugging Face `tokenizers` is installed, the tokenizer is exported, and `tokenizers` encodes the same windows with
`encode_batch` and with `encode_batch_fast`, which does not track offsets. With --offsets, both encode every sequence in
full, exactly as in the file with lower case and N, cut into windows starting at each of the offsets, and windows with equal
ids are counted.
"""

import argparse
import json
import math
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import dnaio
import numpy as np
from rich.console import Console
from rich.table import Table

from dnabert2_jax import sample_data
from dnabert2_jax.genome.letters import clean_letters
from dnabert2_jax.tokenizer.bpe import BpeTokenizer
from dnabert2_jax.tokenizer.loading import Tokenizer
from dnabert2_jax.tokenizer.training import train_bpe


def read_fasta(paths: list[Path]) -> list[str]:
    sequences = []
    for path in paths:
        with dnaio.open(path) as reader:
            sequences += [record.sequence for record in reader]
    return sequences


def cleaned(sequences: list[str]) -> list[str]:
    letters = (clean_letters(sequence, source="benchmark", record="sequence")[0] for sequence in sequences)
    return [codes.tobytes().decode("ascii") for codes in letters]


def draw_windows(sequences: list[str], window_bases: int, total_bases: int) -> list[str]:
    rng = np.random.default_rng(0)
    usable = [sequence for sequence in sequences if len(sequence) > window_bases]
    starts = np.array([len(sequence) - window_bases for sequence in usable])
    contigs = rng.choice(len(usable), total_bases // window_bases, p=starts / starts.sum())
    return [usable[contig][(at := rng.integers(starts[contig])) : at + window_bases] for contig in contigs]


def cut(sequence: str, window_bases: int, offset: int) -> list[str]:
    return [sequence[at : at + window_bases] for at in range(offset, len(sequence), window_bases)]


def hugging_face(tokenizer: Tokenizer) -> Any | None:
    """The tokenizer as loaded by `tokenizers`; None if that is not installed or does not support it."""
    try:
        import tokenizers
    except ImportError:
        return None
    if not isinstance(tokenizer, BpeTokenizer):
        return None
    with tempfile.TemporaryDirectory() as folder:
        return tokenizers.Tokenizer.from_file(str(tokenizer.save_hugging_face(folder)))


def their_ids(theirs: Any, windows: list[str], threads: int, call: str = "encode_batch_fast") -> list[list[int]]:
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
    return [encoding.ids for encoding in getattr(theirs, call)(windows, add_special_tokens=False)]


def agreement(tokenizer: Tokenizer, theirs: Any, sequences: list[str], window_bases: int, offset: int) -> dict[str, int]:
    """Number of windows, their bases, and how many windows get the same ids from both."""
    count = {"window_bases": window_bases, "offset": offset, "windows": 0, "bases": 0, "equal": 0}
    for sequence in sequences:
        windows = cut(sequence, window_bases, offset)
        ours = tokenizer.encode_raw_batch(windows, num_threads=2)
        count["windows"] += len(windows)
        count["bases"] += sum(map(len, windows))
        count["equal"] += sum(a.tolist() == b for a, b in zip(ours, their_ids(theirs, windows, 2), strict=True))
    return count


def in_turns(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, tuple[float, float]]:
    """The best wall time and the best total CPU time of each way in seconds, to be robust on a busy machine."""
    best = dict.fromkeys(ways, (math.inf, math.inf))
    for _ in range(repeats):
        for how, run in ways.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            run()
            wall, cpu = time.perf_counter() - start, time.process_time() - cpu_start
            best[how] = (min(best[how][0], wall), min(best[how][1], cpu))
    return best


def in_threads(pool: ThreadPoolExecutor, encode: Callable[[list[str]], object], parts: list[list[str]]) -> list[object]:
    return list(pool.map(encode, parts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fasta", nargs="*", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--window-bases", type=int, nargs="+", default=[150, 650, 10_000])
    parser.add_argument("--megabases", type=float, default=4.0, help="amount to encode per measurement")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--offsets", type=int, nargs="+", default=[], help="compare ids of all windows from these offsets")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    os.environ["RAYON_NUM_THREADS"] = "2"  # for `tokenizers`, which reads it once
    raw_sequences = read_fasta(args.fasta or list(sample_data.fasta_files().values()))
    sequences = cleaned(raw_sequences)
    start = time.perf_counter()
    tokenizer = Tokenizer.load(args.tokenizer) if args.tokenizer else train_bpe(draw_windows(sequences, 1000, 4_000_000))
    console = Console(width=120)
    console.print(f"tokenizer of {tokenizer.vocab_size} pieces ready after {time.perf_counter() - start:.1f} s")

    theirs = hugging_face(tokenizer)
    table = Table("window, bases", "bases/token", "how", "Mbp/s", "M tokens/s", "Mbp/s a core")
    results = []
    for window_bases in args.window_bases:
        windows = draw_windows(sequences, window_bases, int(args.megabases * 1e6))
        halves = [windows[::2], windows[1::2]]
        bases = sum(map(len, windows))
        tokens = sum(map(len, tokenizer.encode_raw_batch(windows)))
        with ThreadPoolExecutor(2) as pool:
            ways: dict[str, Callable[[], object]] = {
                "1 thread": partial(tokenizer.encode_raw_batch, windows),
                "2 threads": partial(tokenizer.encode_raw_batch, windows, num_threads=2),
                "encode_batch": partial(tokenizer.encode_batch, windows),
                "encode_batch, 1 thread": partial(tokenizer.encode_batch, windows, num_threads=1),
                "2 Python threads": partial(in_threads, pool, tokenizer.encode_raw_batch, halves),
            }
            if theirs is not None:
                ways |= {
                    f"tokenizers.{call}, {threads}": partial(their_ids, theirs, windows, threads, call)
                    for call in ("encode_batch", "encode_batch_fast")
                    for threads in (1, 2)
                }
            for how, taken in in_turns(ways, args.repeats).items():
                speed, of_a_core = (bases / seconds / 1e6 for seconds in taken)
                row = {"window_bases": window_bases, "bases_per_token": bases / tokens, "how": how, "mbp_per_s": speed}
                results.append(row | {"mbp_per_s_a_core": of_a_core})
                numbers = (bases / tokens, speed, speed * tokens / bases, of_a_core)
                cells = [f"{number:.2f}" for number in numbers]
                table.add_row(str(window_bases), cells[0], how, *cells[1:])
    console.print(table)
    compared = []
    if args.offsets and theirs is None:
        console.print("ids not compared: this needs a byte-pair tokenizer and an installed `tokenizers`")
    for window_bases in args.window_bases if theirs is not None else ():
        for offset in args.offsets:
            count = agreement(tokenizer, theirs, raw_sequences, window_bases, offset)
            compared.append(count)
            console.print(
                f"windows of {window_bases:,} bases from base {offset:,} on: {count['equal']:,} of {count['windows']:,} "
                f"windows ({count['bases']:,} bases) get the same ids from `tokenizers`"
            )
    if args.json:
        content = {"tokenizer": tokenizer.sha256, "results": results, "agreement": compared}
        args.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
