"""Modelled cycles of the TPU attention kernel on v5e, beside jax's `flash_attention` given the dense bias.

Nothing runs: programs are compiled for a chip that is not here and every instruction is charged (dnabert2_jax.aot). The
trips of loops that depend on data are those of a score bound S = 10 and one sequence a row.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.flash_attention import BlockSizes, flash_attention

from dnabert2_jax.aot import KernelRun, TpuReport, compile_for_tpu, tpu_devices
from dnabert2_jax.kernels.attention import alibi_slopes, tracing_for
from dnabert2_jax.kernels.attention.block_sizes import tpu_blocks
from dnabert2_jax.kernels.attention.pallas_tpu import pallas_tpu_attention
from dnabert2_jax.kernels.attention.skipping import BlockRanges, block_ranges, skip_radius

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
    return BlockRanges(*map(np.asarray, ranges))


def _visits(ranges: BlockRanges, block: int, other: int) -> tuple[int, int]:
    """Blocks visited beside the diagonal and on it, over the whole call."""
    first = block * np.arange(ranges.start.shape[-1])
    diagonal = np.minimum(ranges.stop, (first + block - 1) // other + 1) - np.maximum(ranges.start, first // other)
    return int((ranges.stop - ranges.start - diagonal).sum()), int(diagonal.sum())


def kernel_runs(batch: int, tokens: int, skip: bool) -> dict[str, KernelRun]:
    """Trips of the kernels' loops, in the order of the schedule, for rows of one sequence each."""
    blocks = tpu_blocks(tokens)
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
    return pallas_tpu_attention(q, k, v, slopes, segment_ids, scale=HEAD_DIM**-0.5, skip=skip)[0]


def _both(f: Callable[..., jax.Array], q: jax.Array, k: jax.Array, v: jax.Array, *rest: jax.Array) -> Any:
    *inputs, cotangent = rest
    output, vjp = jax.vjp(lambda q, k, v: f(q, k, v, *inputs), q, k, v)
    return output, vjp(cotangent)


def ours(batch: int, tokens: int, *, skip: bool, backward: bool) -> TpuReport:
    """The whole call, in the layout that the projections write."""
    x = _array((batch, HEADS, HEAD_DIM, tokens))
    f = partial(_forward, skip=skip)
    arguments = [x, x, x, _array((batch, tokens), jnp.int32)]
    with tracing_for("tpu", GENERATION):
        compiled = compile_for_tpu(
            partial(_both, f) if backward else f, *arguments, *([x] if backward else []), topology=TOPOLOGY
        )
    runs = kernel_runs(batch, tokens, skip)
    return compiled.report(runs if backward else {name: run for name, run in runs.items() if "forward" in name})


def dense_flash(batch: int, tokens: int, *, bias: bool, backward: bool) -> TpuReport:
    """`flash_attention` of jax at the best of several block sizes."""
    x = _array((batch, HEADS, tokens, HEAD_DIM))
    arguments = [
        x,
        x,
        x,
        *([_array((batch, HEADS, tokens, tokens), jnp.float32)] if bias else []),
        *([x] if backward else []),
    ]
    reports = []
    for block_q, block_k in ((512, 512), (512, 1024), (1024, 1024), (256, 1024)):
        b = {"block_q": block_q, "block_k_major": block_k, "block_k": block_k, "block_b": 1}
        b |= {f"block_{n}_dkv": block_k for n in ("k_major", "k")} | {f"block_{n}_dkv": block_q for n in ("q_major", "q")}
        b |= {"block_k_major_dq": block_k, "block_k_dq": block_k, "block_q_dq": block_q}
        f = partial(flash_attention, sm_scale=HEAD_DIM**-0.5, block_sizes=BlockSizes(**b))
        compiled = compile_for_tpu(partial(_both, f) if backward else f, *arguments, topology=TOPOLOGY)
        reports.append(compiled.report())
    return min(reports, key=lambda report: report.cycles)


if __name__ == "__main__":
    for batch, tokens in ((8, 2048), (1, 8192)):
        for backward in (False, True):
            for skip in (False, True):
                print("OURS", batch, tokens, "backward" if backward else "forward", "skip" if skip else "all")
                print(ours(batch, tokens, skip=skip, backward=backward))
            print("FLASH bias")
            print(dense_flash(batch, tokens, bias=True, backward=backward))
