"""Compile a function for NVIDIA GPUs on a machine without one: memory, and the hardware resources of its Pallas kernels.

There is no cost model for GPUs: measuring time needs a GPU.
"""

import importlib
import importlib.util
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax

from aot.chips import GPUS
from aot.hlo import parse_module
from aot.report import Memory, memory_of
from dnabert2_jax.errors import UserError, nearest


@dataclass(frozen=True)
class GpuKernel:
    """Resources of one Pallas kernel, as reported by the assembler.

    Attributes:
        name: the name given to `pallas_call`.
        registers: registers per thread.
        spill_stores: bytes of spill stores per thread.
        spill_loads: bytes of spill loads per thread.
        stack: bytes of stack frame per thread.
    """

    name: str
    registers: int
    spill_stores: int
    spill_loads: int
    stack: int


@dataclass(frozen=True)
class CompiledForGpu:
    """A function compiled for GPUs.

    Attributes:
        gpu: one of ``chips.GPUS``.
        compiled: jax's compiled object; it cannot run here.
        kernels: its Pallas kernels, one entry per distinct kernel. Mosaic compiles a kernel once in a process, so that one
            of its kernels which an earlier call has compiled is missing.
        atomics: the distinct atomic instructions of the whole program, such as ``atom.global.add.f32``.
    """

    gpu: str
    compiled: Any
    kernels: tuple[GpuKernel, ...]
    atomics: tuple[str, ...]

    @property
    def memory(self) -> Memory:
        """Bytes per device; the temporaries of a training step are mostly activations."""
        return memory_of(self.compiled)

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return {
            "gpu": self.gpu,
            "memory": {**asdict(self.memory), "peak": self.memory.peak, "device": GPUS[self.gpu].memory_bytes},
            "kernels": [asdict(kernel) for kernel in self.kernels],
        }

    def __str__(self) -> str:
        used, device, temporary = (
            n / 2**30 for n in (self.memory.peak, GPUS[self.gpu].memory_bytes, self.memory.temporaries)
        )
        lines = [f"{self.gpu}: {used:.2f} of {device:.0f} GiB, {temporary:.2f} GiB of it temporary"]
        lines += [
            f"  kernel {k.name}: {k.registers} registers, {k.spill_stores} bytes spilled, {k.spill_loads} loaded back"
            for k in self.kernels
        ]
        return "\n".join(lines)


@cache
def gpu_devices(gpu: str, count: int = 1) -> tuple[Any, ...]:
    """Devices of one machine with `count` GPUs, for building a mesh; every call returns the same ones.

    Raises:
        UserError: the GPU is unknown, or jax's CUDA plugin or the assembler is not installed.
    """
    if gpu not in GPUS:
        raise UserError(f"no figures for a GPU {gpu!r}{nearest(gpu, GPUS)}; there are some for {', '.join(GPUS)}")
    _cuda()
    from jax.experimental import topologies

    config = GPUS[gpu].target_config
    return tuple(topologies.get_topology_desc(platform="cuda", target_config=config, topology=f"1x{count}x1").devices)


def compile_for_gpu(function: Callable[..., Any], *arguments: Any, gpu: str, **jit_options: Any) -> CompiledForGpu:
    """Compile a function for one machine with GPUs.

    Args:
        function: a function, jitted or not.
        *arguments: trees of `jax.ShapeDtypeStruct`, their shardings over a mesh of :func:`gpu_devices`.
        gpu: as given to :func:`gpu_devices`.
        **jit_options: for `jax.jit`, such as `donate_argnums`.

    Raises:
        UserError: see :func:`gpu_devices`.
    """
    cuda = _cuda()
    jitted = function if hasattr(function, "lower") and not jit_options else jax.jit(function, **jit_options)
    with tempfile.TemporaryDirectory(prefix="dnabert2-ptx-") as dump:
        options = {"xla_gpu_cuda_data_dir": str(cuda), "xla_gpu_autotune_level": 0, "xla_dump_to": dump}
        options["xla_backend_optimization_level"] = 3  # kernels as users get them, regardless of XLA_FLAGS
        with _mosaic_writes_ptx(dump):
            compiled = jitted.lower(*arguments).compile(compiler_options=options)
        calls = {
            instruction.op_name.split("/")[-2]
            for computation in parse_module(compiled.as_text()).computations.values()
            for instruction in computation
            if instruction.opcode == "custom-call" and instruction.op_name.endswith("/pallas_call")
        }
        files = sorted(Path(dump).glob("*.ptx"))
        kernels = [k for path in files for k in _assemble(path, cuda, calls)]
        atomics = {instruction for path in files for instruction in _ATOMIC.findall(path.read_text())}
    return CompiledForGpu(gpu, compiled, tuple(dict.fromkeys(kernels)), tuple(sorted(atomics)))


_ATOMIC = re.compile(r"^\s*(?:@!?%\w+\s+)?((?:atom|red)\.[\w.:]+)", re.MULTILINE)


_REPORT = re.compile(
    r"Compiling entry function '([^']+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
    r".*?Used (\d+) registers",
    re.DOTALL,
)


_MOSAIC = "_mosaic_gpu_kernel"
"""What Mosaic appends to the name of a kernel."""


@contextmanager
def _mosaic_writes_ptx(directory: str) -> Iterator[None]:
    """Have Mosaic, which compiles its kernels without XLA, write them to a directory as well."""
    asked = {"MOSAIC_GPU_DUMP_TO": directory, "MOSAIC_GPU_DUMP_PTX": "1"}
    before = {name: os.environ.get(name) for name in asked}
    os.environ.update(asked)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _assemble(ptx: Path, cuda: Path, calls: set[str]) -> Sequence[GpuKernel]:
    """The resources of a file's Pallas kernels: those of Mosaic, and those named in ``calls``."""
    target = re.search(r"^\.target (\w+)", ptx.read_text(), re.MULTILINE)
    if target is None:
        return []
    command = [str(cuda / "bin" / "ptxas"), f"-arch={target.group(1)}", "-v", str(ptx), "-o", os.devnull]
    messages = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return [
        GpuKernel(name.removesuffix(_MOSAIC), int(registers), int(stores), int(loads), int(stack))
        for name, stack, stores, loads, registers in _REPORT.findall(messages)
        if name in calls or name.endswith(_MOSAIC)
    ]


@cache
def _cuda() -> Path:
    """The directory of the CUDA assembler installed by pip."""
    missing = [name for name in ("jax_plugins.xla_cuda12", "nvidia.cuda_nvcc") if not _installed(name)]
    if missing:
        raise UserError(f"compiling for a GPU needs {' and '.join(missing)}, not installed here; run `make aot`")
    if "JAX_PLATFORMS" not in os.environ:  # jax looks for a GPU as soon as its plugin is installed
        jax.config.update("jax_platforms", "cpu")  # type: ignore[no-untyped-call]
    cuda = Path(importlib.import_module("nvidia.cuda_nvcc").__path__[0])
    os.environ["PATH"] = f"{cuda / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
    return cuda


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
