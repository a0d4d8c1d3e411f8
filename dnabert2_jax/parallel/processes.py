"""The processes of a run: how they find each other, what only the first one does, and how shared arrays are gathered.

``jax.distributed`` recognizes TPU pods (Compute Engine and GKE), Slurm steps and Open MPI by their environment; anywhere
else, say where process 0 is, how many processes there are and which one this is.
"""

import itertools
import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from dnabert2_jax.errors import UserError
from dnabert2_jax.parallel.coordination import leave_note, wait_for_note
from dnabert2_jax.progress import console


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


_calls = itertools.count()


def on_first(work: Callable[[], int | None]) -> int:
    """``work()`` on process 0, while the others wait, however long it takes; its result (None: 0) is returned on all.

    Raises:
        UserError: on the other processes, with the reason, if ``work`` raises anything on process 0.
    """
    if jax.process_count() == 1:
        return work() or 0
    key = f"dnabert2/on_first/{next(_calls)}"  # all processes make the same calls
    if not is_first():
        outcome = json.loads(wait_for_note(key))
        if "failure" in outcome:
            raise UserError(f"process 0 failed: {outcome['failure']}")
        return int(outcome["result"])
    try:
        result = work() or 0
    except Exception as error:
        leave_note(key, json.dumps({"failure": describe(error)}))
        raise
    leave_note(key, json.dumps({"result": result}))
    return result


def describe(error: BaseException) -> str:
    """An error in one line, for other processes to show."""
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) and text else f"{type(error).__name__}: {text}".removesuffix(": ")


def gather(tree: Any) -> Any:
    """A tree of arrays on the host, whole, in every process; only one array at a time is whole on the devices."""

    def whole(x: jax.Array) -> np.ndarray:
        if x.is_fully_addressable:
            return np.asarray(jax.device_get(x))
        everywhere = NamedSharding(x.sharding.mesh, PartitionSpec())  # type: ignore[attr-defined, no-untyped-call]
        return np.asarray(jax.jit(lambda x: x, out_shardings=everywhere)(x))

    return jax.tree.map(whole, tree)
