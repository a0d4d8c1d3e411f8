"""Attention for TPUs: exact, in O(T) memory, with ALiBi and segments inside the tile and irrelevant blocks skipped.

This module chooses between the kernels of :mod:`~.forward`, :mod:`~.backward` and, for rows of up to 128 tokens,
:mod:`~.short`, and prepares their inputs.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from dnabert2_jax.errors import UserError
from dnabert2_jax.kernels.attention.block_sizes import TpuBlocks, row_fits, tpu_blocks
from dnabert2_jax.kernels.attention.kernel import Gradients, Inputs, Kernel, Saved
from dnabert2_jax.kernels.attention.ring import attend
from dnabert2_jax.kernels.attention.skipping import block_ranges, bound_of_norms, skip_radius
from dnabert2_jax.kernels.attention.tpu.backward import backward
from dnabert2_jax.kernels.attention.tpu.forward import SAFE_BOUND, forward
from dnabert2_jax.kernels.attention.tpu.rows import longest_rows, row_products
from dnabert2_jax.kernels.attention.tpu.short import short_backward, short_forward
from dnabert2_jax.kernels.attention.tpu.tile import LANES, Tiling
from dnabert2_jax.platform import current_target, vmem_bytes

_HEAD_DIM_UNIT = 16
"""Rows of one bfloat16 register; a head is padded to whole registers."""


def pallas_tpu_attention(inputs: Inputs, *, scale: float, skip: bool = True) -> tuple[jax.Array, jax.Array]:
    """The :class:`~dnabert2_jax.kernels.attention.kernel.AttentionFunction` of TPUs, in layout bhdt.

    Raises:
        UserError: q, k and v are not all bfloat16 or all float32.
    """
    q, k, v = inputs[:3]
    if not (q.dtype == k.dtype == v.dtype and q.dtype in (jnp.bfloat16, jnp.float32)):
        raise UserError(
            "attention backend 'pallas_tpu' accepts q, k, v all in bfloat16 or all in float32; "
            f"found {q.dtype}, {k.dtype}, {v.dtype}"
        )
    target = current_target()
    kernel = TpuKernel(scale, skip, tpu_blocks(q.shape[3]), vmem_bytes(target.generation), target.interpret)
    return attend(kernel, inputs)


@dataclass(frozen=True)
class TpuKernel(Kernel):
    """The kernels for one row length. The log-sum-exp is in units of the product q.k, before the scale.

    Attributes:
        blocks: block sizes.
        vmem: bytes of on-chip memory.
        interpret: for `pallas_call`.
    """

    blocks: TpuBlocks
    vmem: int
    interpret: Any

    layout = "bhdt"

    @property
    def _short(self) -> bool:
        return self.blocks.tokens == LANES

    @property
    def saves_bound(self) -> bool:  # noqa: D102
        return not self._short

    @property
    def nats(self) -> float:  # noqa: D102
        return self.scale

    def pad(self, inputs: Inputs) -> Inputs:
        """Pad the head width to whole registers and the tokens to whole blocks."""
        head_dim, tokens = inputs.q.shape[2:]
        rows, columns = -head_dim % _HEAD_DIM_UNIT, self.blocks.tokens - tokens
        if not (rows or columns):
            return inputs
        q, k, v = (jnp.pad(x, ((0, 0), (0, 0), (0, rows), (0, columns))) for x in inputs[:3])
        return Inputs(q, k, v, inputs.slopes, jnp.pad(inputs.segment_ids, ((0, 0), (0, columns))))

    def forward(self, inputs: Inputs) -> Saved:  # noqa: D102
        q, k, _, slopes, segment_ids = inputs
        if self._short:
            output, log_sum_exp = short_forward(inputs, scale=self.scale, interpret=self.interpret)
            return Saved(output, log_sum_exp[:, :, 0])
        tiling = self._tiling(q, backward=False)
        bound = bound_of_norms(*longest_rows(q, k, segment_ids, interpret=self.interpret), self.scale)
        ranges = block_ranges(segment_ids, self._radius(bound, slopes), q.shape[1], tiling.queries, tiling.keys)
        output, log_sum_exp = forward(inputs, ranges, (bound <= SAFE_BOUND).astype(jnp.int32), tiling)
        return Saved(output, log_sum_exp[:, :, 0], bound)

    def backward(  # noqa: D102
        self, inputs: Inputs, saved: Saved, d_output: jax.Array, d_log_sum_exp: jax.Array | None
    ) -> Gradients:
        q, slopes, segment_ids = inputs.q, inputs.slopes, inputs.segment_ids
        if saved.bound is None:
            rows = jnp.stack([x for x in (saved.log_sum_exp, d_log_sum_exp) if x is not None], axis=2)
            return Gradients(
                *short_backward(inputs, saved.output, d_output, rows, scale=self.scale, interpret=self.interpret)
            )
        tiling = self._tiling(q, backward=True)
        delta = row_products(d_output, saved.output, interpret=self.interpret)
        if d_log_sum_exp is not None:
            delta = delta - d_log_sum_exp[:, :, None]
        ranges = block_ranges(segment_ids, self._radius(saved.bound, slopes), q.shape[1], tiling.keys, tiling.queries)
        return Gradients(*backward(inputs, ranges, d_output, saved.log_sum_exp[:, :, None], delta, tiling))

    def _tiling(self, q: jax.Array, *, backward: bool) -> Tiling:
        blocks, fits = self.blocks, row_fits(q.shape[3], q.shape[2], q.dtype.itemsize, self.vmem)
        queries, keys = (blocks.backward_queries, blocks.backward_keys) if backward else (blocks.queries, blocks.keys)
        return Tiling(self.scale, queries, keys, fits[backward], self.vmem, self.interpret)

    def _radius(self, bound: jax.Array, slopes: jax.Array) -> jax.Array | None:
        return skip_radius(bound, slopes, self.blocks.tokens) if self.skip else None
