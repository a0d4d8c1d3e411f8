"""Speed of fine-tuning in real tokens/s: full steps by length and packed, LoRA steps, and PyTorch on padded batches.

Our steps are in float32 unless a row says bfloat16.

    python benchmarks/finetuning.py [TABLE] [--size 117m | --model DIR] [--batch-size 32] [--steps 4] [--torch PYTHON]
        [--torch-huge-pages] [--json FILE]

Rows come from a table for `dnabert2 finetune`, or from the package's sample data. Every variant takes the same number of
optimizer steps over batches of --batch-size sequences, with dropout; compilation happens beforehand. Then they alternate,
--repeats times, and the best round is reported. Only tokens of sequences count, never padding. With --torch, an interpreter
with torch and multimolecule, PyTorch takes its turns with an encoder of the same size and torch's AdamW, each batch padded
to its longest row, in float32 and under bfloat16 autocast. Start it with GLIBC_TUNABLES=glibc.malloc.hugetlb=1, as
`make quickstart` does, for huge pages; PyTorch runs without them, as its users would, unless --torch-huge-pages is given.
The memory of gradients and optimizer state is printed below the speeds.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table
from torch_worker import torch_worker

from dnabert2_jax import sample_data
from dnabert2_jax.artifacts.model import load_model
from dnabert2_jax.config.model import NAMED_SIZES, EncoderConfig, LoraConfig, named_size
from dnabert2_jax.config.runs import FINETUNE_OPTIMIZER
from dnabert2_jax.config.sections import MeshOptions
from dnabert2_jax.data.by_length import choose_lengths, epoch_batches, epoch_order
from dnabert2_jax.data.encoding import encode_table
from dnabert2_jax.data.labels import LabelSet
from dnabert2_jax.data.packed_epochs import pack_epochs
from dnabert2_jax.data.reading import read_table
from dnabert2_jax.modeling.compute import Compute, Precision
from dnabert2_jax.modeling.lora import init_adapter
from dnabert2_jax.modeling.models import sequence_classifier
from dnabert2_jax.parallel.layout import spread_rows
from dnabert2_jax.tokenizer.loading import Tokenizer
from dnabert2_jax.tokenizer.special import PAD
from dnabert2_jax.tokenizer.training import train_bpe
from dnabert2_jax.training.objectives import classification_loss
from dnabert2_jax.training.optimizer import make_optimizer
from dnabert2_jax.training.step import init_state, make_train_step
from dnabert2_jax.types import ClassificationBatch, Tree

TUNABLES = "GLIBC_TUNABLES"
"""Environment variable of the GNU C library that can request memory in pages of 2 MB."""

Round = Callable[[], float]
"""Takes all steps once and returns the seconds."""


class Weights:
    """The 117M model and its optimizer state, shared by several variants in turn: four copies would not fit into 24 GB."""

    def __init__(self, config: EncoderConfig, labels: int, *, lora: bool) -> None:
        self.config, self.labels, self.lora = config, labels, LoraConfig() if lora else None
        params = sequence_classifier(config, labels).init(0)
        trainable: Tree = params
        self.frozen: Tree = {}
        if self.lora:
            heads = {"pooler": params["pooler"], "classifier": params["classifier"]}
            trainable, self.frozen = {"adapter": init_adapter(config, self.lora, 1), **heads}, {"encoder": params["encoder"]}
        self.optimizer = make_optimizer(FINETUNE_OPTIMIZER, 1000)
        self.layout = spread_rows(MeshOptions(data=1), 1, trainable)
        self.state = init_state(trainable, self.optimizer, self.layout)
        self.bytes = _bytes(trainable) + _bytes(self.state.optimizer)  # gradients are as large as the trainable parameters


class Ours:
    """This package's optimizer steps on some batches."""

    def __init__(self, weights: Weights, batches: Sequence[ClassificationBatch], precision: Precision) -> None:
        network = sequence_classifier(weights.config, weights.labels, Compute(precision))
        self.step = make_train_step(classification_loss(network, weights.lora), weights.optimizer, weights.layout)
        self.weights, self.batches = weights, batches
        began = time.perf_counter()
        for width in sorted({batch.tokens.input_ids.shape[1] for batch in batches}):
            self._take([next(batch for batch in batches if batch.tokens.input_ids.shape[1] == width)])
        self.first_s = time.perf_counter() - began

    def _take(self, batches: Sequence[ClassificationBatch]) -> None:
        weights = self.weights
        for batch in batches:
            weights.state, _ = self.step(weights.state, weights.frozen, batch)
        jax.block_until_ready(weights.state)

    def __call__(self) -> float:
        """Take all steps once and return the seconds."""
        began = time.perf_counter()
        self._take(self.batches)
        return time.perf_counter() - began


