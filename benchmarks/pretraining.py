"""Masked-language-model loss of a small encoder vs. the unigram entropy of its tokens.

A model that knows only how often each piece occurs has the unigram entropy as its loss; anything below that was learned
from context.

    python benchmarks/pretraining.py --workdir runs/curve --steps 600 genomes/*.fa.gz
"""

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from dnabert2_jax.config.loading import parse_run
from dnabert2_jax.config.runs import PretrainRun
from dnabert2_jax.config.sections import MaskingConfig
from dnabert2_jax.data.pretraining import PretrainingRows, unigram_entropy
from dnabert2_jax.genome.build import SpeciesSource, build_corpus
from dnabert2_jax.genome.corpus import Corpus
from dnabert2_jax.recipes.pretraining import pretrain
from dnabert2_jax.tokenizer.loading import Tokenizer
from dnabert2_jax.tokenizer.training import SENTENCE_BASES, sample_corpus, train_bpe
from dnabert2_jax.training.workdir import MetricsLog


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fasta", nargs="+", type=Path, help="one file per species")
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--size", default="3m")
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=128, help="tokens per row")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    corpus_path, tokenizer_path = options.workdir / "corpus", options.workdir / "tokenizer"
    if not corpus_path.exists():
        options.workdir.mkdir(parents=True, exist_ok=True)
        build_corpus([SpeciesSource(file.name.split(".")[0], [file]) for file in options.fasta], corpus_path)
    corpus = Corpus.open(corpus_path)
    if not tokenizer_path.exists():
        sample = sample_corpus(corpus, sample_bases=20_000_000, window_bases=SENTENCE_BASES, seed=0)
        train_bpe(sample, vocab_size=options.vocab_size).save(tokenizer_path)
    tokenizer = Tokenizer.load(tokenizer_path)
    run = parse_run(
        PretrainRun,
        {
            "model": {"size": options.size, "tokenizer": str(tokenizer_path), "remat": "full"},
            "data": {"corpus": str(corpus_path), "tokens_per_row": options.tokens},
            "optimizer": {
                "learning_rate": options.learning_rate,
                "warmup_steps": options.steps // 10,
                "weight_decay": 0.01,
            },
            "training": {
                "steps": options.steps,
                "batch_size": options.batch_size,
                "evaluate_every": max(1, options.steps // 10),
                "save_every": max(1, options.steps // 5),
                "log_every": max(1, options.steps // 40),
            },
        },
        "benchmark",
    )
    began = time.monotonic()
    model = pretrain(run, options.workdir / "run")
    seconds = time.monotonic() - began

    rows = PretrainingRows(corpus, tokenizer, tokens_per_row=options.tokens, masking=MaskingConfig(), seed=0)
    entropy = unigram_entropy(rows, tokenizer.vocab_size)
    lines = MetricsLog.read(options.workdir / "run")
    curve = [
        {"step": line["step"], "loss": line["validation_loss"], "masked_accuracy": line["validation_masked_accuracy"]}
        for line in lines
        if "validation_loss" in line
    ]
    speed = float(np.median([line["tokens_per_second"] for line in lines if "tokens_per_second" in line]))
    table = Table("step", "tokens seen", "held-out loss", "below unigram entropy", "masked accuracy")
    for point in curve:
        tokens = point["step"] * options.batch_size * options.tokens
        gap = f"{entropy - point['loss']:+.3f}"
        table.add_row(f"{point['step']:,}", f"{tokens:,}", f"{point['loss']:.3f}", gap, f"{point['masked_accuracy']:.3f}")
    print(
        f"unigram entropy of the tokens: {entropy:.3f} nats; uniform over the vocabulary: {np.log(tokenizer.vocab_size):.3f}"
    )
    Console(width=100).print(table)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{seconds:.0f} s; {speed:,.0f} real tokens/s (median); peak memory {memory:,.0f} MB")
    if options.json:
        result = {
            "unigram_entropy": entropy,
            "curve": curve,
            "seconds": seconds,
            "tokens_per_second": speed,
            "peak_memory_mb": memory,
            "final": model.provenance["metrics"],
        }
        options.json.write_text(json.dumps(result, indent=2) + "\n")
        print(f"saved {options.json}")


if __name__ == "__main__":
    main()
