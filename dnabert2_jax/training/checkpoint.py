"""Checkpoints of a run: Orbax writes the state in the background, and a manifest of hashes shows which ones are intact.

Layout of a checkpoint directory::

    step_00001000/
        state/            written by Orbax, each process its own shards
        contents.json     the run's own metadata (meta) and the dtype and shape of every array
        manifest.json     size and SHA-256 of every file above, written last
    damaged_step_00002000/    did not match its manifest; never read again, kept for inspection

Orbax alone loads corrupted bytes silently, so a step is valid only with its manifest, and is read only if every byte
matches it. This is why retention is handled here and not by Orbax's CheckpointManager: it deletes old steps as soon as it
has moved a new one into place, and its only callback runs before it writes the last files of a step
(``_CHECKPOINT_METADATA``, ``commit_success.txt``). A manifest written in that callback leaves these files unsealed; one
written later leaves a window in which the only sealed step of ``keep_last=1`` is already deleted. Here an old step is
deleted only after the new one is sealed, and its manifest goes first, so that a step left half deleted by a kill is never
mistaken for a damaged one. Where steps are kept, and how they are sealed, is in
:mod:`dnabert2_jax.training.checkpoint_store`.

In a bucket, each process writes its shards on its own disk and uploads them. Of several processes, each writes one file per
shard: Orbax's usual format, OCDBT, has few files but merges those of all processes, for which they would need to share a
disk. Either format is read by any number of processes.
"""

import json
import logging
import os
import re
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import SingleDeviceSharding

from dnabert2_jax.errors import UserError, first_line
from dnabert2_jax.parallel.processes import on_first
from dnabert2_jax.storage.leases import LeaseLost
from dnabert2_jax.training.checkpoint_store import STATE, open_store

