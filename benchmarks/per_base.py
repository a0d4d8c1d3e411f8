"""Labels at every base by an encoder, beside convolutions on letters alone with as many parameters.

    python benchmarks/per_base.py --fasta yeasts.fa --annotation yeasts.gff3 --features CDS --stranded --dev NC_079272.1
        --test NC_001133.9 --model small --workdir runs/per_base

The convolutions read one-hot letters: residual layers, nine bases wide, whose dilation doubles from layer to layer, so that
a base sees 1,024 bases on each side; they have as many channels as make up the encoder's number of parameters. Both train
on the same windows for as many epochs, with AdamW, and start from the frequencies of the labels; the dev contigs select the
epoch. Rerun the command to resume; a run that is done is read from disk. Scores are of the test contigs.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

from dnabert2_jax.config.loading import parse_run
from dnabert2_jax.config.per_base import PerBaseRun
from dnabert2_jax.data.base_windows import EncodedWindows
from dnabert2_jax.data.by_length import epoch_order
from dnabert2_jax.metrics.scores import Scores
from dnabert2_jax.modeling.models import count_parameters
from dnabert2_jax.recipes.finetuning import finetune
from dnabert2_jax.recipes.finetuning_per_base import WindowsJob, prepare_windows
from dnabert2_jax.types import Tree

LAYERS, TAPS, LETTERS = 8, 9, 4
SHOWN = {"auprc": "AUPRC", "top_k": "top-k", "segment_f1": "segment F1", "exact_f1": "exact F1", "macro_f1": "base F1"}


def channels_for(parameters: int) -> int:
    """Channels with which the layers have about as many parameters."""
    return max(8, round((parameters / (LAYERS * TAPS)) ** 0.5))


def init_convolutions(channels: int, bias: np.ndarray) -> Tree:
    """Random weights, and the bias of the classes."""
    keys = jax.random.split(jax.random.key(0), LAYERS + 2)
    shapes = [(TAPS, LETTERS, channels), *[(TAPS, channels, channels)] * LAYERS, (1, channels, len(bias))]
    kernels = [jax.random.normal(key, shape) / np.sqrt(shape[0] * shape[1]) for key, shape in zip(keys, shapes, strict=True)]
    return {
        "first": kernels[0],
        "layers": jnp.stack(kernels[1:-1]),
        "scales": jnp.full((LAYERS, channels), 0.1),
        "biases": jnp.zeros((LAYERS + 1, channels)),
        "last": kernels[-1],
        "bias": jnp.asarray(bias),
    }


def convolutions(params: Tree, letters: jax.Array) -> jax.Array:
    """Letters [B, L] -> logits [B, L, C]."""

    def convolve(x: jax.Array, kernel: jax.Array, dilation: int = 1) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x, kernel, (1,), "SAME", rhs_dilation=(dilation,), dimension_numbers=("NWC", "WIO", "NWC")
        )

    there = (letters >= 0)[..., None].astype(jnp.float32)
    x = convolve(jax.nn.one_hot(letters, LETTERS), params["first"]) + params["biases"][0]
    for n in range(LAYERS):
        normal = (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-6)
        inner = convolve(jax.nn.gelu(normal) * there, params["layers"][n], 2**n) + params["biases"][n + 1]
        x = x + params["scales"][n] * inner
    return convolve(jax.nn.gelu(x), params["last"]) + params["bias"]


def train_convolutions(job: WindowsJob, parameters: int) -> tuple[Scores, int]:
    """Test scores of the epoch with the best dev AUPRC, and the number of parameters."""
    run, plan = job.run, job.run.training
    assert job.class_bias is not None
    params = init_convolutions(channels_for(parameters), job.class_bias)
    steps = -(-len(job.train) // plan.batch_size)
    total = plan.epochs * steps
    schedule = optax.warmup_cosine_decay_schedule(0, 2e-3, total // 10, total)
    optimizer = optax.adamw(schedule, weight_decay=run.optimizer.weight_decay)
    state = optimizer.init(params)

    @jax.jit
    def step(params: Tree, state: Any, letters: jax.Array, labels: jax.Array) -> tuple[Tree, Any]:
        def loss(params: Tree) -> jax.Array:
            nats = optax.softmax_cross_entropy_with_integer_labels(convolutions(params, letters), jnp.maximum(labels, 0))
            return (nats * (labels >= 0)).sum() / (labels >= 0).sum()

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    predict = jax.jit(lambda params, letters: jax.nn.softmax(convolutions(params, letters)))

    def scores(rows: EncodedWindows) -> Scores:
        outputs = [np.asarray(predict(params, rows.letters[n : n + 16].astype(np.int32))) for n in range(0, len(rows), 16)]
        return job.scores(rows, np.concatenate(outputs))

    best, test = -1.0, dict[str, Any]()
    for epoch in range(plan.epochs):
        for rows in batches(job.train, plan.batch_size, epoch):
            letters, labels = (x[rows].astype(np.int32) for x in (job.train.letters, job.train.labels))
            params, state = step(params, state, letters, labels)
        if (dev := scores(job.dev)["auprc"]) > best:
            best, test = dev, dict(scores(job.test))
        print(f"convolutions, epoch {epoch + 1}: dev AUPRC {dev:.3f}", flush=True)
    return test, count_parameters(params)


def batches(rows: EncodedWindows, size: int, epoch: int) -> Iterator[np.ndarray]:
    """Rows of the batches of an epoch; the last few rows of the order may be left out."""
    order = epoch_order(len(rows), 0, epoch)
    yield from (order[n : n + size] for n in range(0, len(order) - size + 1, size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--fasta", "--annotation", "--workdir"):
        parser.add_argument(name, required=True)
    for name in ("--features", "--dev", "--test"):
        parser.add_argument(name, required=True, nargs="+")
    parser.add_argument("--stranded", action="store_true")
    parser.add_argument("--model", help="model directory, or a name; otherwise random weights")
    parser.add_argument("--size", default="1m", help="size of the random encoder")
    parser.add_argument("--tokenizer", help="tokenizer of the random encoder")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    options = parser.parse_args()
    model = {"path": options.model} if options.model else {"size": options.size, "tokenizer": options.tokenizer}
    content = {
        "model": {**model, "remat": "full"},
        "data": {
            "fasta": options.fasta,
            "annotation": options.annotation,
            "features": options.features,
            "dev_contigs": options.dev,
            "test_contigs": options.test,
            "stranded": options.stranded,
        },
        "optimizer": {"learning_rate": options.learning_rate},
        "training": {"epochs": options.epochs, "batch_size": 8},
    }
    run, work = parse_run(PerBaseRun, content, "benchmark"), Path(options.workdir)
    done = work / "encoder" / "scores.json"
    if not done.exists():
        finetune(run, work / "encoder")
    encoder = json.loads(done.read_text())
    other = work / "convolutions.json"
    if not other.exists():
        test, parameters = train_convolutions(prepare_windows(run, work / "encoder"), encoder["trained_parameters"])
        other.write_text(json.dumps({"test": test, "parameters": parameters}))
    baseline = json.loads(other.read_text())
    table = Table("", "parameters", *SHOWN.values())
    for name, parameters, scores in (
        ("encoder", encoder["trained_parameters"], encoder["test"]),
        ("convolutions on letters", baseline["parameters"], baseline["test"]),
    ):
        table.add_row(name, f"{parameters:,}", *(f"{scores[key]:.3f}" for key in SHOWN))
    Console().print(table)


if __name__ == "__main__":
    main()
