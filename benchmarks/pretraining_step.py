"""Modeled cost of the whole pretraining step on a TPU slice or GPUs that this machine does not have.

The step is the one that `dnabert2 pretrain` runs, with the run file's mesh, optimizer, remat and attention. It is compiled
ahead of time (aot, docs/aot.md) and nothing runs. Requires `make aot`; a step takes minutes to compile.

    JAX_PLATFORMS=cpu python benchmarks/pretraining_step.py --topology v5e:8x8 --json step.json
    JAX_PLATFORMS=cpu python benchmarks/pretraining_step.py --topology v5e:8x8 --set model.remat=full model.unroll=1
    JAX_PLATFORMS=cpu python benchmarks/pretraining_step.py --topology v5e:16x16 --size 1b --fsdp 16 --tensor 2
    JAX_PLATFORMS=cpu python benchmarks/pretraining_step.py --gpus 8

Chips that share the tokens of a row send each other what the scores say, so that a row's time depends on the data. Of these,
only the memory is known:

    JAX_PLATFORMS=cpu python benchmarks/pretraining_step.py --topology v5e:4x4 --batch 1 --sequence 16 --tokens 4194304 \
        --set model.remat=full model.unroll=1 model.parts=1
"""

import argparse
import json
import math
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from aot import (
    CompiledForGpu,
    CompiledForTpu,
    compile_for_gpu,
    compile_for_tpu,
    gpu_devices,
    parse_topology,
    tpu_devices,
)
from aot.chips import CHIPS
from jax.sharding import NamedSharding

from dnabert2_jax.config.loading import load_run
from dnabert2_jax.config.model import EncoderConfig, named_size
from dnabert2_jax.config.runs import PretrainRun
from dnabert2_jax.kernels.attention import alibi_slopes, tracing_for
from dnabert2_jax.kernels.attention.skipping import skip_radius
from dnabert2_jax.modeling.compute import Compute
from dnabert2_jax.modeling.flops import training_flops_per_token
from dnabert2_jax.modeling.models import masked_lm
from dnabert2_jax.parallel.layout import make_layout
from dnabert2_jax.parallel.mesh import ROWS, make_mesh
from dnabert2_jax.platform import peak_flops
from dnabert2_jax.training.objectives import mlm_loss
from dnabert2_jax.training.optimizer import make_optimizer
from dnabert2_jax.training.step import TrainState, make_train_step, state_shardings
from dnabert2_jax.types import MlmBatch, TokenBatch

VOCABULARY = 4096
SECONDS_A_DAY = 86_400
SCORE_BOUND = 10.0
GPU, GPU_KIND = "H100", "NVIDIA H100"
GPU_GENERATIONS = {"A100": "8.0", "H100": "9.0"}
CONFIGS = Path(__file__).parents[1] / "configs"


def abstract_batch(run: PretrainRun, sharding: NamedSharding) -> MlmBatch:
    """Shapes of a global batch."""
    rows, tokens = run.training.batch_size, run.data.tokens_per_row
    slots = run.masking.slots(tokens)

    def array(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=sharding)

    return MlmBatch(
        tokens=TokenBatch(*(array(jnp.int32, tokens) for _ in TokenBatch._fields)),
        masked_positions=array(jnp.int32, slots),
        masked_labels=array(jnp.int32, slots),
        masked_weights=array(jnp.float32, slots),
        dropout_seeds=array(jnp.uint32),
    )


def pretraining_step(
    run: PretrainRun, config: EncoderConfig, devices: tuple[Any, ...]
) -> tuple[Any, tuple[TrainState, dict[str, Any], MlmBatch]]:
    """The jitted step of a run on a mesh of ``devices``, and its abstract arguments.

    Args:
        run: a run of `dnabert2 pretrain`; its corpus and tokenizer are not read.
        config: sizes of the encoder.
        devices: devices from :func:`tpu_devices` or :func:`gpu_devices`.

    Raises:
        UserError: the mesh does not match the devices, model or batch.
    """
    network = masked_lm(config, Compute("bfloat16", run.model.attention, run.model.remat, run.model.unroll, run.model.parts))
    layout = make_layout(run.mesh, make_mesh(run.mesh, devices), network.abstract(), network.axes(), config, "bfloat16")
    layout.check_batch(run.training.batch_size, run.training.accumulate, run.data.tokens_per_row)
    optimizer = make_optimizer(run.optimizer, run.training.steps)
    step = make_train_step(mlm_loss(network), optimizer, accumulate=run.training.accumulate, layout=layout)

    params = network.abstract()
    step_number: Any = jax.ShapeDtypeStruct((), jnp.int32)
    shapes = TrainState(step_number, params, jax.eval_shape(optimizer.init, params))
    state = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        state_shardings(params, optimizer, layout),
    )
    return step, (state, {}, abstract_batch(run, NamedSharding(layout.mesh, ROWS)))


def step_flops(run: PretrainRun, config: EncoderConfig) -> float:
    """Operations per step over all devices, not counting recomputation."""
    rows, tokens = run.training.batch_size, run.data.tokens_per_row
    return rows * tokens * training_flops_per_token(config, tokens, run.masking.slots(tokens))


def compile_step(run: PretrainRun, config: EncoderConfig, topology: str) -> CompiledForTpu:
    """The whole step, for a slice or several."""
    with tracing_for("tpu", parse_topology(topology)[2]):
        step, arguments = pretraining_step(run, config, tpu_devices(topology))
        compiled = compile_for_tpu(step, *arguments, topology=topology)
    # The compiler writes a kernel's schedule once, even if an unrolled loop calls it many times.
    once = {name.rpartition(".")[0]: schedule for name, schedule in compiled.schedules.items()}
    calls = [i.name for c in compiled.module.computations.values() for i in c if i.custom_call_target == "tpu_custom_call"]
    return replace(compiled, schedules={name: once[name.rpartition(".")[0]] for name in calls} | compiled.schedules)


