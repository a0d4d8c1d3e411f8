"""Resident memory of a long command while it runs, is stopped with SIGTERM, and resumes: is the curve flat?

    python benchmarks/memory_curve.py embed --genomes genomes/*.fa.gz [--reads 1000000] [--seconds 600] [--again 120]
    python benchmarks/memory_curve.py predict --model runs/finetune/model --genomes genomes/*.fa.gz
    python benchmarks/memory_curve.py track --contig CONTIG.fa.gz

`embed` and `predict` read FASTA of 150-base pieces of the genomes, drawn at random, and write parquet; `track` reads a
contig and writes bedGraph. The command is stopped after --seconds, unless it has ended, started again, and watched for
--again seconds from the moment when it resumes (`track` starts over). Printed are the largest resident set size in each
minute, and where the second process began.
"""

import argparse
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dnabert2_jax.genome.fasta import read_fasta

READ = 150
EVERY = 2.0


def write_reads(path: Path, genomes: Sequence[Path], count: int) -> Path:
    """A FASTA file of pieces of some genomes, nearly as many of each."""
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        for number, genome in enumerate(genomes):
            letters = b"N".join(record.sequence for record in read_fasta(genome)).upper()
            wanted = count * (number + 1) // len(genomes) - count * number // len(genomes)
            while wanted:
                at = int(rng.integers(0, len(letters) - READ))
                read = letters[at : at + READ]
                if not set(read) - set(b"ACGT"):
                    file.write(b">%s_%d\n%s\n" % (genome.name.partition(".")[0].encode(), wanted, read))
                    wanted -= 1
    return path


def resident(process: int) -> float:
    """Resident memory of a process, GB."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    return int(found[1]) * 1024 / 1e9 if found else 0.0


def watch(command: Sequence[object], seconds: float, log: Path, *, resumes: bool = False) -> tuple[list[float], bool]:
    """Run a command for a while, or so long after it resumes: its memory every EVERY seconds, and whether it ended."""
    sizes: list[float] = []
    with log.open("w") as errors:
        words = [sys.executable, "-m", "dnabert2_jax", *map(str, command)]
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=errors)
        began = time.monotonic()
        while process.poll() is None and time.monotonic() - began < seconds:
            sizes.append(resident(process.pid))
            time.sleep(EVERY)
            if resumes and "resuming" not in log.read_text():
                began = time.monotonic()
        ended = process.poll() is not None
        process.send_signal(signal.SIGTERM)
        process.wait()
    if ended and process.returncode:
        raise SystemExit(log.read_text())
    return sizes, ended


def report(what: str, sizes: Sequence[float], ended: bool, log: Path) -> None:
    """Print the curve, and what the command said about where it began."""
    a_minute = round(60 / EVERY)
    minutes = [max(sizes[at : at + a_minute]) for at in range(0, len(sizes), a_minute)]
    print(f"{what}: {len(sizes) * EVERY:.0f} s, {'ended' if ended else 'stopped'}; peak {max(sizes):.2f} GB")
    print(f"  GB in each minute: {' '.join(f'{size:.2f}' for size in minutes)}")
    for line in log.read_text().splitlines():
        if "resuming" in line:
            print(f"  {line.strip()}")
    print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("embed", "predict", "track"))
    parser.add_argument("--model", default="small")
    parser.add_argument("--genomes", type=Path, nargs="+")
    parser.add_argument("--contig", type=Path)
    parser.add_argument("--reads", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--again", type=float, default=120)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if options.command == "track":
            given = ["--fasta", options.contig, "--format", "bedgraph", "--out", folder / "tracks"]
        else:
            reads = write_reads(folder / "reads.fa", options.genomes, options.reads)
            given = ["--data", reads, "--out", folder / "out.parquet"]
        command = [options.command, "--model", options.model, *given]
        sizes, ended = watch(command, options.seconds, folder / "log")
        report(f"{options.command}, first process", sizes, ended, folder / "log")
        if not ended:
            resumes = options.command != "track"
            sizes, ended = watch(command, options.again, folder / "log", resumes=resumes)
            report(f"{options.command}, the same command again", sizes, ended, folder / "log")


if __name__ == "__main__":
    main()
