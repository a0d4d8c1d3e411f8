"""Modeled cycles of the TPU attention kernel on v5e vs. jax's `flash_attention` with the dense bias.

Nothing runs: programs are compiled for a chip this machine does not have, and every instruction is charged (aot). The trips
of data-dependent loops are those for a score bound S = 10 and one sequence per row.
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from aot import KernelRun, TpuReport, compile_for_tpu, tpu_devices
from aot.costs import COPIES
from jax.experimental.pallas.ops.tpu.flash_attention import BlockSizes, flash_attention

from dnabert2_jax.kernels.attention import Inputs, alibi_slopes, tracing_for
from dnabert2_jax.kernels.attention.block_sizes import tpu_blocks
from dnabert2_jax.kernels.attention.skipping import BlockRanges, block_ranges, skip_radius
from dnabert2_jax.kernels.attention.tpu.backend import pallas_tpu_attention

TOPOLOGY, GENERATION = "v5e:2x2", "v5e"
HEADS, HEAD_DIM = 12, 64
SCORE_BOUND = 10.0
TILE = 128


def _array(shape: tuple[int, ...], dtype: Any = jnp.bfloat16) -> jax.ShapeDtypeStruct:
    device = tpu_devices(TOPOLOGY)[0]
    return jax.ShapeDtypeStruct(shape, dtype, sharding=jax.sharding.SingleDeviceSharding(device))


def _ranges(batch: int, tokens: int, skip: bool, block: int, other: int) -> BlockRanges:
    bound = jnp.full((batch, HEADS), SCORE_BOUND)
    radius = skip_radius(bound, jnp.asarray(alibi_slopes(HEADS)), tokens) if skip else None
    ranges = block_ranges(jnp.ones((batch, tokens), jnp.int32), radius, HEADS, block, other)
    return jax.tree.map(np.asarray, ranges)


def _visits(ranges: BlockRanges, block: int, other: int) -> tuple[int, int]:
    """Blocks visited off the diagonal and on it, over the whole call."""
    first = block * np.arange(ranges.start.shape[-1])
    diagonal = np.minimum(ranges.stop, (first + block - 1) // other + 1) - np.maximum(ranges.start, first // other)
    return int((ranges.stop - ranges.start - diagonal).sum()), int(diagonal.sum())


def kernel_runs(batch: int, tokens: int, skip: bool) -> dict[str, KernelRun]:
    """Trips of the kernels' loops, in schedule order, for rows of one sequence each."""
    blocks = tpu_blocks(tokens)
    if tokens <= TILE:
        return {}
    pairs = batch * HEADS
    beside, diagonal = _visits(_ranges(batch, tokens, skip, blocks.queries, blocks.keys), blocks.queries, blocks.keys)
    back = (blocks.backward_keys, blocks.backward_queries)
    back_beside, back_diagonal = _visits(_ranges(batch, tokens, skip, *back), *back)
    row = pairs * tokens
    return {
        "alibi_attention_forward": KernelRun((row // blocks.keys, HEADS, beside, diagonal, 0)),
        "alibi_attention_backward": KernelRun((row // back[1], HEADS, back_beside, back_diagonal, row // back[1])),
    }


def _forward(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array, *, skip: bool) -> jax.Array:
    slopes = jnp.asarray(alibi_slopes(HEADS))
    return pallas_tpu_attention(Inputs(q, k, v, slopes, segment_ids), scale=HEAD_DIM**-0.5, skip=skip)[0]


def _both(f: Callable[..., jax.Array], q: jax.Array, k: jax.Array, v: jax.Array, *rest: jax.Array) -> Any:
    *inputs, cotangent = rest
    output, vjp = jax.vjp(lambda q, k, v: f(q, k, v, *inputs), q, k, v)
    return output, vjp(cotangent)


def ours(batch: int, tokens: int, *, skip: bool, backward: bool) -> TpuReport:
    """The whole call, in the layout written by the projections."""
    x = _array((batch, HEADS, HEAD_DIM, tokens))
    f = partial(_forward, skip=skip)
    arguments = [x, x, x, _array((batch, tokens), jnp.int32)]
    with tracing_for("tpu", GENERATION):
        compiled = compile_for_tpu(
            partial(_both, f) if backward else f, *arguments, *([x] if backward else []), topology=TOPOLOGY
        )
    runs = kernel_runs(batch, tokens, skip)
    return compiled.report(runs if backward else {name: run for name, run in runs.items() if "forward" in name})


def flash(batch: int, tokens: int, *, bias: bool, backward: bool) -> TpuReport:
    """The `flash_attention` of jax at the best of several block sizes; with ``bias``, given the dense float32 bias.

    Its largest blocks need more VMEM than the 16 MiB that XLA grants a kernel by default, which leaves less for XLA itself.
    """
    x = _array((batch, HEADS, tokens, HEAD_DIM))
    arguments = [
        x,
        x,
        x,
        *([_array((batch, HEADS, tokens, tokens), jnp.float32)] if bias else []),
        *([x] if backward else []),
    ]
    reports = []
    default: dict[str, str] = {}
    large = {"xla_tpu_scoped_vmem_limit_kib": "98304"}
    for block_q, block_k, limit in (
        (256, 512, default),
        (512, 512, default),
        (512, 1024, default),
        (1024, 1024, default),
        (1024, 1024, large),
    ):
        sizes = {"block_q": block_q, "block_k_major": block_k, "block_k": block_k, "block_b": 1}
        sizes |= {f"block_{name}_dkv": block_k for name in ("k_major", "k")}
        sizes |= {f"block_{name}_dkv": block_q for name in ("q_major", "q")}
        sizes |= {"block_k_major_dq": block_k, "block_k_dq": block_k, "block_q_dq": block_q}
        f = partial(flash_attention, sm_scale=HEAD_DIM**-0.5, block_sizes=BlockSizes(**sizes))
        call = partial(_both, f) if backward else f
        try:
            compiled = compile_for_tpu(call, *arguments, topology=TOPOLOGY, compiler_options=limit)
        except jax.errors.JaxRuntimeError as error:
            if "vmem" not in str(error):
                raise
            continue
        reports.append(compiled.report())
    return min(reports, key=lambda report: report.cycles)


def _kernel_cycles(report: TpuReport, name: str) -> tuple[float, str]:
    kernel = next(k for k in report.account.kernels if k.kernel == name)
    return kernel.cycles, kernel.bottleneck


def tile_table() -> dict[str, float]:
    """Cycles of the kernels per tile and head, with every key visited, and of the short kernels per row and head."""
    figures: dict[str, float] = {}
    print("kernel alone, no skipping, cycles per 128 x 128 tile and head (goals: forward 78 at 2k, 74 at 8k; backward 175)")
    for batch, tokens, suffix in ((8, 2048, ""), (1, 8192, "_8k")):
        report = ours(batch, tokens, skip=False, backward=True)
        tiles = batch * HEADS * (tokens // TILE) ** 2
        for part in ("forward", "backward"):
            cycles, bottleneck = _kernel_cycles(report, f"alibi_attention_{part}")
            figures[f"{part}_cycles_per_tile{suffix}"] = cycles / tiles
            print(f"  {tokens:>6,} tokens  {part:<9}{cycles / tiles:>8.1f}  by {bottleneck}")
        print(
            f"  {tokens:>6,} tokens  whole call, both directions {report.cycles / tiles:.1f}, copies and layouts "
            f"{report.account.by_class[COPIES] / tiles:.2f}"
        )
    rows = 512
    report = ours(rows, TILE, skip=False, backward=True)
    print("rows of 128 tokens, cycles per row and head (goal: forward 130)")
    for part in ("forward", "backward"):
        cycles, bottleneck = _kernel_cycles(report, f"alibi_attention_short_{part}")
        figures[f"short_{part}_cycles_per_pair"] = cycles / (rows * HEADS)
        print(f"  {part:<9}{cycles / (rows * HEADS):>8.1f}  by {bottleneck}")
    return figures


def speed_table() -> dict[str, float]:
    """Whole calls vs. `flash_attention`, which cannot compute ALiBi without the dense bias."""
    figures: dict[str, float] = {}
    print(f"whole call, M cycles, skipping on, S = {SCORE_BOUND:g} (goals for the forward pass: 2.5x at 2k, 4.5x at 8k)")
    for batch, tokens, suffix in ((8, 2048, "2k"), (1, 8192, "8k")):
        for backward in (False, True):
            here, dense = (
                ours(batch, tokens, skip=True, backward=backward),
                flash(batch, tokens, bias=True, backward=backward),
            )
            plain = flash(batch, tokens, bias=False, backward=backward)
            figures[f"modelled_speedup_{suffix}" + ("_with_backward" if backward else "")] = dense.cycles / here.cycles
            what = "forward and backward" if backward else "forward"
            print(
                f"  {batch} x {tokens:,}  {what:<21} here {here.cycles / 1e6:.2f}, flash_attention with the bias "
                f"{dense.cycles / 1e6:.2f}, without {plain.cycles / 1e6:.2f}: {dense.cycles / here.cycles:.2f}x"
            )
    return figures


def measure(arguments: list[str]) -> dict[str, float]:
    """Print the tables and return their figures."""
    argparse.ArgumentParser(prog="attention.py --target tpu", description=__doc__).parse_args(arguments)
    return tile_table() | speed_table()
