"""Target `gpu-memory`: memory of a fine-tuning step of the 117M model by length, compiled for a GPU without having one.

One row of one sequence, bfloat16, AdamW, all parameters trained. `reference` is dense attention; `remat` (full) recomputes
the activations of a block in the backward pass. Requires `make aot`.
"""

import argparse
from typing import Any

import jax
import jax.numpy as jnp
from aot import compile_for_gpu, gpu_devices
from aot.chips import GPUS
from aot.report import Memory
from rich.console import Console
from rich.table import Table

from dnabert2_jax.config.model import named_size
from dnabert2_jax.config.sections import MeshOptions, OptimizerConfig
from dnabert2_jax.kernels.attention import tracing_for
from dnabert2_jax.modeling.compute import Compute
from dnabert2_jax.modeling.models import sequence_classifier
from dnabert2_jax.parallel.layout import Layout
from dnabert2_jax.parallel.mesh import WHOLE, make_mesh
from dnabert2_jax.training.objectives import classification_loss
from dnabert2_jax.training.optimizer import make_optimizer
from dnabert2_jax.training.step import TrainState, make_train_step
from dnabert2_jax.types import ClassificationBatch, TokenBatch

LENGTHS = tuple(2**n for n in range(10, 18))
LONGEST_DENSE = 8192
WAYS = {
    "pallas_gpu": Compute(precision="bfloat16", attention="pallas_gpu"),
    "pallas_gpu, remat": Compute(precision="bfloat16", attention="pallas_gpu", remat="full"),
    "reference": Compute(precision="bfloat16", attention="reference"),
    "reference, remat": Compute(precision="bfloat16", attention="reference", remat="full"),
}


def step_memory(gpu: str, compute: Compute, tokens: int) -> Memory:
    """Bytes of one training step with one row of ``tokens`` tokens."""
    on_gpu = jax.sharding.SingleDeviceSharding(gpu_devices(gpu)[0])

    def array(shape: tuple[int, ...], dtype: Any) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=on_gpu)

    network = sequence_classifier(named_size("117m", 4096), 2, compute)
    optimizer = make_optimizer(OptimizerConfig(), total_steps=1000)
    params = network.abstract()
    state = TrainState(array((), jnp.int32), params, jax.eval_shape(optimizer.init, params))
    state = jax.tree.map(lambda x: array(x.shape, x.dtype), state)
    ids, one = array((1, tokens), jnp.int32), array((1,), jnp.int32)
    batch = ClassificationBatch(TokenBatch(ids, ids, ids), one, array((1,), jnp.float32), array((1,), jnp.uint32), one)
    with tracing_for("gpu", ".".join(map(str, GPUS[gpu].capability))):
        whole = jax.tree.map(lambda _: WHOLE, params)
        layout = Layout(make_mesh(MeshOptions(data=1), gpu_devices(gpu)), whole, whole)
        step = make_train_step(classification_loss(network), optimizer, layout)
        return compile_for_gpu(step, state, {}, batch, gpu=gpu).memory


def measure(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="attention.py --target gpu-memory", description=__doc__)
    parser.add_argument("--gpu", choices=tuple(GPUS), default="H100")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, metavar="TOKENS")
    args = parser.parse_args(arguments)

    table = Table("tokens", *WAYS, title=f"temporary memory of a 117M training step on an {args.gpu}, one row, GiB")
    results: dict[str, Any] = {"gpu": args.gpu, "temporary_bytes": {name: {} for name in WAYS}}
    for tokens in args.lengths:
        cells = []
        for name, compute in WAYS.items():
            if compute.attention == "reference" and tokens > LONGEST_DENSE:
                cells.append("-")
                continue
            memory = step_memory(args.gpu, compute, tokens)
            results["temporary_bytes"][name][tokens] = memory.temporaries
            results["state_bytes"] = memory.arguments
            cells.append(f"{memory.temporaries / 2**30:.2f}")
        table.add_row(f"{tokens:,}", *cells)
    console = Console(width=110)
    console.print(table)
    device = GPUS[args.gpu].memory_bytes / 2**30
    console.print(f"parameters and optimizer: {results['state_bytes'] / 2**30:.2f} GiB more; the GPU has {device:.1f} GiB")
    return results
