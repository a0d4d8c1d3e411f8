"""What a program is traced for, the implementations that differ by platform, and facts about the accelerators.

Kernels differ by platform, and jax does not tell a traced function which devices will run it. By default it is the first
device. Compiling for a TPU or GPU that is not here, and running a kernel in Pallas' interpreter, say so with
:func:`tracing_for`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, TypeVar

import jax

from dnabert2_jax.errors import UserError, first_line

_P = ParamSpec("_P")
_R = TypeVar("_R")


@dataclass(frozen=True)
class Target:
    """What a program is traced for.

    Attributes:
        platform: ``cpu``, ``gpu`` or ``tpu``.
        generation: of a TPU, as in the names of topologies: ``v4``, ``v5e``, ``v5p``, ``v6e``, ...; of a GPU, its compute
            capability: ``8.0``, ``9.0``, ...; empty if unknown.
        interpret: run Pallas kernels in an interpreter: False, True, or ``pltpu.InterpretParams``.
    """

    platform: str
    generation: str = ""
    interpret: Any = False


_override: ContextVar[Target | None] = ContextVar("dnabert2_jax_target", default=None)


def current_target() -> Target:
    """The target set by :func:`tracing_for`, or the first device."""
    chosen = _override.get()
    if chosen is not None:
        return chosen
    device = jax.devices()[0]
    if device.platform == "gpu":
        return Target("gpu", str(device.compute_capability))
    return Target(device.platform, _tpu_generation(device.device_kind))


@contextmanager
def tracing_for(platform: str, generation: str = "", *, interpret: Any = False) -> Iterator[None]:
    """Choose implementations for a target other than the available devices, while tracing.

    A function that `jax.jit` has already traced with the same shapes is not traced again: make a new one.

    Args:
        platform: ``cpu``, ``gpu`` or ``tpu``.
        generation: of a TPU, as in the names of topologies; of a GPU, its compute capability.
        interpret: run Pallas kernels in an interpreter: True, or ``pltpu.InterpretParams`` to look for races.
    """
    token = _override.set(Target(platform, generation, interpret))
    try:
        yield
    finally:
        _override.reset(token)


class PerPlatform(Generic[_P, _R]):
    """A function whose implementation is chosen by the current target's platform when it is traced.

    Decorate the default with this class and the others with :meth:`on`, as with `functools.singledispatch`::

        @PerPlatform
        def row_sum(x): ...

        @row_sum.on("tpu")
        def _(x): ...
    """

    def __init__(self, default: Callable[_P, _R]) -> None:
        self.__doc__ = default.__doc__
        self._default = default
        self._implementations: dict[str, Callable[_P, _R]] = {}

    def on(self, platform: str) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
        """Register the decorated function as the implementation for ``cpu``, ``gpu`` or ``tpu``."""

        def register(implementation: Callable[_P, _R]) -> Callable[_P, _R]:
            self._implementations[platform] = implementation
            return implementation

        return register

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """The result of the implementation for the current target."""
        return self._implementations.get(current_target().platform, self._default)(*args, **kwargs)


@dataclass(frozen=True)
class Tpu:
    """One TPU chip, from its vendor's data sheet.

    Attributes:
        peak_flops: dense bfloat16 operations per second.
        hbm_bytes: size of the memory.
        hbm_bytes_per_second: bandwidth of the memory.
        vmem_bytes: on-chip memory of a core.
    """

    peak_flops: float
    hbm_bytes: int
    hbm_bytes_per_second: float
    vmem_bytes: int


_MIB, _GIB = 2**20, 2**30

TPUS: dict[str, Tpu] = {
    "v4": Tpu(275e12, 32 * _GIB, 1228e9, 16 * _MIB),
    "v5e": Tpu(197e12, 16 * _GIB, 819e9, 128 * _MIB),
    "v5p": Tpu(459e12, 95 * _GIB, 2765e9, 64 * _MIB),
    "v6e": Tpu(918e12, 32 * _GIB, 1640e9, 128 * _MIB),
}
"""TPUs by generation."""

_GPU_PEAK_FLOPS = {
    "NVIDIA A100": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}
"""Dense bfloat16 operations per second by the beginning of a GPU's name, from the vendor's data sheets."""


def peak_flops(device_kind: str) -> float | None:
    """Dense bfloat16 operations per second of a device as jax names it; None if unknown, as for CPUs."""
    if (tpu := TPUS.get(_tpu_generation(device_kind))) is not None:
        return tpu.peak_flops
    return next((peak for name, peak in _GPU_PEAK_FLOPS.items() if device_kind.startswith(name)), None)


def vmem_bytes(generation: str) -> int:
    """On-chip memory of a TPU core; an unknown generation is assumed to have the least."""
    known = TPUS.get(generation)
    return known.vmem_bytes if known else min(tpu.vmem_bytes for tpu in TPUS.values())


def _tpu_generation(device_kind: str) -> str:
    """``TPU v5 lite`` -> ``v5e``, ``TPU v5`` -> ``v5p``, ``TPU v4`` -> ``v4``; empty for other devices."""
    if not device_kind.startswith("TPU"):
        return ""
    base, _, lite = device_kind.removeprefix("TPU").strip().partition(" ")
    return base + "e" if lite == "lite" else {"v5": "v5p"}.get(base, base)


@contextmanager
def explaining_out_of_memory(what: str, remedy: str) -> Iterator[None]:
    """Turn an out-of-memory error from the device or its compiler into one that suggests what to do.

    Args:
        what: what ran out of memory, before the words "out of memory".
        remedy: what to do about it.

    Raises:
        UserError: out of memory on the device.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        device, detail = jax.default_backend(), first_line(error)
        raise UserError(f"{what}out of memory on the {device} device ({detail}); {remedy}") from error
