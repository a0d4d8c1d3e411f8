"""Speed of saturation mutagenesis beside mutants that are written out and predicted one by one, in one run.

    python benchmarks/interpretation.py [--model DIR] [--size 1m] [--bases 512] [--sample 24]

A window of real DNA of the sample data is explained by a classifier and by a masked language model: with ``--model``
by that model, else with random weights, which take as long as trained ones. One by one, a classifier reads each of the three
mutants of every base; a masked language model reads each mutant once for each of its tokens, which is masked. A sample of
them is timed, in a second pass because the first one compiles, and stands for all.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import dnaio
import numpy as np
from rich.console import Console
from rich.table import Table

from dnabert2_jax import sample_data
from dnabert2_jax.artifacts.model import SavedModel
from dnabert2_jax.config.model import named_size
from dnabert2_jax.data.encoding import EncodedRows
from dnabert2_jax.data.packing import one_per_row
from dnabert2_jax.data.sequences import Sequences, given_sequences
from dnabert2_jax.inference.masked_rows import log_probabilities_at_masks
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.inference.prediction import predict
from dnabert2_jax.interpretation.inputs import mutants
from dnabert2_jax.interpretation.ism import ism, spans_of_sites
from dnabert2_jax.modeling.compute import resolve_compute
from dnabert2_jax.modeling.models import masked_lm, sequence_classifier
from dnabert2_jax.tokenizer.special import MASK, with_template
from dnabert2_jax.tokenizer.training import train_bpe

PIECES = 1024
FIRST_BASE = 30_000


def yeast() -> str:
    """A chromosome of the sample data."""
    with dnaio.open(next(iter(sample_data.fasta_files().values()))) as records:
        return str(next(iter(records)).sequence.upper())


def random_models(size: str, chromosome: str) -> list[InferenceModel]:
    """A classifier and a masked language model of a named size."""
    tokenizer = train_bpe([chromosome], vocab_size=PIECES)
    config, compute = named_size(size, PIECES), resolve_compute("float32")
    classifier = SavedModel(
        kind="classifier",
        config=config,
        params=sequence_classifier(config, 2).init(0),
        tokenizer=tokenizer,
        labels=("no", "yes"),
    )
    language_model = SavedModel(kind="masked_lm", config=config, params=masked_lm(config).init(0), tokenizer=tokenizer)
    return [InferenceModel.of_saved(Path(size), saved, compute) for saved in (classifier, language_model)]


def seconds(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def compare(model: InferenceModel, window: Sequences, sample: int) -> tuple[str, ...]:
    """A row of the table."""
    letters = window.sequences[0]
    texts = [text for site in range(len(letters)) for text in mutants(letters, site) if text != letters]
    rng = np.random.default_rng(0)
    some = [texts[n] for n in rng.choice(len(texts), sample, replace=False)]
    target = model.labels[0] if model.kind == "classifier" else None

    if model.kind == "classifier":
        ours, theirs = len(texts) + 1, len(texts) + 1

        def one(text: str) -> None:
            predict(model, given_sequences([text]))
    else:
        spans = spans_of_sites(model, letters).values()
        rows = {
            (span.prefix.tobytes(), count, span.suffix.tobytes())
            for span in spans
            for count in range(min(span.counts), max(span.counts) + 1)
        }
        ours, theirs = len(rows), sum(len(model.tokenizer.encode_raw(text)) for text in texts)

        def one(text: str) -> None:
            ids = np.array(model.tokenizer.encode_raw(text), np.int32)
            ids[int(rng.integers(len(ids)))] = MASK
            list(log_probabilities_at_masks(model, one_per_row(EncodedRows.of([with_template(ids)]), 1)))

    def one_by_one() -> None:
        for text in some:
            one(text)

    timed: list[Callable[[], object]] = [lambda: ism(model, window, target), one_by_one]
    for function in timed:
        function()  # compiles
    fast, slow = map(seconds, timed)
    slow *= theirs / sample
    inputs = [f"{ours:,}", f"{theirs:,}"]
    return (model.kind, *inputs, f"{fast:,.1f}", f"{slow:,.0f}", f"{slow / fast:,.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--size", default="1m")
    parser.add_argument("--bases", type=int, default=512)
    parser.add_argument("--sample", type=int, default=24)
    options = parser.parse_args()
    chromosome = yeast()
    window = given_sequences([chromosome[FIRST_BASE : FIRST_BASE + options.bases]])
    if options.model is None:
        models = random_models(options.size, chromosome)
    else:
        models = [InferenceModel.load(options.model, resolve_compute("auto"))]
    table = Table("", "inputs", "inputs one by one", "seconds", "one by one (from a sample)", "times as fast")
    for model in models:
        table.add_row(*compare(model, window, options.sample))
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
