"""Attention for NVIDIA GPUs: exact, in O(T) memory, with ALiBi and segments inside the tile and irrelevant blocks skipped.

This module determines which blocks the three kernels visit: those of :mod:`~.triton`, or those of :mod:`~.mosaic`, which are
for Hopper.
"""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dnabert2_jax.errors import UserError
from dnabert2_jax.kernels.attention.block_sizes import GpuBlocks, GpuPasses, gpu_blocks, hopper_blocks
from dnabert2_jax.kernels.attention.gpu.tile import GpuInputs, GradientRows
from dnabert2_jax.kernels.attention.kernel import Gradients, Inputs, Kernel, Saved
from dnabert2_jax.kernels.attention.ring import attend
from dnabert2_jax.kernels.attention.skipping import block_ranges, score_bound, skip_radius
from dnabert2_jax.platform import current_target

_MIN_HEAD_DIM = 32  # in the table of block sizes
_HEAD_DIM_UNIT = 64


def pallas_gpu_attention(inputs: Inputs, *, scale: float, skip: bool = True) -> tuple[jax.Array, jax.Array]:
    """The :class:`~dnabert2_jax.kernels.attention.kernel.AttentionFunction` of GPUs, in layout bthd.

    q, k and v are float32, bfloat16 or float16.
    """
    target, q = current_target(), inputs.q
    passes = gpu_blocks(q.shape[1], _padded(q.shape[3]), q.dtype.itemsize, target.generation)
    return attend(GpuKernel(scale, skip, passes, target.interpret), inputs)


def mosaic_gpu_attention(inputs: Inputs, *, scale: float, skip: bool = True) -> tuple[jax.Array, jax.Array]:
    """The :class:`~dnabert2_jax.kernels.attention.kernel.AttentionFunction` of Hopper GPUs, in layout bthd.

    Raises:
        UserError: q, k and v are not all bfloat16 or all float16.
    """
    target, (q, k, v) = current_target(), inputs[:3]
    if not (q.dtype == k.dtype == v.dtype and (q.dtype in (jnp.bfloat16, jnp.float16) or target.interpret)):
        raise UserError(
            "attention backend 'mosaic_gpu' accepts q, k, v all in bfloat16 or all in float16 (Hopper's matrix units would "
            f"round float32 to TF32); found {q.dtype}, {k.dtype}, {v.dtype}; use 'auto' or 'pallas_gpu'"
        )
    return attend(HopperKernel(scale, skip, hopper_blocks(q.shape[3]), target.interpret), inputs)


def _padded(head_dim: int) -> int:
    """The head width in Triton tiles, a power of two."""
    return max(_MIN_HEAD_DIM, 1 << (head_dim - 1).bit_length())


@dataclass(frozen=True)
class GpuKernel(Kernel):
    """The kernels for one row length. The log-sum-exp is in bits, because a GPU computes 2^x.

    Attributes:
        passes: block sizes.
        interpret: for `pallas_call`.
    """

    passes: GpuPasses
    interpret: Any

    # The layout a matrix product writes: cuBLAS has no transposed output, and tile rows are whole cache lines here as well.
    layout = "bthd"

    @property
    def kernels(self) -> ModuleType:
        """The module of the three kernels; some version of jax may lack what they are compiled with."""
        from dnabert2_jax.kernels.attention.gpu import triton

        return triton

    @property
    def saves_bound(self) -> bool:  # noqa: D102
        return True

    @property
    def nats(self) -> float:  # noqa: D102
        return float(np.log(2))

    def pad(self, inputs: Inputs) -> Inputs:
        """Pad segment ids to whole blocks and heads to a power of two; the kernels mask tokens past the end of q, k, v."""
        missing = _padded(inputs.q.shape[3]) - inputs.q.shape[3]
        q, k, v = (jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, missing))) if missing else x for x in inputs[:3])
        tokens = inputs.segment_ids.shape[1]
        return Inputs(q, k, v, inputs.slopes, jnp.pad(inputs.segment_ids, ((0, 0), (0, -tokens % self.passes.unit))))

    def forward(self, inputs: Inputs) -> Saved:  # noqa: D102
        real = inputs.segment_ids[:, : inputs.q.shape[1]]
        bound = score_bound(inputs.q, inputs.k, real, self.scale, layout=self.layout)
        output, bits = self._launch("forward", self.passes.forward, inputs, bound)
        return Saved(output, bits, bound)

    def backward(  # noqa: D102
        self, inputs: Inputs, saved: Saved, d_output: jax.Array, d_log_sum_exp: jax.Array | None
    ) -> Gradients:
        assert saved.bound is not None
        delta = jnp.einsum(
            "bthd,bthd->bht", d_output.astype(jnp.float32), saved.output.astype(jnp.float32), precision="highest"
        )
        delta = jnp.pad(delta, ((0, 0), (0, 0), (0, saved.log_sum_exp.shape[2] - delta.shape[2])))
        if d_log_sum_exp is not None:
            delta = delta - d_log_sum_exp
        rows = GradientRows(d_output, saved.log_sum_exp, delta)
        return Gradients(
            *self._launch("query_gradient", self.passes.query_gradient, inputs, saved.bound, rows),
            *self._launch("key_gradient", self.passes.key_gradient, inputs, saved.bound, rows),
        )

    def _launch(
        self, name: str, blocks: GpuBlocks, inputs: Inputs, bound: jax.Array, rows: GradientRows | None = None
    ) -> tuple[jax.Array, ...]:
        slopes, segment_ids = inputs.slopes, inputs.segment_ids
        radius = skip_radius(bound, slopes, segment_ids.shape[1]) if self.skip else None
        bounds = visited_bounds(segment_ids, radius, slopes.shape[0], blocks.own, blocks.other)
        kernel = getattr(self.kernels, name)
        results: tuple[jax.Array, ...] = kernel(
            GpuInputs(*inputs, bounds), rows, scale=self.scale, blocks=blocks, interpret=self.interpret
        )
        return results


