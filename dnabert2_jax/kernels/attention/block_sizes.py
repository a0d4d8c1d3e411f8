"""Block sizes of the TPU kernel and the memory it may use, by generation: the one table.

From the modelled cycles of ``benchmarks/attention.py --target tpu`` with the blocks that skipping leaves (S = 10, 12 heads).
Long blocks keep the matrix units busy: a 128 x 128 tile of the forward pass costs 50 cycles in blocks of 512, 82 in blocks
of 256. Short ones visit fewer keys beyond the radius. Sizes chosen for each slope save less than 8 % over the best single
pair, so all heads share one.
"""

from typing import NamedTuple

from dnabert2_jax.kernels.attention.pallas_tpu_tile import LANES


class TpuBlocks(NamedTuple):
    """Sizes in tokens; all divide ``tokens``.

    Attributes:
        tokens: length of a row, padded.
        queries: queries of a block in the forward pass.
        keys: keys of a block in the forward pass.
        backward_queries: queries of a block in the backward pass.
        backward_keys: keys of a block in the backward pass.
    """

    tokens: int
    queries: int
    keys: int
    backward_queries: int
    backward_keys: int


_MIB = 2**20

VMEM: dict[str, int] = {"v4": 16 * _MIB, "v5e": 128 * _MIB, "v5p": 64 * _MIB, "v6e": 128 * _MIB}
"""Bytes of on-chip memory a core has, by generation."""

_CYCLES: dict[int, float] = {128: 120.0, 256: 82.0, 384: 60.0, 512: 50.0}
"""Cycles per 128 x 128 tile of the forward pass on v5e, by size of both blocks: what short ones cost against padding."""


def tpu_blocks(tokens: int) -> TpuBlocks:
    """The blocks that serve rows of ``tokens`` tokens at the least cost, padding included."""

    def padded(block: int) -> int:
        return -(-tokens // block) * block

    block = min(_CYCLES, key=lambda size: padded(size) ** 2 * _CYCLES[size])
    return TpuBlocks(padded(block), block, block, block // 2 if block % (2 * LANES) == 0 else block, block)


def longest_row(generation: str, head_dim: int) -> int:
    """Longest row in tokens that the kernels of a generation hold on the chip, forward and backward."""
    return VMEM[generation or "v5e"] * 3 // 4 // (12 * head_dim)
