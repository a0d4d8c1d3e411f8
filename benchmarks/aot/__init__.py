"""Compile for accelerators that this machine does not have, and account for the cost of a whole call.

For a TPU slice, cycles and memory and what determines them: :func:`compile_for_tpu` and its ``report()``. For NVIDIA GPUs,
memory, and the registers and spills of Pallas kernels: :func:`compile_for_gpu`. Nothing runs, so every figure is
deterministic. docs/aot.md describes what is and is not counted.
"""

from aot.account import KernelRun, UnknownInstruction
from aot.gpu import CompiledForGpu, compile_for_gpu, gpu_devices
from aot.report import TpuReport
from aot.tpu import CompiledForTpu, compile_for_tpu, parse_topology, tpu_devices

__all__ = [
    "CompiledForGpu",
    "CompiledForTpu",
    "KernelRun",
    "TpuReport",
    "UnknownInstruction",
    "compile_for_gpu",
    "compile_for_tpu",
    "gpu_devices",
    "parse_topology",
    "tpu_devices",
]