@dataclass(frozen=True)
class HopperKernel(GpuKernel):
    """The same with the kernels for Hopper."""

    @property
    def kernels(self) -> ModuleType:  # noqa: D102
        from dnabert2_jax.kernels.attention.gpu import mosaic

        return mosaic

    @property
    def single_device(self) -> bool:
        """In Mosaic's interpreter: its ordered effects have no rule in `custom_partitioning`."""
        return bool(self.interpret)

    def pad(self, inputs: Inputs) -> Inputs:
        """Pad tokens to whole blocks and heads to a multiple of 64, which is 128 bytes: the kernels copy whole tiles."""
        tokens, missing = -inputs.segment_ids.shape[1] % self.passes.unit, -inputs.q.shape[3] % _HEAD_DIM_UNIT
        q, k, v = (jnp.pad(x, ((0, 0), (0, tokens), (0, 0), (0, missing))) for x in inputs[:3])
        return Inputs(q, k, v, inputs.slopes, jnp.pad(inputs.segment_ids, ((0, 0), (0, tokens))))


def visited_bounds(segment_ids: jax.Array, radius: jax.Array | None, heads: int, own: int, other: int) -> jax.Array:
    """The ``bounds`` of :class:`~.tile.GpuInputs`, int32 [B, H, n, 6]; arguments as for `block_ranges`."""
    tokens = segment_ids.shape[1]
    start, stop = block_ranges(segment_ids, radius, heads, own, other)
    first = own * jnp.arange(tokens // own, dtype=jnp.int32)
    index = jnp.arange(tokens // other, dtype=jnp.int32)
    own_start, own_stop = first // other, (first + own - 1) // other + 1  # the blocks that meet the diagonal
    # [B, n, m] booleans, reduced as they are computed: which pairs of blocks are not in one and the same sequence.
    mixed = _only_number(segment_ids, own, 0)[:, :, None] != _only_number(segment_ids, other, -1)[:, None, :]
    inner_start = jnp.where(mixed & (index < own_start[:, None]), index + 1, 0).max(axis=-1)
    inner_stop = jnp.where(mixed & (index >= own_stop[:, None]), index, tokens // other).min(axis=-1)
    between = (jnp.clip(x[..., None, :], start, stop) for x in (inner_start, own_start, own_stop, inner_stop))
    return jnp.stack([start, *between, stop], axis=-1)


def _only_number(segment_ids: jax.Array, block: int, otherwise: int) -> jax.Array:
    """The index of the sequence that fills a block, or ``otherwise``; int32 [B, n]."""
    numbers = segment_ids.reshape(segment_ids.shape[0], -1, block)
    smallest, largest = numbers.min(axis=-1), numbers.max(axis=-1)
    return jnp.where((smallest == largest) & (smallest > 0), smallest, otherwise)
