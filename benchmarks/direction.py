"""What a masked language model sees of the order of its tokens: the context of a masked token, reversed and shuffled.

    python benchmarks/direction.py --model small --corpus runs/corpus [--windows 300] [--json FILE]

The middle of each row of held-out DNA is masked (as many tokens as overlap with the middle one), and the others are left as
they are, put in the reverse order, shuffled, or replaced by those of another row. The figure is the mean Kullback-Leibler
divergence of the prediction from the one with the row as it is, in nats. ALiBi's bias is the same to the left and to the
right, so that a mirrored row differs in nothing but the distances to [CLS] and [SEP].
"""

import argparse
import json
from pathlib import Path

import numpy as np
from bits_per_base import sample
from numpy.typing import NDArray

from dnabert2_jax import DNABERT2
from dnabert2_jax.genome.corpus import Corpus
from dnabert2_jax.tokenizer.special import MASK

TOKENS = 65  # odd, so that a mirrored row has the same token in the middle


def log_probabilities(model: DNABERT2, ids: NDArray[np.int32], masked: slice) -> NDArray[np.float64]:
    """Of the middle token, [rows, pieces]."""
    hidden = ids.copy()
    hidden[:, masked] = MASK
    logits = model.mlm_logits(hidden)[:, TOKENS // 2].astype(np.float64)
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="small")
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--windows", type=int, default=300)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    rng = np.random.default_rng(0)
    model = DNABERT2.load(options.model)
    windows = sample(Corpus.open(options.corpus), "validation", options.windows, rng)
    encoded = model.tokenizer.encode_batch([window.tobytes().decode() for window in windows])
    ids = np.array([[*row[: TOKENS - 1], row[-1]] for row in encoded if len(row) >= TOKENS])
    around = getattr(model.tokenizer, "k", 1) - 1 if getattr(model.tokenizer, "overlapping", False) else 0
    masked = slice(TOKENS // 2 - around, TOKENS // 2 + around + 1)
    context = np.delete(np.arange(1, TOKENS - 1), np.arange(masked.start - 1, masked.stop - 1))

    changed = {name: ids.copy() for name in ("reversed", "shuffled", "another row")}
    changed["reversed"][:, 1:-1] = ids[:, -2:0:-1]
    for row in changed["shuffled"]:
        row[context] = row[rng.permutation(context)]
    changed["another row"] = np.roll(ids, 1, axis=0)

    as_it_is = log_probabilities(model, ids, masked)
    record = {"model": options.model, "rows": len(ids)}
    for name, others in changed.items():
        divergence = (np.exp(as_it_is) * (as_it_is - log_probabilities(model, others, masked))).sum(-1)
        record[name] = float(divergence.mean())
        print(f"context {name:<12} {record[name]:.6f} nats")
    if options.json:
        options.json.write_text(json.dumps(record, indent=2) + "\n")
        print(f"saved {options.json}")


if __name__ == "__main__":
    main()