_CONTENTS = "contents.json"
_ABSENT = -1
_EXPECTED = "primary_host=None|No per-process OCDBT checkpoint subdirs"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Restored:
    """A restored checkpoint.

    Attributes:
        step: its step.
        state: the saved tree, with the structure and shardings of the abstract state.
        meta: the run's metadata, as it comes back from JSON (tuples are lists, keys are strings).
    """

    step: int
    state: Any
    meta: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run, in a directory shared by all processes or a bucket; every process makes the same calls.

    Opening it removes, and reports, whatever a killed run left unfinished. Only one run at a time may open it.

    Args:
        directory: created if it does not exist.
        keep_last: number of newest complete checkpoints to keep.
        keep_every: steps that are multiples of this are kept forever.

    Raises:
        UserError: the directory cannot be used or is in use by another run, or an option is out of range.
    """

    def __init__(self, directory: str | os.PathLike[str], *, keep_last: int = 2, keep_every: int | None = None) -> None:
        if keep_last < 1:
            raise UserError(f"keep_last is {keep_last}; accepted is 1 or more")
        if keep_every is not None and keep_every < 1:
            raise UserError(f"keep_every is {keep_every}; accepted is 1 or more")
        self._store = open_store(directory)
        self.directory = self._store.directory
        self._keep_last = keep_last
        self._keep_every = keep_every
        self._fetched: tuple[int, Path] | None = None
        on_first(self._open)
        self._checkpointer = _orbax(shared=self._store.shared)
        self._background = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, oldest first."""
        return self._store.steps()

    def save(self, step: int, state: Any, meta: dict[str, Any], *, before_seal: Callable[[], None] = lambda: None) -> None:
        """Start saving ``state``; returns once the arrays are copied, so that their buffers may be donated.

        Waits for the previous save if it is still running. Old checkpoints are deleted only once the new one is complete.

        Args:
            step: must be larger than the step of every existing checkpoint.
            state: a tree of nonempty jax or numpy arrays and numpy scalars; Python numbers belong in ``meta``.
            meta: a small JSON-ready dict.
            before_seal: called in the background before the step counts: what must not be older than it is written here.

        Raises:
            UserError: this save or the previous one failed, or there is already a checkpoint of this step or a later one.
            TypeError: a leaf has no dtype, or ``meta`` is not JSON.
            ValueError: a leaf has 64 bits and ``jax_enable_x64`` is off: Orbax would truncate it to 32 silently.
        """
        self.wait()
        try:
            latest = max(self.steps(), default=-1)
        except OSError as error:
            raise self._not_written(step, error) from error
        if latest >= step:
            raise UserError(
                f"{self.directory} already holds a checkpoint of step {latest}, so step {step} cannot be saved: "
                "resume from it, or choose another directory"
            )
        arrays = {name: _savable(name, leaf) for name, leaf in _named_leaves(state).items()}
        contents = json.dumps({"meta": meta, "arrays": {name: _signature(leaf) for name, leaf in arrays.items()}})
        try:
            folder = self._store.begin(step)
            if jax.process_index() == 0:
                (folder / _CONTENTS).write_text(contents)
            self._checkpointer.save(folder / STATE, args=ocp.args.PyTreeSave(arrays))
        except OSError as error:
            raise self._not_written(step, error) from error
        self._pending = self._background.submit(self._complete, step, before_seal)

    def restore_latest(self, abstract_state: Any) -> Restored | None:
        """Restore the newest intact checkpoint.

        A damaged one is reported, set aside (renamed to ``damaged_step_...``), and the previous one is tried.

        Args:
            abstract_state: the expected structure; its leaves (arrays, or ``jax.ShapeDtypeStruct``) have ``shape`` and
                ``dtype``, and a ``sharding`` if the array does not belong on the first device.

        Returns:
            The checkpoint, or None if none was ever completed.

        Raises:
            UserError: all checkpoints are damaged, or names, shapes or dtypes differ from those expected (they are listed).
        """
        self.wait()
        step = on_first(self._fetch_newest)
        if step == _ABSENT:
            return None
        path = self._fetched[1] if self._fetched is not None else self._store.fetch(step)
        self._fetched = None
        contents = json.loads((path / _CONTENTS).read_bytes())
        wanted = _named_leaves(abstract_state)
        differences = _differences(contents["arrays"], {name: _signature(leaf) for name, leaf in wanted.items()})
        if differences:
            raise UserError(
                f"{self._store.path(step)} does not fit the state of this run: {'; '.join(differences)}; "
                "use the settings it was created with, or choose another directory"
            )
        abstract = {name: _abstract(leaf) for name, leaf in wanted.items()}
        restore_args = ocp.checkpoint_utils.construct_restore_args(abstract)
        arrays = self._checkpointer.restore(path / STATE, args=ocp.args.PyTreeRestore(abstract, restore_args=restore_args))
        state = jax.tree.unflatten(jax.tree.structure(abstract_state), [arrays[name] for name in wanted])
        return Restored(step, state, contents["meta"])

    def wait(self) -> None:
        """Block until the save in progress, if any, is complete.

        Raises:
            UserError: the save failed.
        """
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def close(self) -> None:
        """Wait for the save in progress and release the directory.

        Raises:
            UserError: the save failed.
        """
        try:
            self.wait()
        finally:
            self._background.shutdown()
            self._checkpointer.close()
            self._store.close()

    def _open(self) -> int:
        """Lock the directory for this run, and remove what a killed run left."""
        try:
            self._store.open()
        except OSError as error:
            raise UserError(
                f"checkpoints cannot be written to {self.directory}: {error}; choose another directory"
            ) from error
        return 0

    def _complete(self, step: int, before_seal: Callable[[], None]) -> None:
        """The background part of a save: wait for Orbax, seal the step, delete old ones."""
        try:
            self._checkpointer.wait_until_finished()
            before_seal()
            self._store.seal(step)
        except Exception as error:
            raise self._not_written(step, error) from error
        if jax.process_index() == 0:
            self._retire()

    def _not_written(self, step: int, error: Exception) -> UserError:
        intact = "untouched"
        if jax.process_index() == 0:
            if not isinstance(error, LeaseLost):
                with suppress(OSError):
                    self._store.remove(step)
            with suppress(OSError):
                intact += f" ({', '.join(map(str, self.steps())) or 'none'})"
        return UserError(
            f"the checkpoint of step {step} could not be written to {self.directory}: {first_line(error)}; "
            f"complete ones are {intact}; {'make room there and rerun' if self._store.shared else 'rerun to resume'}"
        )

    def _retire(self) -> None:
        try:
            steps = self.steps()
        except OSError:  # the next save tries again
            return
        for step in steps[: -self._keep_last]:
            if self._keep_every is None or step % self._keep_every:
                try:
                    self._store.remove(step)
                except OSError as error:
                    logger.warning("the old checkpoint %s could not be deleted: %s", self._store.path(step), error)

    def _fetch_newest(self) -> int:
        try:
            return self._newest_whole()
        except OSError as error:
            raise UserError(f"checkpoints cannot be read from {self.directory}: {error}; rerun to try again") from error

    def _newest_whole(self) -> int:
        """The newest step that matches its manifest, or _ABSENT; newer, damaged ones are set aside."""
        for step in reversed(self.steps()):
            try:
                self._fetched = step, self._store.fetch(step)
            except UserError as damage:
                aside = self._store.set_aside(step)
                logger.warning("%s; set aside as %s, falling back to the previous checkpoint", damage, aside)
            else:
                return step
        if damaged := self._store.damaged():
            raise UserError(
                f"{self.directory} holds no intact checkpoint, only {', '.join(damaged)}: copy one back from a "
                "backup as step_..., or delete them to start over; and check the disk"
            )
        return _ABSENT


