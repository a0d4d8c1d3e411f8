"""Figures of the accelerators that programs are compiled for."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """One TPU chip, as the cost model sees it.

    Attributes:
        name: as in the first part of a topology, ``v5e:2x2``.
        clock_hz: cycles per second.
        hbm_bytes: size of the memory.
        hbm_bytes_per_cycle: rate of the memory.
        ici_bytes_per_cycle: rate at which a ring over one mesh axis carries a collective, both directions together.
        flops_per_cycle: peak of the matrix units in bfloat16.
        matrix_cycles: cycles for which one matrix instruction occupies its unit.
    """

    name: str
    clock_hz: float
    hbm_bytes: int
    hbm_bytes_per_cycle: float
    ici_bytes_per_cycle: float
    flops_per_cycle: int
    matrix_cycles: int


V5E = Chip(
    name="v5e",
    clock_hz=1.5e9,
    hbm_bytes=16 * 2**30,
    hbm_bytes_per_cycle=546,  # 819 GB/s
    ici_bytes_per_cycle=60,  # 2 links of 45 GB/s
    flops_per_cycle=131_072,  # 4 units of 128 x 128 multiply-adds: 197 TFLOP/s
    matrix_cycles=16,
)

CHIPS = {chip.name: chip for chip in [V5E]}