def compile_step_for_gpus(run: PretrainRun, config: EncoderConfig, gpu: str, count: int) -> CompiledForGpu:
    """The whole step, for one machine with ``count`` GPUs."""
    with tracing_for("gpu", GPU_GENERATIONS[gpu]):
        step, arguments = pretraining_step(run, config, gpu_devices(gpu, count))
        return compile_for_gpu(step, *arguments, gpu=gpu)


def on_tpu(run: PretrainRun, config: EncoderConfig, topology: str) -> dict[str, Any]:
    """Compile for a slice, print the costs, and return the figures, in pairs the smaller one first."""
    compiled = compile_step(run, config, topology)
    report, chips = compiled.report(), len(tpu_devices(topology))
    mfu = report.utilization(step_flops(run, config) / chips)
    tokens = run.training.batch_size * run.data.tokens_per_row
    seconds = report.seconds, report.high.cycles / report.chip.clock_hz
    rates = [tokens / each / 1e6 for each in reversed(seconds)]
    days = [run.training.steps * each / SECONDS_A_DAY for each in seconds]
    print(report)
    print(f"estimated_mfu {mfu[0]:.3f} to {mfu[1]:.3f}; {rates[0]:,.2f} to {rates[1]:,.2f} M tokens/s on {chips} chips")
    steps = run.training.steps
    print(f"{steps:,} steps, {steps * tokens / 1e9:,.0f} G tokens: {days[0]:.2f} to {days[1]:.2f} days")
    return {"estimated_mfu": mfu, "chips": chips, "days": days, "tokens_per_step": tokens, **report.to_json()}


def row_on_tpu(run: PretrainRun, config: EncoderConfig, topology: str) -> dict[str, Any]:
    """Compile for a slice whose chips share the tokens of a row; its memory, and how many tokens each gets from others."""
    memory, chip = compile_step(run, config, topology).memory, CHIPS[parse_topology(topology)[2]]
    tokens, heads = run.data.tokens_per_row, config.num_attention_heads
    radius = skip_radius(jnp.full((1, heads), SCORE_BOUND), jnp.asarray(alibi_slopes(heads)), tokens)
    figures = {
        "chips": len(tpu_devices(topology)),
        "tokens_per_chip": tokens // run.mesh.sequence,
        "tokens_from_either_side": int(radius.max()),
        "memory": asdict(memory),
        "peak": memory.peak,
    }
    peak, arguments, hbm = (size / 2**30 for size in (memory.peak, memory.arguments, chip.hbm_bytes))
    print(f"{topology}: {peak:.2f} of {hbm:.0f} GiB per chip, {arguments:.2f} of them weights, moments and the batch")
    print(
        f"{figures['tokens_per_chip']:,} tokens of a row per chip; with scores of at most {SCORE_BOUND:g}, attention needs "
        f"{figures['tokens_from_either_side']:,} more from either side"
    )
    return figures


def on_gpus(run: PretrainRun, config: EncoderConfig, count: int) -> dict[str, Any]:
    """Compile for one machine with H100s; gives only the memory, and a lower bound on the time for the arithmetic."""
    compiled = compile_step_for_gpus(run, config, GPU, count)
    seconds = step_flops(run, config) / (count * (peak_flops(GPU_KIND) or math.inf))
    days = run.training.steps * seconds / SECONDS_A_DAY
    print(compiled)
    print(f"{run.training.steps:,} steps on {count} GPUs at their peak: {days:.2f} days; divide by your measured MFU")
    return {"gpus": count, "days_at_peak": days, **compiled.to_json()}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--topology", help="TPU slice, such as v5e:8x8")
    target.add_argument("--gpus", type=int, help="number of H100s in one machine")
    parser.add_argument("--size", choices=("117m", "1b"), default="117m", help="which configs/pretrain_*.toml to use")
    parser.add_argument("--batch", type=int, help="rows per step over all devices (default: the file's)")
    parser.add_argument("--tokens", type=int, help="tokens per row (default: the file's)")
    parser.add_argument("--sequence", type=int, help="mesh.sequence (default: the file's)")
    parser.add_argument("--fsdp", type=int, help="mesh.fsdp (default: the file's)")
    parser.add_argument("--tensor", type=int, help="mesh.tensor (default: the file's)")
    parser.add_argument("--set", nargs="+", default=[], metavar="a.b=c", help="other changes to the run")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)

    given = {
        "training.batch_size": options.batch,
        "data.tokens_per_row": options.tokens,
        "mesh.sequence": options.sequence,
        "mesh.fsdp": options.fsdp,
        "mesh.tensor": options.tensor,
    }
    overrides = [f"{key}={value}" for key, value in given.items() if value is not None] + options.set
    run = load_run(PretrainRun, CONFIGS / f"pretrain_{options.size}.toml", overrides)
    config = named_size(options.size, VOCABULARY)

    began = time.monotonic()
    if options.topology:
        figures = (on_tpu if run.mesh.sequence == 1 else row_on_tpu)(run, config, options.topology)
    else:
        figures = on_gpus(run, config, options.gpus)
    print(f"compiled in {time.monotonic() - began:.0f} s")
    if options.json:
        options.json.write_text(json.dumps({"size": options.size, "overrides": overrides, **figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
