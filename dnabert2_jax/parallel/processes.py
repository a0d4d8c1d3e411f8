"""The processes of a run: how they find each other, what only the first one does, and how shared arrays are gathered.

``jax.distributed`` recognizes TPU pods (Compute Engine and GKE), Slurm steps and Open MPI by their environment; anywhere
else, say where process 0 is, how many processes there are and which one this is.
"""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from dnabert2_jax.errors import UserError
from dnabert2_jax.progress import console

_FAILED = -2
_CUT_OFF = re.compile(r"gloo|nccl|heartbeat|coordination service|connection (reset|closed|refused)", re.IGNORECASE)


def start_processes(coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None) -> None:
    """Join the other processes of this run, if any; call it before anything else in jax.

    Progress and remarks of all processes but the first are silenced, because they would repeat the first one's.

    Args:
        coordinator: ``host:port`` of process 0, where it will listen.
        num_processes: of the run.
        process_id: number of this one, from 0.

    Raises:
        UserError: only some of the three are given, or they contradict each other.
    """
    given = {"coordinator": coordinator, "num-processes": num_processes, "process-id": process_id}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if not missing:
        if process_id not in range(num_processes or 0):
            raise UserError(f"--process-id {process_id}: the ids of {num_processes} processes are 0 to {num_processes - 1}")  # type: ignore[operator]
        if ":" not in str(coordinator):
            raise UserError(f"--coordinator {coordinator}: give the host of process 0 and a free port, as in node0:12355")
        jax.distributed.initialize(coordinator, num_processes, process_id)
    elif len(missing) < len(given):
        raise UserError(
            f"{' and '.join(missing)} missing: a run of several processes needs {', '.join(f'--{n}' for n in given)}"
        )
    else:
        try:
            jax.distributed.initialize()
        except (ValueError, RuntimeError) as error:
            alone = "coordinator_address should be defined" in str(error)  # no cluster around this process
            inside = "must be called before any JAX" in str(error)  # a program that already computes, and starts its own
            if not (alone or inside):
                raise
            return
    console.quiet = not is_first()


def is_first() -> bool:
    """Whether this is the process that writes logs, reports and models."""
    return jax.process_index() == 0


def on_first(work: Callable[[], int | None]) -> int:
    """``work()`` on process 0, while the others wait; its result (None: 0) is returned on all.

    Raises:
        UserError: in every process, if ``work`` raises one.
    """
    result, failure = 0, None
    if is_first():
        try:
            result = work() or 0
        except UserError as error:
            result, failure = _FAILED, error
    result = int(multihost_utils.broadcast_one_to_all(np.int32(result)))
    if failure is not None:
        raise failure
    if result == _FAILED:
        raise UserError("process 0 failed; see its own message for the reason")
    return result


@contextmanager
def ending_with_the_others() -> Iterator[None]:
    """A context in which the loss of another process ends this one at once, with one message and exit code 1.

    Without it, this process would wait for the dead one until its heartbeat times out (100 seconds). It still does if the
    devices notice nothing; then jax itself ends it and says so.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1 or not _CUT_OFF.search(str(error)):
            raise
        what = str(error).splitlines()[0]
        print(
            f"dnabert2: process {jax.process_index()} lost another process of this run ({what}); see that one's output for"
            " the reason; restart all of them with the same command to resume from the last checkpoint",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)  # a regular exit waits for the others


def gather(tree: Any) -> Any:
    """A tree of arrays on the host, whole, in every process; only one array at a time is whole on the devices."""

    def whole(x: jax.Array) -> np.ndarray:
        if x.is_fully_addressable:
            return np.asarray(jax.device_get(x))
        everywhere = NamedSharding(x.sharding.mesh, PartitionSpec())  # type: ignore[attr-defined, no-untyped-call]
        return np.asarray(jax.jit(lambda x: x, out_shardings=everywhere)(x))

    return jax.tree.map(whole, tree)