def _orbax(*, shared: bool) -> ocp.AsyncCheckpointer:
    """Orbax, for one directory that all processes share, or for one of each process, which together hold the state."""
    # Weights hardly compress, and training needs the cores that zstd would use.
    if shared or jax.process_count() == 1:
        return ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler(use_compression=False))
    # At every save it warns of what this option implies.
    logging.getLogger("absl").addFilter(lambda record: not re.search(_EXPECTED, record.getMessage()))
    alone = ocp.options.MultiprocessingOptions(primary_host=None)
    handler = ocp.PyTreeCheckpointHandler(use_compression=False, use_ocdbt=False, multiprocessing_options=alone)
    return ocp.AsyncCheckpointer(handler, multiprocessing_options=alone)


def _named_leaves(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    named = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
    if len(named) != len(leaves):
        raise ValueError("two leaves of the state have the same path: a key holds a '.'")
    for name, leaf in named.items():
        if not hasattr(leaf, "dtype"):
            raise TypeError(f"state leaf {name} is {leaf!r}, which has no dtype; arrays and numpy scalars are accepted")
    return named


def _savable(name: str, leaf: Any) -> jax.Array | np.ndarray:
    """A leaf that Orbax may write later: it copies numpy arrays, and jax never reuses a donated buffer that has a view."""
    if isinstance(leaf, jax.Array):
        return leaf
    if jax.dtypes.canonicalize_dtype(leaf.dtype) != leaf.dtype:
        raise ValueError(f"state leaf {name} is {leaf.dtype}, which does not survive a restore without jax_enable_x64")
    return np.asarray(leaf)


def _signature(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None) or SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)  # type: ignore[no-untyped-call]


def _differences(saved: dict[str, str], wanted: dict[str, str]) -> list[str]:
    found = [
        f"{name} is {saved[name]}, expected {wanted[name]}"
        for name in wanted
        if saved.get(name, wanted[name]) != wanted[name]
    ]
    found += [f"{name} is missing" for name in wanted if name not in saved]
    found += [f"{name} is unexpected" for name in saved if name not in wanted]
    return found
