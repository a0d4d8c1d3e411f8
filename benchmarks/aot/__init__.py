"""Compile for accelerators that this machine does not have, and account for the whole call.

For a TPU slice: cycles, memory, and what sets them; :func:`compile_for_tpu` and its ``report()``. For NVIDIA GPUs: memory,
and the registers and spills of Pallas kernels; :func:`compile_for_gpu`. Nothing runs, so every figure is deterministic. What
is counted, and what is not, is in docs/aot.md.
"""

from aot.account import KernelRun, UnknownInstruction
from aot.gpu import CompiledForGpu, compile_for_gpu, gpu_devices
from aot.report import TpuReport
from aot.tpu import CompiledForTpu, compile_for_tpu, tpu_devices

__all__ = [
    "CompiledForGpu",
    "CompiledForTpu",
    "KernelRun",
    "TpuReport",
    "UnknownInstruction",
    "compile_for_gpu",
    "compile_for_tpu",
    "gpu_devices",
    "tpu_devices",
]
