"""Compile a function for a TPU slice on a machine without one, and account for its cycles and memory."""

import atexit
import importlib.util
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax

from aot.account import KernelRun, account
from aot.bundles import Loop, parse_bundles
from aot.chips import CHIPS
from aot.hlo import Module, parse_module
from aot.network import HIGH, LOW, Coordinates, Network
from aot.report import Memory, TpuReport, memory_of
from dnabert2_jax.errors import UserError

_TOPOLOGY = re.compile(r"(?:(\d+)x)?((\w+):[\dx]+)")
_SCHEDULE = re.compile(r"^\d+-(.+)-\d+-final_bundles\.txt$")


@dataclass(frozen=True)
class CompiledForTpu:
    """A function compiled for a slice, or several.

    Attributes:
        topology: the slices.
        compiled: jax's compiled object; it cannot run here.
        module: the scheduled program.
        schedules: the loops of each Pallas kernel, by instruction name.
        places: where each of the program's devices is in its slice.
    """

    topology: str
    compiled: Any
    module: Module
    schedules: dict[str, Loop]
    places: tuple[Coordinates, ...]

    @property
    def memory(self) -> Memory:
        """Bytes per chip."""
        return memory_of(self.compiled)

    def report(self, kernels: Mapping[str, KernelRun] | None = None) -> TpuReport:
        """The cost of one call; see :func:`aot.account.account`.

        Raises:
            UserError: there are no figures for this generation, or for the network between slices.
        """
        slices, _, generation = parse_topology(self.topology)
        if slices > 1:
            raise UserError(
                f"{self.topology}: there is no cost model for the network between slices; the report of one slice "
                f"({self.topology.partition('x')[2]}) has the rest"
            )
        if generation not in CHIPS:
            raise UserError(f"no cost model for {generation!r}; there is one for {', '.join(CHIPS)}")
        chip = CHIPS[generation]
        low, high = (
            account(self.module, Network(chip, self.places, assumptions), self.schedules, kernels)
            for assumptions in (LOW, HIGH)
        )
        return TpuReport(self.topology, chip, self.memory, low, high)


def parse_topology(topology: str) -> tuple[int, str, str]:
    """Number of slices, the topology of each, and the generation: ``2xv5e:4x4`` is (2, "v5e:4x4", "v5e").

    Raises:
        UserError: not a topology.
    """
    found = _TOPOLOGY.fullmatch(topology)
    if found is None:
        raise UserError(f"{topology!r} is not a topology; write one slice as v5e:4x4, and two as 2xv5e:4x4")
    return int(found[1] or 1), found[2], found[3]


@cache
def tpu_devices(topology: str) -> tuple[Any, ...]:
    """Devices of a slice such as ``v5e:4x4``, or of two, ``2xv5e:4x4``, for building a mesh; always the same ones.

    Raises:
        UserError: libtpu is not installed, or ``topology`` is not one.
    """
    slices, each, _ = parse_topology(topology)
    _dump_directory()
    from jax.experimental import topologies

    several = {"num_slices": slices} if slices > 1 else {}
    return tuple(topologies.get_topology_desc(platform="tpu", topology_name=each, **several).devices)


def compile_for_tpu(function: Callable[..., Any], *arguments: Any, topology: str, **jit_options: Any) -> CompiledForTpu:
    """Compile a function for a slice, or several.

    Args:
        function: a function, jitted or not.
        *arguments: trees of `jax.ShapeDtypeStruct`, their shardings over a mesh of :func:`tpu_devices`.
        topology: the slices, as given to :func:`tpu_devices`.
        **jit_options: for `jax.jit`, such as `donate_argnums`.

    Raises:
        UserError: see :func:`tpu_devices`; or this libtpu compiles the program but cannot write it out.
    """
    dump = _dump_directory()
    jitted = function if hasattr(function, "lower") and not jit_options else jax.jit(function, **jit_options)
    compiled = jitted.lower(*arguments).compile()
    try:
        text = compiled.as_text()
    except jax.errors.JaxRuntimeError as error:  # libtpu 0.0.52, for whole steps on v5p and v6e
        raise UserError(
            f"{topology}: the program compiles, but this libtpu cannot write it out, so its cost cannot be estimated "
            f"({str(error).splitlines()[0]}); use another libtpu or another slice"
        ) from error
    module = parse_module(text)
    calls = {i.name for c in module.computations.values() for i in c if i.custom_call_target == "tpu_custom_call"}
    schedules = {}
    for path in sorted(dump.iterdir()):
        found = _SCHEDULE.match(path.name)
        if found and found.group(1) in calls:
            schedules[found.group(1)] = parse_bundles(path.read_text())
        path.unlink()
    devices = next(s.mesh.devices.flat for s in jax.tree.leaves(compiled.input_shardings))
    return CompiledForTpu(topology, compiled, module, schedules, tuple(tuple(device.coords) for device in devices))


@cache
def _dump_directory() -> Path:
    """The directory where libtpu writes this process's schedules; libtpu reads its options only once, when it is loaded."""
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "compiling for a TPU needs libtpu, which is not installed here; run `make aot`, or pip install libtpu"
        )
    if "JAX_PLATFORMS" not in os.environ:  # jax looks for a TPU as soon as libtpu is installed
        jax.config.update("jax_platforms", "cpu")  # type: ignore[no-untyped-call]
    directory = Path(tempfile.mkdtemp(prefix="dnabert2-schedules-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    options = f"--xla_jf_dump_to={directory} --xla_jf_dump_llo_text=true --xla_jf_dump_llo_pass_label_regex=final_bundles"
    os.environ["LIBTPU_INIT_ARGS"] = f"{os.environ.get('LIBTPU_INIT_ARGS', '')} {options}".strip()
    for name, value in {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no device is opened, so several processes may compile at once
    }.items():
        os.environ.setdefault(name, value)
    return directory
