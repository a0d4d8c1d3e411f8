"""Check, before the first step runs, whether a training step fits into memory according to its compiled program."""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax

from dnabert2_jax.errors import UserError
from dnabert2_jax.platform import explaining_out_of_memory
from dnabert2_jax.progress import remark

_GROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def check_memory(step: Callable[..., Any], *args: Any, rows: int, accumulate: int) -> None:
    """Compile a step, and compare the memory it needs with what is available.

    The program is compiled only once: jax caches it for the first call with arguments of these shapes.

    Args:
        step: a jitted function.
        args: its arguments, with the largest shapes in the run.
        rows: rows per batch, for messages.
        accumulate: current number of microbatches, for messages.

    Raises:
        UserError: the step does not fit.
    """
    with explain_memory(rows, accumulate):
        analysis = step.lower(*args).compile().memory_analysis()  # type: ignore[attr-defined]
    if analysis is None:  # a backend that does not report it
        return
    needed = int(analysis.temp_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes)
    devices = jax.tree.leaves(args)[0].sharding.addressable_devices
    device = next(iter(devices))
    stats = device.memory_stats() or {}
    if device.platform == "cpu":
        needed *= len(devices)  # they share the host's memory
        limit, free = _host_memory()
    elif "bytes_limit" in stats:
        limit = free = stats["bytes_limit"] - stats["bytes_in_use"]
    else:
        return
    if limit is not None and needed > limit:
        raise UserError(f"{_needs(needed, rows)}, but the {device.platform} has {_gib(limit)} for it; {_remedy(accumulate)}")
    if free is not None and needed > free:
        remark(f"warning: {_needs(needed, rows)}, and {_gib(free)} are free now; {_remedy(accumulate)}")


@contextmanager
def explain_memory(rows: int, accumulate: int) -> Iterator[None]:
    """Turn an out-of-memory error from the device or its compiler into one that says what to do.

    Raises:
        UserError: out of memory on the device.
    """
    with explaining_out_of_memory(f"a step of {rows:,} rows ran ", _remedy(accumulate)):
        yield


def _host_memory() -> tuple[int | None, int | None]:
    """The maximum bytes this process may still allocate, and those free now; None if the system does not report them."""
    with suppress(OSError, ValueError):
        lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
        kilobytes = {line[0].rstrip(":"): int(line[1]) for line in lines}
        total, free = 1024 * kilobytes["MemTotal"], 1024 * kilobytes["MemAvailable"]
        for file in map(Path, _GROUP_LIMITS):  # of a container or a Slurm job
            with suppress(OSError, ValueError):
                total = min(total, int(file.read_text()))
        limit = total - 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return limit, min(free, limit)
    return None, None


def _needs(needed: int, rows: int) -> str:
    return f"a step of {rows:,} rows needs {_gib(needed)} besides the weights"


def _remedy(accumulate: int) -> str:
    return (
        f"raise training.accumulate (now {accumulate}: the number of microbatches per batch; the result is the same), "
        "lower training.batch_size, or set model.remat=full (less memory, more arithmetic)"
    )


def _gib(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"