def _bytes(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def tokens_of(batches: Sequence[ClassificationBatch]) -> tuple[int, int]:
    """(real tokens, positions)."""
    return (
        sum(int((batch.tokens.segment_ids > 0).sum()) for batch in batches),
        sum(batch.tokens.input_ids.size for batch in batches),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", nargs="?", type=Path)
    parser.add_argument("--model", type=Path, help="model directory, for its sizes and tokenizer (default: --size)")
    parser.add_argument("--size", choices=list(NAMED_SIZES), default="117m")
    parser.add_argument(
        "--tokenizer", type=Path, help="tokenizer directory or tokenizer.json (default: one trained on the rows)"
    )
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps per round")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--torch", type=Path, metavar="PYTHON", help="interpreter with torch and multimolecule")
    parser.add_argument("--torch-huge-pages", action="store_true", help="let PyTorch use huge pages as well")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    table = read_table(args.table or sample_data.table("train"))
    labels = LabelSet.from_table(table)
    if args.model:
        saved = load_model(args.model)
        config, tokenizer = saved.config, saved.tokenizer
    else:
        tokenizer = Tokenizer.load(args.tokenizer) if args.tokenizer else train_bpe(table.sequences, vocab_size=4096)
        config = named_size(args.size, tokenizer.vocab_size)
    encoded = encode_table(table, tokenizer, labels, args.max_tokens)
    if len(encoded) < args.batch_size * args.steps:
        parser.error(f"{table.path} has {len(encoded)} rows, too few for {args.steps} steps of {args.batch_size}")
    by_length = epoch_batches(encoded, args.batch_size, 0, 0, choose_lengths(encoded.lengths))[: args.steps]
    (epoch,) = pack_epochs([encoded], args.batch_size, 0, hidden_size=config.hidden_size, max_shapes=3)
    packed = epoch[: args.steps]

    ways: dict[str, tuple[Round, int, float]] = {}
    first_s: dict[str, float] = {}
    full, lora = (Weights(config, len(labels), lora=lora) for lora in (False, True))
    with ExitStack() as stack:
        if args.torch:
            stored = stack.enter_context(tempfile.NamedTemporaryFile(suffix=".npz"))
            real, positions = _store_padded(stored.name, encoded, args.batch_size, args.steps)
            environment = {name: value for name, value in os.environ.items() if args.torch_huge_pages or name != TUNABLES}
            for precision in ("float32", "bfloat16"):
                worker = torch_worker(
                    args.torch, "finetuning_torch.py", config, stored.name, precision, environment=environment
                )
                one = stack.enter_context(worker)
                name = f"PyTorch {precision}"
                ways[name] = (one, real, 1 - real / positions)
                first_s[name] = one()
        ours_by_name: tuple[tuple[str, Weights, Sequence[ClassificationBatch], Precision], ...] = (
            ("full, by length", full, by_length, "float32"),
            ("full, packed", full, packed, "float32"),
            ("LoRA, packed", lora, packed, "float32"),
            ("full, packed, bfloat16", full, packed, "bfloat16"),
            ("LoRA, packed, bfloat16", lora, packed, "bfloat16"),
        )
        for name, weights, batches, precision in ours_by_name:
            ours = Ours(weights, list(batches), precision)
            real, positions = tokens_of(ours.batches)
            ways[name] = (ours, real, 1 - real / positions)
            first_s[name] = ours.first_s
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(args.repeats):
            for name, (once, _, _) in ways.items():
                times[name].append(once())

    speeds = {name: real / min(times[name]) for name, (_, real, _) in ways.items()}
    baseline = speeds[next(iter(ways))]
    grid = Table("steps", "real tokens/s", "ratio to the first", "ratio to full, packed", "padding", "first, s", "s a step")
    results = []
    for name, (_, _, padding) in ways.items():
        result = {
            "steps": name,
            "tokens_per_s": speeds[name],
            "ratio": speeds[name] / baseline,
            "ratio_to_full_packed": speeds[name] / speeds["full, packed"],
            "padding_share": padding,
            "first_s": first_s[name],
            "seconds": times[name],
        }
        results.append(result)
        ratios = [f"{result[key]:.2f}x" for key in ("ratio", "ratio_to_full_packed")]
        seconds = f"{min(times[name]) / args.steps:.2f}"
        grid.add_row(name, f"{speeds[name]:,.0f}", *ratios, f"{padding:.1%}", f"{first_s[name]:.1f}", seconds)
    console = Console(width=120)
    console.print(
        f"{table.path}: {encoded.lengths.mean():.1f} tokens per row; {config.num_hidden_layers} layers of "
        f"{config.hidden_size}; {args.steps} steps of {args.batch_size}; {jax.default_backend()}"
    )
    console.print(grid)
    share = f"full {full.bytes / 1e6:,.1f} MB, LoRA {lora.bytes / 1e6:,.1f} MB ({lora.bytes / full.bytes:.2%})"
    console.print(f"gradients and optimizer state: {share}")
    if args.json:
        about = {"table": str(table.path), "platform": jax.default_backend(), "batch_size": args.batch_size}
        kept = {"full_bytes": full.bytes, "lora_bytes": lora.bytes}
        args.json.write_text(json.dumps({**about, "memory": kept, "results": results}, indent=2) + "\n")


def _store_padded(file: str, encoded: Any, batch_size: int, steps: int) -> tuple[int, int]:
    """Write batches for PyTorch in shuffled order, each padded to its longest row; returns (real tokens, positions)."""
    order = epoch_order(len(encoded), 0, 0)
    arrays: dict[str, np.ndarray] = {}
    real = positions = 0
    for step in range(steps):
        rows = order[step * batch_size : (step + 1) * batch_size]
        ids = np.full((len(rows), encoded.lengths[rows].max()), PAD, np.int32)
        for at, row in enumerate(rows):
            ids[at, : encoded.lengths[row]] = encoded.input_ids[row]
        arrays |= {f"ids_{step}": ids, f"labels_{step}": encoded.labels[rows]}
        real, positions = real + int(encoded.lengths[rows].sum()), positions + ids.size
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return real, positions


if __name__ == "__main__":
    main()
