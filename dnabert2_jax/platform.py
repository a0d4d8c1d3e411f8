"""What a program is traced for: the devices at hand, unless a caller says otherwise.

Kernels differ by platform, and jax does not tell a function that is traced which devices will run it. Compiling for a TPU or
a GPU that is not here, and running a kernel in Pallas' interpreter, both say so by :func:`tracing_for`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import jax


@dataclass(frozen=True)
class Target:
    """What a program is traced for.

    Attributes:
        platform: ``cpu``, ``gpu`` or ``tpu``.
        generation: of a TPU, as in the names of topologies: ``v4``, ``v5e``, ``v5p``, ``v6e``, ...; of a GPU, its compute
            capability: ``8.0``, ``9.0``, ...; empty where it is not known.
        interpret: run Pallas kernels in an interpreter: False, True, or ``pltpu.InterpretParams``.
    """

    platform: str
    generation: str = ""
    interpret: Any = False


_override: ContextVar[Target | None] = ContextVar("dnabert2_jax_target", default=None)


def _generation(device: Any) -> str:
    """``TPU v5 lite`` -> ``v5e``, ``TPU v5`` -> ``v5p``, ``TPU v4`` -> ``v4``; an H100 -> ``9.0``."""
    if device.platform == "gpu":
        return str(device.compute_capability)
    if device.platform != "tpu":
        return ""
    base, _, lite = device.device_kind.removeprefix("TPU").strip().partition(" ")
    return base + "e" if lite == "lite" else {"v5": "v5p"}.get(base, base)


def current_target() -> Target:
    """The target of :func:`tracing_for`, or the first device."""
    chosen = _override.get()
    if chosen is not None:
        return chosen
    device = jax.devices()[0]
    return Target(device.platform, _generation(device))


@contextmanager
def tracing_for(platform: str, generation: str = "", *, interpret: Any = False) -> Iterator[None]:
    """Choose attention backends and their block sizes for another target than the devices at hand, while tracing.

    A function that `jax.jit` has traced before, with the same shapes, is not traced again: make a new one.

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
