"""Bits per base on held-out DNA: a masked language model beside Markov models, so that vocabularies can be compared.

    python benchmarks/bits_per_base.py --model small --corpus runs/corpus [--windows 1000] [--json FILE]

The model sees windows of the corpus's validation split in which a random 15 % of the tokens are [MASK]; its figure is the
sum of -log2 p of those tokens over the number of bases that they hold. It sees the bases on both sides, and has to guess how
many bases a token holds, too. A Markov model of order k sees the k bases to the left; it counts a sample of the training
split, and mixes its probability of a base with that of order k - 1 (Witten and Bell 1991, method C). A random guess takes
two bits.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from dnabert2_jax import DNABERT2
from dnabert2_jax.genome.corpus import Corpus
from dnabert2_jax.progress import ProgressBar
from dnabert2_jax.tokenizer.special import MASK, NUM_SPECIAL

MASKED, ROWS, BASES = 0.15, 32, 512
MOST_TOKENS = 96  # of a window, so that all rows have one width
ORDERS = (0, 1, 2, 3, 4, 6, 8, 10, 11)


def sample(corpus: Corpus, split: str, windows: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """ASCII letters [windows, BASES], uniform over the bases of a split; windows with N are left out."""
    segments = corpus.segments(split)  # type: ignore[arg-type]
    segments = segments[segments[:, 2] - segments[:, 1] >= BASES]
    lengths = segments[:, 2] - segments[:, 1]
    rows = rng.choice(len(segments), windows, p=lengths / lengths.sum())
    starts = segments[rows, 1] + rng.integers(lengths[rows] - BASES + 1)
    letters, shifts = corpus.read_rows(segments[rows, 0], starts, starts + BASES)
    found = np.stack([row[shift : shift + BASES] for row, shift in zip(letters, shifts, strict=True)])
    return found[np.isin(found, np.frombuffer(b"ACGT", np.uint8)).all(1)]


def model_bits(model: DNABERT2, windows: NDArray[np.uint8], rng: np.random.Generator) -> dict[str, float]:
    """Of the masked tokens of all windows together."""
    tokenizer = model.tokenizer
    bases_of = np.array([0] * NUM_SPECIAL + [len(piece) for piece in tokenizer.pieces[NUM_SPECIAL:]])
    rows = [ids for ids in tokenizer.encode_batch([row.tobytes().decode() for row in windows]) if len(ids) >= MOST_TOKENS]
    ids = np.array([row[:MOST_TOKENS] for row in rows])
    ids = ids[: len(ids) // ROWS * ROWS]
    nats, bases, tokens = 0.0, 0, 0
    with ProgressBar("windows", len(ids)) as bar:
        for at in range(0, len(ids), ROWS):
            batch = ids[at : at + ROWS]
            masked = (rng.random(batch.shape) < MASKED) & (batch >= NUM_SPECIAL)
            logits = model.mlm_logits(np.where(masked, MASK, batch)).astype(np.float64)
            logits -= logits.max(-1, keepdims=True)
            logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            nats -= np.take_along_axis(logp, batch[..., None], -1)[..., 0][masked].sum()
            bases += int(bases_of[batch[masked]].sum())
            tokens += int(masked.sum())
            bar.advance(ROWS)
    return {"bits_per_base": nats / math.log(2) / bases, "nats_per_token": nats / tokens, "bases_per_token": bases / tokens}


def markov_bits(train: NDArray[np.uint8], held_out: NDArray[np.uint8]) -> dict[int, float]:
    """Bits per base by order; of the same bases at every order, those with the longest context to their left."""
    code = np.full(256, 0, np.int64)
    code[np.frombuffer(b"ACGT", np.uint8)] = range(4)
    seen_letters, letters = code[train], code[held_out]
    longest = ORDERS[-1]
    mixed = np.full(letters[:, longest:].shape, 0.25)
    bits = {}
    for order in range(longest + 1):
        weights = 4 ** np.arange(order, -1, -1)

        def words(rows: NDArray[np.int64], order: int = order, weights: NDArray[np.int64] = weights) -> NDArray[np.int64]:
            return np.lib.stride_tricks.sliding_window_view(rows, order + 1, axis=1) @ weights

        counts = np.bincount(words(seen_letters).ravel(), minlength=4 ** (order + 1)).reshape(-1, 4)
        word = words(letters)[:, longest - order :]
        total, kinds = counts.sum(1)[word // 4], (counts > 0).sum(1)[word // 4]
        seen = total > 0
        own = counts.reshape(-1)[word]
        mixed = np.where(seen, (own + kinds * mixed) / np.maximum(total + kinds, 1), mixed)
        if order in ORDERS:
            bits[order] = float(-np.log2(mixed).mean())
    return bits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="small")
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--windows", type=int, default=1000)
    parser.add_argument("--train-windows", type=int, default=40_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    corpus = Corpus.open(options.corpus)
    held_out = sample(corpus, "validation", options.windows, rng)
    record = {"model": options.model, **model_bits(DNABERT2.load(options.model, precision="float32"), held_out, rng)}
    record["markov"] = markov_bits(sample(corpus, "train", options.train_windows, rng), held_out)
    table = Table(title=f"{len(held_out):,} held-out windows of {BASES} bases")
    table.add_column("model")
    table.add_column("bits per base", justify="right")
    table.add_row(f"{options.model}, {record['bases_per_token']:.2f} bases per token", f"{record['bits_per_base']:.4f}")
    for order, bits in record["markov"].items():
        table.add_row(f"Markov, order {order}", f"{bits:.4f}")
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
