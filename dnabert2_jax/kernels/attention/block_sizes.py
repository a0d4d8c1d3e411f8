"""Block sizes of the TPU and GPU kernels, in one table.

The TPU sizes come from the cycles modeled by ``benchmarks/attention.py --target tpu`` for the blocks left after skipping
(S = 10, 12 heads). Long blocks keep the matrix units busy: a 128 x 128 tile of the forward pass costs 50 cycles in blocks of
512, 82 in blocks of 256. Short blocks visit fewer keys beyond the radius. Choosing sizes per slope saves less than 8 % over
the best single pair, so all heads share one pair.
"""

from typing import NamedTuple

from dnabert2_jax.kernels.attention.tpu.tile import FEATURES, LANES, SEGMENT_ROWS


class TpuBlocks(NamedTuple):
    """Sizes in tokens; all divide ``tokens``.

    Attributes:
        tokens: padded row length.
        queries: queries per block in the forward pass.
        keys: keys per block in the forward pass.
        backward_queries: queries per block in the backward pass.
        backward_keys: keys per block in the backward pass.
    """

    tokens: int
    queries: int
    keys: int
    backward_queries: int
    backward_keys: int


_BLOCK_BYTES = 8 * 2**20
"""What a kernel needs in addition to the row: tiles of scores in flight, blocks and tables."""

_CYCLES: dict[int, float] = {128: 120.0, 256: 82.0, 384: 60.0, 512: 50.0}
"""Cycles per 128 x 128 tile of the forward pass on v5e, by the size of both blocks; weighs short blocks against padding."""


def tpu_blocks(tokens: int) -> TpuBlocks:
    """The cheapest blocks for rows of ``tokens`` tokens, padding included."""

    def padded(block: int) -> int:
        return -(-tokens // block) * block

    block = min(_CYCLES, key=lambda size: padded(size) ** 2 * _CYCLES[size])
    return TpuBlocks(padded(block), block, block, block // 2 if block % (2 * LANES) == 0 else block, block)


def row_fits(tokens: int, head_dim: int, itemsize: int, vmem: int) -> tuple[bool, bool]:
    """Whether a whole row of one head fits on the chip, in the forward and in the backward pass.

    Arrays that the pipeline fills while the previous row is being processed are double-buffered.

    Args:
        tokens: padded row length.
        head_dim: head width.
        itemsize: bytes per element of q.
        vmem: bytes of on-chip memory.
    """
    segments = SEGMENT_ROWS * itemsize
    turned_keys = -(-(head_dim + FEATURES) // LANES) * LANES * itemsize
    forward = 2 * (2 * head_dim * itemsize + segments) + turned_keys  # k, v
    backward = 2 * (3 * head_dim * itemsize + segments + 2 * 4) + head_dim * 4  # q, dO, dQ and two rows; the sum of dQ
    left = vmem - _BLOCK_BYTES
    return tokens * forward <= left, tokens * backward <= left


class GpuBlocks(NamedTuple):
    """One kernel's block sizes and compiler parameters.

    Attributes:
        own: tokens in the block that a program writes.
        other: tokens in a block that it visits.
        warps: warps (of 32 threads) that share a program's work.
        stages: pipeline stages, i.e. blocks being loaded from memory at a time.
    """

    own: int
    other: int
    warps: int
    stages: int


class GpuPasses(NamedTuple):
    """Block sizes of the three GPU kernels."""

    forward: GpuBlocks
    query_gradient: GpuBlocks
    key_gradient: GpuBlocks

    @property
    def unit(self) -> int:
        """Tokens in the longest block; rows are padded to a multiple of it."""
        return max(size for blocks in self for size in (blocks.own, blocks.other))


def _passes(*sizes: tuple[int, int, int, int]) -> GpuPasses:
    return GpuPasses(*(GpuBlocks(*one) for one in sizes))


_AMPERE: dict[tuple[int, int], GpuPasses] = {
    (32, 2): _passes((128, 64, 4, 3), (128, 32, 4, 2), (128, 32, 4, 2)),
    (64, 2): _passes((128, 32, 4, 3), (128, 32, 8, 2), (128, 32, 8, 2)),
    (128, 2): _passes((128, 32, 8, 2), (64, 32, 4, 2), (64, 32, 8, 2)),
    (32, 4): _passes((64, 32, 4, 2), (32, 32, 4, 2), (64, 32, 4, 2)),
    (64, 4): _passes((64, 32, 8, 2), (64, 32, 8, 2), (64, 16, 8, 2)),
    (128, 4): _passes((32, 32, 8, 2), (32, 16, 8, 2), (32, 16, 8, 2)),
}
"""By head width and bytes per element. Each warp reads all keys of a tile from shared memory, so few warps with many rows
each are best where the registers allow it. float32 has no matrix units and is supported for exactness, not for speed."""

_HOPPER: dict[tuple[int, int], GpuPasses] = {
    (32, 2): _passes((128, 64, 4, 3), (128, 64, 8, 2), (128, 64, 8, 2)),
    (64, 2): _passes((128, 64, 8, 3), (128, 64, 8, 2), (128, 64, 8, 2)),
    (128, 2): _passes((128, 64, 8, 2), (128, 64, 8, 2), (64, 64, 8, 2)),
    (32, 4): _passes((64, 32, 4, 2), (32, 32, 4, 2), (64, 32, 4, 2)),
    (64, 4): _passes((64, 32, 8, 2), (64, 32, 8, 2), (64, 16, 8, 2)),
    (128, 4): _passes((32, 16, 8, 2), (32, 16, 8, 2), (32, 16, 8, 1)),
}
"""The same for GPUs whose matrix units read both operands from shared memory."""


def gpu_blocks(tokens: int, head_dim: int, itemsize: int, capability: str) -> GpuPasses:
    """The blocks for rows of ``tokens`` tokens.

    Chosen to do the most work per memory read without spilling registers, as reported by ptxas for an H100 and an A100
    (tests/aot/test_attention_gpu.py); not yet timed on hardware.

    Args:
        tokens: tokens per row.
        head_dim: 32, 64 or 128.
        itemsize: bytes per element: 2 or 4.
        capability: compute capability, such as ``9.0``; empty if unknown.
    """
    passes = (_HOPPER if capability.startswith(("9.", "10.")) else _AMPERE)[head_dim, itemsize]
    shortest = max(16, 1 << (tokens - 1).bit_length())
    return GpuPasses(*(b._replace(own=min(b.own, shortest), other=min(b.other, shortest)) for b in passes))


_WARPGROUPS: dict[int, GpuPasses] = {
    64: _passes((128, 128, 12, 2), (128, 128, 12, 2), (128, 64, 12, 2)),
    128: _passes((128, 128, 12, 2), (128, 64, 12, 2), (128, 64, 12, 2)),
}
"""By head width, for Hopper's kernels: two warpgroups with 64 rows each and one that copies blocks."""


def hopper_blocks(head_dim: int) -> GpuPasses:
    """The blocks of the Mosaic kernels, chosen to spill no registers; not yet timed on hardware.

    Args:
        head_dim: up to 128.
    """
    return _WARPGROUPS[64 if head_dim <= 64 else 128]
