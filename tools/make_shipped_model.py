"""Puts the model of a pretraining run into the package, with a card of what made it and what it is worth (model_card.md).

    python tools/make_shipped_model.py small --run runs/small --corpus runs/corpus --bits bits.json --transfer transfer.json
    python tools/make_shipped_model.py small_5mer --run runs/small_5mer --corpus runs/corpus --transfer transfer.json

``--bits`` is the record of benchmarks/bits_per_base.py, which is defined for tokens that do not overlap; ``--transfer`` are
those of benchmarks/transfer.py. Paths of this machine are left out of the model's provenance; the hashes of corpus and
tokenizer stay.
"""

import argparse
import json
import shutil
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from dnabert2_jax.artifacts.model import SavedModel, load_model, save_model
from dnabert2_jax.artifacts.tensors import tree_sha256
from dnabert2_jax.genome.corpus import Corpus
from dnabert2_jax.modeling.models import count_parameters
from dnabert2_jax.tokenizer.kmer import KmerTokenizer
from dnabert2_jax.training.workdir import MetricsLog

METHODS = ("scratch", "probe", "lora", "full")
MODELS = Path(__file__).parents[1] / "dnabert2_jax" / "models"
CARD = Path(__file__).with_name("model_card.md")
BITS = """Masked tokens on held-out windows take **{bits:.3f} bits per base** (`benchmarks/bits_per_base.py`). The best
Markov model, of order {order}, takes {markov:.3f}, one of order 0 {order_0:.3f}, and a guess 2.

"""
BYTE_PAIRS = """Use it to fill in masked bases, to score variants, to draw logos, and for a first look at any command. To
classify sequences, start from `small_5mer`."""
OVERLAPPING = """Use it to classify sequences: start a fine-tuning run from it, with `training.pooling = "mean"`. Its tokens
overlap and give their neighbors away, so that `small` is the model for filling in bases and for likelihoods of variants."""


def without_paths(provenance: dict[str, Any]) -> dict[str, Any]:
    """Paths in the run's settings become those that its configuration file in ``configs/`` has."""
    run = provenance["run_config"]
    model, data = run["model"] | {"tokenizer": "runs/tokenizer"}, run["data"] | {"corpus": "runs/corpus"}
    return provenance | {"run_config": run | {"model": model, "data": data}}


def species_rows(corpus: Corpus, losses: dict[str, float]) -> Iterator[str]:
    """Rows of a table: species, training bases, held-out loss."""
    for species in corpus.species:
        yield f"| {species.name.replace('_', ' ')} | {species.train_bases / 1e6:.1f} | {losses[species.name]:.3f} |"


def curve_rows(lines: list[dict[str, Any]]) -> Iterator[str]:
    """Rows of a table: some of the evaluations, and the last one."""
    evaluations = [line for line in lines if "validation_loss" in line]
    for line in evaluations[:: max(1, len(evaluations) // 6)][:-1] + evaluations[-1:]:
        yield f"| {line['step']:,} | {line['validation_loss']:.3f} | {line['validation_masked_accuracy']:.3f} |"


def score_rows(tables: list[dict[str, Any]]) -> Iterator[str]:
    """Rows of a table: Matthews correlation by data set and method, means over seeds."""
    for table in tables:
        scores = " | ".join(f"{statistics.mean(table[method]):.3f}" if method in table else "—" for method in METHODS)
        yield f"| {table['task']} | {table['train_rows']:,} | {table['kmer_mcc']:.3f} | {scores} |"


def bits_text(bits: dict[str, Any] | None) -> str:
    """What the masked language model is worth by itself, if that was measured."""
    if bits is None:
        return ""
    order, markov = min(bits["markov"].items(), key=lambda item: item[1])
    return BITS.format(bits=bits["bits_per_base"], order=order, markov=markov, order_0=bits["markov"]["0"])


def card(
    name: str, model: SavedModel, run: Path, corpus: Corpus, bits: dict[str, Any] | None, tables: list[dict[str, Any]]
) -> str:
    """The README of the model."""
    lines, settings, tokenizer = MetricsLog.read(run), model.provenance["run_config"], model.tokenizer
    training, tokens = settings["training"], settings["data"]["tokens_per_row"]
    losses = next(line["validation_loss_by_species"] for line in reversed(lines) if "validation_loss" in line)
    overlapping = isinstance(tokenizer, KmerTokenizer) and tokenizer.overlapping
    vocabulary = (
        f"{4**tokenizer.k:,} overlapping {tokenizer.k}-mers" if overlapping else f"{tokenizer.vocab_size:,} byte-pair pieces"
    )
    per_row = tokens - 2 + tokenizer.k - 1 if overlapping else (tokens - 2) * bits["bases_per_token"]
    return CARD.read_text(encoding="utf-8").format(
        name=name,
        config=model.config,
        vocabulary=vocabulary,
        purpose=OVERLAPPING if overlapping else BYTE_PAIRS,
        bits=bits_text(bits),
        tokens_per_row=tokens,
        bases_per_row=round(per_row / 10) * 10,
        parameters=count_parameters(model.params),
        sha256=tree_sha256(model.params["encoder"]),
        megabases=sum(species.train_bases for species in corpus.species) / 1e6,
        number=len(corpus.species),
        corpus=corpus.hash[:16],
        species="\n".join(species_rows(corpus, losses)),
        steps=training["steps"],
        tokens=training["steps"] * training["batch_size"] * tokens / 1e6,
        date=model.provenance["date"][:10],
        curve="\n".join(curve_rows(lines)),
        worse=sum(table["kmer_mcc"] > max(statistics.mean(table[m]) for m in METHODS[1:] if m in table) for table in tables),
        tables=len(tables),
        scores="\n".join(score_rows(tables)),
    )


def main() -> None:
    """Write the directory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--bits", type=Path)
    parser.add_argument("--transfer", type=Path, nargs="+", required=True)
    options = parser.parse_args()
    model = load_model(options.run / "model")
    model = replace(model, provenance=without_paths(model.provenance))
    tables = [table for file in options.transfer for table in json.loads(file.read_text())]
    bits = json.loads(options.bits.read_text()) if options.bits else None
    text = card(options.name, model, options.run, Corpus.open(options.corpus), bits, tables)
    shutil.rmtree(MODELS / options.name, ignore_errors=True)
    save_model(MODELS / options.name, model)
    (MODELS / options.name / "README.md").write_text(text, encoding="utf-8")
    print(f"saved {MODELS / options.name}")


if __name__ == "__main__":
    main()
