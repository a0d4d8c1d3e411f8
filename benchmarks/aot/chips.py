"""Data-sheet figures of the accelerators that programs are compiled for."""

from dataclasses import dataclass
from math import log2

from dnabert2_jax.platform import TPUS


@dataclass(frozen=True)
class Chip:
    """One TPU chip as the cost model sees it, with per-cycle figures in addition to :data:`TPUS`.

    Attributes:
        name: the first part of a topology such as ``v5e:2x2``.
        clock_hz: cycles per second.
        link_bytes_per_cycle: rate of a link to a neighbor, in one direction.
        ring: a side of the slice is a ring if its length is a multiple of this.
        matrix_cycles: cycles for which one matrix instruction occupies its unit.
    """

    name: str
    clock_hz: float
    link_bytes_per_cycle: float
    ring: int
    matrix_cycles: int

    def wraps(self, length: int) -> bool:
        """Whether a side of the slice is a ring."""
        return length % self.ring == 0

    @property
    def hbm_bytes(self) -> int:
        """Memory size."""
        return TPUS[self.name].hbm_bytes

    @property
    def hbm_bytes_per_cycle(self) -> float:
        """Memory bandwidth."""
        return float(TPUS[self.name].hbm_bytes_per_second // self.clock_hz)

    @property
    def flops_per_cycle(self) -> int:
        """Peak of the matrix units in bfloat16: a power of two, like their dimensions, which data sheets round."""
        return 2 ** round(log2(TPUS[self.name].peak_flops / self.clock_hz))


V5E = Chip("v5e", 1.5e9, link_bytes_per_cycle=30, ring=16, matrix_cycles=16)  # 45 GB/s
# Two cores, links of 90 GB/s. A Pallas call is charged as if one core ran it.
V5P = Chip("v5p", 1.75e9, link_bytes_per_cycle=51.5, ring=4, matrix_cycles=16)
# Links of 90 GB/s; an instruction of 32 rows, two rows a cycle, 256 x 256 multiply-adds.
V6E = Chip("v6e", 1.75e9, link_bytes_per_cycle=51.5, ring=16, matrix_cycles=16)

CHIPS = {chip.name: chip for chip in [V5E, V5P, V6E]}


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU, with what XLA needs to know to compile for it.

    Attributes:
        name: as the driver reports it.
        capability: CUDA compute capability, major and minor.
        processors: streaming multiprocessors.
        fp32_per_processor: float32 units per multiprocessor.
        clock_ghz: boost clock.
        memory_bytes: memory size.
        memory_bytes_per_second: memory bandwidth.
        l2_bytes: size of the L2 cache.
        shared_bytes: shared memory per multiprocessor.
    """

    name: str
    capability: tuple[int, int]
    processors: int
    fp32_per_processor: int
    clock_ghz: float
    memory_bytes: int
    memory_bytes_per_second: float
    l2_bytes: int
    shared_bytes: int

    @property
    def target_config(self) -> str:
        """XLA's description of a GPU, as a text proto."""
        major, minor = self.capability
        kib = 1024
        return f"""
            gpu_device_info {{
              cuda_compute_capability {{ major: {major} minor: {minor} }}
              core_count: {self.processors}
              fpus_per_core: {self.fp32_per_processor}
              clock_rate_ghz: {self.clock_ghz}
              device_memory_size: {self.memory_bytes}
              memory_bandwidth: {self.memory_bytes_per_second:.0f}
              l2_cache_size: {self.l2_bytes}
              shared_memory_per_core: {self.shared_bytes}
              shared_memory_per_block: {48 * kib}
              shared_memory_per_block_optin: {self.shared_bytes - kib}
              registers_per_core_limit: {64 * kib}
              registers_per_block_limit: {64 * kib}
              threads_per_warp: 32
              threads_per_block_limit: 1024
              threads_per_core_limit: 2048
              block_dim_limit_x: {2**31 - 1}
              block_dim_limit_y: {2**16 - 1}
              block_dim_limit_z: {2**16 - 1}
            }}
            platform_name: "CUDA"
            dnn_version_info {{ major: 9 minor: 10 }}
            device_description_str: "{self.name}"
        """


H100 = Gpu(
    name="NVIDIA H100 80GB HBM3",
    capability=(9, 0),
    processors=132,
    fp32_per_processor=128,
    clock_ghz=1.98,
    memory_bytes=80 * 10**9,
    memory_bytes_per_second=3.35e12,
    l2_bytes=50 * 2**20,
    shared_bytes=228 * 1024,
)
A100 = Gpu(
    name="NVIDIA A100-SXM4-80GB",
    capability=(8, 0),
    processors=108,
    fp32_per_processor=64,
    clock_ghz=1.41,
    memory_bytes=80 * 10**9,
    memory_bytes_per_second=2.04e12,
    l2_bytes=40 * 2**20,
    shared_bytes=164 * 1024,
)

GPUS = {"H100": H100, "A100": A100}
