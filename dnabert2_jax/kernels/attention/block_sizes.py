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

_BLOCK_BYTES = 8 * _MIB
"""What a kernel needs beside the row: tiles of scores on their way, blocks and tables."""

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


def row_fits(tokens: int, head_dim: int, itemsize: int, vmem: int) -> tuple[bool, bool]:
    """Whether the chip holds a whole row of one head, in the forward and in the backward pass.

    Arrays that the pipeline fills while the row before is computed with are there twice.

    Args:
        tokens: of a row, padded.
        head_dim: width of a head.
        itemsize: bytes of a number of q.
        vmem: bytes of on-chip memory.
    """
    segments = 48 * itemsize
    turned_keys = -(-(head_dim + 64) // LANES) * LANES * itemsize
    forward = 2 * (2 * head_dim * itemsize + segments) + turned_keys  # k, v
    backward = 2 * (3 * head_dim * itemsize + segments + 2 * 4) + head_dim * 4  # q, dO, dQ and two rows; the sum of dQ
    left = vmem - _BLOCK_BYTES
    return tokens * forward <= left, tokens * backward <= left


class GpuBlocks(NamedTuple):
    """One kernel's blocks and what it asks of the compiler.

    Attributes:
        own: tokens of the block that a program writes.
        other: tokens of a block that it visits.
        warps: of 32 threads, which share a program's work.
        stages: blocks on their way from memory at a time.
    """

    own: int
    other: int
    warps: int
    stages: int


class GpuPasses(NamedTuple):
    """Blocks of the three GPU kernels."""

    forward: GpuBlocks
    query_gradient: GpuBlocks
    key_gradient: GpuBlocks

    @property
    def unit(self) -> int:
        """Tokens of the longest block, of which a row has a whole number when it is padded."""
        return max(size for blocks in self for size in (blocks.own, blocks.other))


_GPU: dict[int, GpuPasses] = {
    64: GpuPasses(GpuBlocks(128, 64, 4, 3), GpuBlocks(128, 64, 4, 2), GpuBlocks(128, 64, 4, 2)),
    128: GpuPasses(GpuBlocks(128, 64, 4, 3), GpuBlocks(128, 64, 4, 2), GpuBlocks(128, 64, 4, 2)),
    256: GpuPasses(GpuBlocks(128, 64, 8, 2), GpuBlocks(128, 64, 8, 2), GpuBlocks(128, 64, 8, 2)),
    512: GpuPasses(GpuBlocks(64, 32, 8, 2), GpuBlocks(64, 32, 8, 2), GpuBlocks(64, 32, 8, 2)),
}
"""By the bytes of a token's head."""


def gpu_blocks(tokens: int, row_bytes: int) -> GpuPasses:
    """The blocks that serve rows of ``tokens`` tokens with ``row_bytes`` bytes of each head."""
    shortest = max(16, 1 << (tokens - 1).bit_length())
    passes = _GPU[min(size for size in _GPU if size >= row_bytes)]
    return GpuPasses(*(b._replace(own=min(b.own, shortest), other=min(b.other, shortest)) for b in passes))
