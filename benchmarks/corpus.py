"""Corpus building and window reading: Mb/s, peak memory and windows/s.

    python benchmarks/corpus.py GENOME.fa.gz ... [--window 600] [--json FILE]

Without files, the package's sample data is used (0.7 Mb: too little to measure speed, enough to see it run).
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from dnabert2_jax import sample_data
from dnabert2_jax.genome import SpeciesSource, Windows, build_corpus

BATCH = 1024


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(files: list[Path], window: int, directory: Path) -> dict[str, float]:
    imports_mb = peak_mb()
    start = time.perf_counter()
    corpus = build_corpus([SpeciesSource(f"{i} {file.name}", [file]) for i, file in enumerate(files)], directory / "corpus")
    build_s = time.perf_counter() - start
    build_mb = peak_mb()
    megabases = sum(species.bases for species in corpus.species) / 1e6

    start = time.perf_counter()
    windows = Windows(corpus, window, seed=0)
    open_s = time.perf_counter() - start
    rng = np.random.default_rng(0)
    batches, read_s = 0, 0.0
    while read_s < 3:  # scattered indices, as many hosts would request them
        indices = rng.integers(0, 10**9, BATCH)
        start = time.perf_counter()
        windows.batch(indices)
        read_s += time.perf_counter() - start
        batches += 1
    return {
        "megabases": megabases,
        "build_s": build_s,
        "build_mb_per_s": megabases / build_s,
        "peak_mb_imports": imports_mb,
        "peak_mb_build": build_mb,
        "corpus_bytes": sum(file.stat().st_size for file in corpus.path.iterdir()),
        "window_bases": window,
        "windows_open_s": open_s,
        "windows_per_s": BATCH * batches / read_s,
        "epoch_windows": windows.epoch_size,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--window", type=int, default=600)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        result = measure(args.files or list(sample_data.fasta_files().values()), args.window, Path(directory))
    for name, value in result.items():
        print(f"{name:>16}  {value:,.3f}" if isinstance(value, float) else f"{name:>16}  {value:,}")
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
