"""Speed of scoring substitutions, in alleles/s and in real tokens/s beside those of embedding the same windows.

    python benchmarks/variants.py --model DIR [--fasta FASTA] [--alleles 512] [--repeats 3]

Substitutions are drawn at random from the FASTA file, or from the package's sample data. Each of `llr`, `emb` and both runs
over all of them, and `embed` over the windows of REF; the first round compiles, then they alternate, and the best round is
reported. "of CPU" counts the time of all threads, the model's included.
"""

import argparse
import gzip
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from dnabert2_jax import sample_data
from dnabert2_jax.data.batches import Batches
from dnabert2_jax.data.sequences import given_sequences
from dnabert2_jax.genome.reference import Reference
from dnabert2_jax.inference.embedding import embed
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.modeling.compute import resolve_compute
from dnabert2_jax.variants.alleles import Allele
from dnabert2_jax.variants.scoring import ScoringOptions, VariantScorer
from dnabert2_jax.variants.spans import Ids

FLANK = 256


class CountingScorer(VariantScorer):
    """Counts the tokens that the model reads."""

    tokens = 0

    def _batches(self, inputs: list[Ids]) -> Batches:
        self.tokens += sum(map(len, inputs))
        return super()._batches(inputs)


def substitutions(reference: Reference, count: int) -> list[Allele]:
    """Sites with known bases all around, drawn at random from the longest contig."""
    rng = np.random.default_rng(0)
    contig = max(reference.lengths, key=reference.lengths.__getitem__)
    alleles: list[Allele] = []
    while len(alleles) < count:
        position = int(rng.integers(FLANK, reference.lengths[contig] - FLANK))
        window = reference.fetch(contig, position - FLANK, position + FLANK + 1).upper()
        if set(window) <= set("ACGT"):
            ref = window[FLANK]
            alleles.append(Allele(contig, position, ref, "ACGT"[("ACGT".index(ref) + rng.integers(1, 4)) % 4]))
    return alleles


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--fasta", type=Path)
    parser.add_argument("--alleles", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    model = InferenceModel.load(options.model, resolve_compute("auto"))
    with tempfile.TemporaryDirectory() as folder:
        fasta = options.fasta
        if fasta is None:
            fasta = Path(folder) / "sample.fa"
            with gzip.open(next(iter(sample_data.fasta_files().values()))) as packed, fasta.open("wb") as plain:
                shutil.copyfileobj(packed, plain)
        with Reference(fasta) as reference:
            print_rates(model, reference, substitutions(reference, options.alleles), options.repeats)


def print_rates(model: InferenceModel, reference: Reference, alleles: list[Allele], repeats: int) -> None:
    scorers = {
        ",".join(scores): CountingScorer(model, reference, ScoringOptions(scores, FLANK))
        for scores in (("llr",), ("emb",), ("llr", "emb"))
    }
    windows = given_sequences(
        [reference.fetch(one.contig or "", one.position - FLANK, one.position + FLANK + 1) for one in alleles]
    )
    best: dict[str, tuple[float, float, int]] = {}
    for turn in range(repeats + 1):
        for name in (*scorers, "embed"):
            began, cpu = time.perf_counter(), time.process_time()
            if name == "embed":
                embed(model, windows)
                tokens = sum(len(ids) + 2 for ids in model.tokenizer.encode_raw_batch(windows.sequences))
            else:
                scorers[name].tokens = 0
                step = scorers[name].alleles_at_once
                for at in range(0, len(alleles), step):
                    scorers[name].score(alleles[at : at + step])
                tokens = scorers[name].tokens
            result = (time.perf_counter() - began, time.process_time() - cpu, tokens)
            if turn and (name not in best or result < best[name]):
                best[name] = result
    table = Table("", "alleles/s", "alleles/s of CPU", "tokens/s", "of embed's")
    rate = best["embed"][2] / best["embed"][0]
    for name, (seconds, cpu, tokens) in best.items():
        speed = [f"{len(alleles) / seconds:,.0f}", f"{len(alleles) / cpu:,.0f}", f"{tokens / seconds:,.0f}"]
        table.add_row(name, *speed, f"{tokens / seconds / rate:.2f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
