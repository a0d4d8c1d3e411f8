"""Speed of scoring substitutions, in alleles/s and in real tokens/s beside those of embedding the same windows.

    python benchmarks/variants.py [--model DIR] [--fasta FASTA] [--alleles 512] [--repeats 3]

Substitutions are drawn at random from the FASTA file, or from the package's sample data. Each of `llr`, `emb` and both runs
over all of them, and `embed` over the windows of REF; the first round compiles, then they alternate, and the best rounds are
reported. "of CPU" counts the time of all threads, the model's included. "Host side" is everything but the model: windows,
tokens, and the sum over segmentations, with numbers from a generator in place of the model's.

Without --model, one of size 1m with random weights and pieces of the sample data is used.
"""

import argparse
import gzip
import shutil
import tempfile
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from dnabert2_jax import sample_data
from dnabert2_jax.artifacts.model import SavedModel
from dnabert2_jax.config.model import named_size
from dnabert2_jax.data.batches import Batches
from dnabert2_jax.data.sequences import given_sequences
from dnabert2_jax.genome.fasta import read_fasta
from dnabert2_jax.genome.reference import Reference
from dnabert2_jax.inference.embedding import embed
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.modeling.compute import resolve_compute
from dnabert2_jax.modeling.models import masked_lm
from dnabert2_jax.tokenizer.special import MASK
from dnabert2_jax.tokenizer.training import train_bpe
from dnabert2_jax.variants.alleles import Allele
from dnabert2_jax.variants.scoring import ScoringOptions, VariantScorer
from dnabert2_jax.variants.spans import Ids

FLANK = 256
MOST_SLOTS = 1024


class CountingScorer(VariantScorer):
    """Counts the tokens that the model reads."""

    tokens = 0

    def _batches(self, inputs: list[Ids]) -> Batches:
        self.tokens += sum(map(len, inputs))
        return super()._batches(inputs)


class HostSide(VariantScorer):
    """Everything except the model."""

    @cached_property
    def _log_p(self) -> NDArray[np.float32]:
        size = self._model.tokenizer.vocab_size
        return np.log(np.random.default_rng(0).dirichlet(np.ones(size), MOST_SLOTS)).astype(np.float32)

    @cached_property
    def _states(self) -> NDArray[np.float64]:
        strands_and_alleles = 4
        return np.random.default_rng(0).normal(
            size=(strands_and_alleles * self.alleles_at_once, self._model.config.hidden_size)
        )

    def _masked_groups(self, inputs: list[Ids]) -> Iterator[tuple[NDArray[np.int32], NDArray[np.float32]]]:
        for _ in self._batches(inputs):
            pass
        starts = np.cumsum([0, *map(len, inputs[:-1])])
        masks = np.add.reduceat(np.concatenate(inputs) == MASK, starts, dtype=int)
        for count in np.unique(masks).tolist():
            numbers = np.flatnonzero(masks == count).astype(np.int32)
            rows = min(64, MOST_SLOTS // count)
            for at in range(0, len(numbers), rows):
                group = numbers[at : at + rows]
                yield group, self._log_p[: len(group) * count].reshape(len(group), count, -1)

    def _weighted_means(self, inputs: list[Ids], weights: list[NDArray[np.float32]]) -> NDArray[np.float64]:
        for _ in self._batches(inputs):
            pass
        return self._states[: len(inputs)]


def random_model(fasta: Path) -> InferenceModel:
    """A masked language model of size 1m with random weights."""
    sequences = [record.sequence.decode().upper() for record in read_fasta(fasta)]
    tokenizer = train_bpe(sequences, vocab_size=1024)
    config = named_size("1m", tokenizer.vocab_size)
    model = SavedModel(kind="masked_lm", config=config, params=masked_lm(config).init(0), tokenizer=tokenizer, provenance={})
    return InferenceModel.of_saved(Path("1m, random weights"), model, resolve_compute("auto"))


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
    parser.add_argument("--model", type=Path)
    parser.add_argument("--fasta", type=Path)
    parser.add_argument("--alleles", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        fasta = options.fasta
        if fasta is None:
            fasta = Path(folder) / "sample.fa"
            with gzip.open(next(iter(sample_data.fasta_files().values()))) as packed, fasta.open("wb") as plain:
                shutil.copyfileobj(packed, plain)
        model = InferenceModel.load(options.model, resolve_compute("auto")) if options.model else random_model(fasta)
        with Reference(fasta) as reference:
            print_rates(model, reference, substitutions(reference, options.alleles), options.repeats)


def print_rates(model: InferenceModel, reference: Reference, alleles: list[Allele], repeats: int) -> None:
    scorers: dict[str, VariantScorer] = {
        ",".join(scores): CountingScorer(model, reference, ScoringOptions(scores, FLANK))
        for scores in (("llr",), ("emb",), ("llr", "emb"))
    }
    for scores in (("llr",), ("llr", "emb")):
        scorers[f"host side of {','.join(scores)}"] = HostSide(model, reference, ScoringOptions(scores, FLANK))
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
                scorer = scorers[name]
                if isinstance(scorer, CountingScorer):
                    scorer.tokens = 0
                for at in range(0, len(alleles), scorer.alleles_at_once):
                    scorer.score(alleles[at : at + scorer.alleles_at_once])
                tokens = scorer.tokens if isinstance(scorer, CountingScorer) else 0
            result = (time.perf_counter() - began, time.process_time() - cpu)
            if turn:
                seconds, cpu = map(min, result, best.get(name, result))
                best[name] = (seconds, cpu, tokens)
    table = Table("", "alleles/s", "alleles/s of CPU", "tokens/s", "of embed's")
    rate = best["embed"][2] / best["embed"][0]
    for name, (seconds, cpu, tokens) in best.items():
        of_tokens = [f"{tokens / seconds:,.0f}", f"{tokens / seconds / rate:.2f}"] if tokens else ["", ""]
        table.add_row(name, f"{len(alleles) / seconds:,.0f}", f"{len(alleles) / cpu:,.0f}", *of_tokens)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
