"""Where sealed checkpoints are kept: a directory that all processes share, or a bucket.

Both have the layout that :mod:`dnabert2_jax.training.checkpoint` describes, and both seal a step in the same way: each
process hashes the files that it wrote, and process 0 writes the manifest once it has the hashes of all, so that no bytes
travel back to it. What a process writes on a shared directory is seen by the others; for a bucket, each process writes its
part on its own disk, and uploads it.
"""

import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax

from dnabert2_jax.errors import UserError
from dnabert2_jax.storage import buckets
from dnabert2_jax.storage.atomic import write_json
from dnabert2_jax.storage.copies import cache_directory
from dnabert2_jax.storage.leases import Lease
from dnabert2_jax.storage.manifest import (
    MANIFEST,
    Entries,
    describe,
    manifest_files,
    settle,
    verify_manifest,
    write_entries,
)
from dnabert2_jax.storage.paths import absolute, in_bucket

LOCK = ".lock"
STATE = "state"

_STEP = re.compile(r"step_(\d{8,})")
_PARTS = "files_of_process"
_PROCESS = re.compile(r"ocdbt\.process_(\d+)")
_MOST_SECONDS_FOR_PARTS = 1800.0

logger = logging.getLogger(__name__)


class CheckpointStore(ABC):
    """The checkpoints of one run. Every process has a store; what only process 0 does is a no-op in the others.

    Attributes:
        directory: as the user named it.
        shared: whether all processes write into one directory.
    """

    directory: Path
    shared: bool

    def path(self, step: int) -> Path:
        """The directory of a step."""
        return self.directory / step_name(step)

    @abstractmethod
    def open(self) -> None:
        """Process 0: lock the directory for this run, and remove what a killed run left unfinished.

        Raises:
            UserError: another run holds it.
            OSError: it cannot be used.
        """

    @abstractmethod
    def steps(self) -> list[int]:
        """The sealed steps, oldest first."""

    @abstractmethod
    def begin(self, step: int) -> Path:
        """The local directory to write a step to."""

    @abstractmethod
    def seal(self, step: int) -> None:
        """Complete a step, once this process has written its part of it; process 0 waits for the others.

        Raises:
            OSError: it cannot be written.
            UserError: another process could not write its part, or another run took the directory over.
        """

    @abstractmethod
    def fetch(self, step: int) -> Path:
        """Verify a sealed step and return the local directory to read it from.

        Raises:
            UserError: it is damaged.
        """

    @abstractmethod
    def remove(self, step: int) -> None:
        """Delete a step, its manifest first: a half-deleted one must not look like a damaged one.

        Raises:
            OSError: it cannot be deleted.
        """

    @abstractmethod
    def set_aside(self, step: int) -> str:
        """Keep a damaged step for inspection, under the name that is returned."""

    @abstractmethod
    def damaged(self) -> list[str]:
        """Names of the steps that were set aside."""

    @abstractmethod
    def close(self) -> None:
        """Release the directory."""


def open_store(directory: str | os.PathLike[str]) -> CheckpointStore:
    """The store for a directory or a place in a bucket."""
    directory = absolute(directory)
    return _Bucket(directory) if in_bucket(directory) else _Directory(directory)


def nothing_saved(directory: Path) -> bool:
    """Whether a checkpoint directory holds no checkpoints, not even damaged ones, and is not open in any running run."""
    if in_bucket(directory):
        found = buckets.names(directory)
        if any(name.startswith("damaged_") or name.endswith(f"/{MANIFEST}") for name in found):
            return False
        if LOCK in found:
            try:
                Lease(directory / LOCK).release()
            except UserError:
                return False
        return True
    if not directory.exists():
        return True
    for path in directory.iterdir():
        if path.name != LOCK and (not _STEP.fullmatch(path.name) or (path / MANIFEST).exists()):
            return False
    if not (directory / LOCK).exists():
        return True
    with (directory / LOCK).open("r+") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
    return True


def step_name(step: int) -> str:
    """Name of the directory of a step."""
    return f"step_{step:08d}"


class _Directory(CheckpointStore):
    """A directory that all processes share."""

    shared = True

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock: int | None = None

    def open(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        # A POSIX lock: released when the process ends for any reason, and not inherited by forked processes.
        self._lock = os.open(self.directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            os.close(self._lock)
            raise UserError(
                f"another run is writing checkpoints to {self.directory}; stop it, or choose another directory"
            ) from None
        for _, path in self._step_directories():
            if not (path / MANIFEST).is_file():
                logger.warning("removing %s: the run was stopped before this checkpoint was complete", path)
                shutil.rmtree(path)

    def steps(self) -> list[int]:
        return [step for step, path in self._step_directories() if (path / MANIFEST).is_file()]

    def begin(self, step: int) -> Path:
        path = self.path(step)
        if jax.process_index() == 0:
            if path.exists():  # a save of this step that failed
                shutil.rmtree(path)
            path.mkdir()
        return path

    def seal(self, step: int) -> None:
        path = self.path(step)

        def mine() -> Entries:
            while not (path / STATE).exists():  # Orbax renames it, on process 0, when it has seen the parts of all
                if not path.exists():
                    raise UserError(f"process 0 gave up {path}; see its own output for the reason")
                time.sleep(0.05)
            return describe(path, self._mine(path))

        _seal(path, mine, lambda: settle(path))

    def _mine(self, path: Path) -> Iterable[str]:
        """The files of this process's own directory within Orbax's; all others are process 0's."""
        for file in sorted(path.rglob("*")):
            name = file.relative_to(path)
            if file.is_file() and not name.parts[0].startswith((MANIFEST, _PARTS)):
                found = next(filter(None, map(_PROCESS.fullmatch, name.parts)), None)
                if jax.process_index() == (int(found[1]) if found else 0):
                    yield name.as_posix()

    def fetch(self, step: int) -> Path:
        if jax.process_index() == 0:
            verify_manifest(self.path(step))
        return self.path(step)

    def remove(self, step: int) -> None:
        (self.path(step) / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(self.path(step))

    def set_aside(self, step: int) -> str:
        aside = _aside(step, {path.name for path in self.directory.iterdir()})
        self.path(step).rename(self.directory / aside)
        return aside

    def damaged(self) -> list[str]:
        return sorted(path.name for path in self.directory.glob("damaged_step_*"))

    def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _step_directories(self) -> list[tuple[int, Path]]:
        return sorted((int(match[1]), path) for path in self.directory.iterdir() if (match := _STEP.fullmatch(path.name)))


class _Bucket(CheckpointStore):
    """A place in a bucket; each process writes its part on its own disk and uploads it."""

    shared = False

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lease: Lease | None = None
        run = hashlib.sha256(os.fspath(directory).encode()).hexdigest()[:16]
        self._scratch = cache_directory() / "scratch" / f"{run}_{jax.process_index()}"

    def open(self) -> None:
        self._lease = Lease(self.directory / LOCK)
        for name in sorted(self._step_names()):
            if MANIFEST not in buckets.names(self.directory / name):
                logger.warning("removing %s: the run was stopped before this checkpoint was complete", self.directory / name)
                buckets.remove(self.directory / name)

    def steps(self) -> list[int]:
        found = (name.partition("/") for name in buckets.names(self.directory))
        return sorted(int(match[1]) for step, _, file in found if file == MANIFEST and (match := _STEP.fullmatch(step)))

    def begin(self, step: int) -> Path:
        if jax.process_index() == 0 and step_name(step) in self._step_names():  # a save of this step that failed
            buckets.remove(self.path(step))
        return self._empty(step_name(step))

    def seal(self, step: int) -> None:
        folder, path = self._scratch / step_name(step), self.path(step)

        def upload() -> Entries:
            files = {name: folder / name for name in self._mine(folder)}
            described = describe(folder, files)  # of the bytes in memory that the upload is about to read
            buckets.upload(files, path)
            return described

        try:
            _seal(path, upload, self._lease.check if self._lease else lambda: None)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _mine(self, folder: Path) -> Iterable[str]:
        """The files of this process: shards anywhere, and those that describe the whole, which all have, of process 0."""
        for file in sorted(folder.rglob("*")):
            name = file.relative_to(folder)
            if file.is_file() and (jax.process_index() == 0 or len(name.parts) > 2):
                yield name.as_posix()

    def fetch(self, step: int) -> Path:
        path, folder = self.path(step), self._empty(f"restored_{step_name(step)}")
        buckets.download(path, [*manifest_files(path), MANIFEST], folder)
        try:
            verify_manifest(folder)
        except UserError as damage:
            raise UserError(str(damage).replace(str(folder), str(path))) from damage
        return folder

    def remove(self, step: int) -> None:
        buckets.remove(self.path(step))

    def set_aside(self, step: int) -> str:
        aside = _aside(step, {name.partition("/")[0] for name in buckets.names(self.directory)})
        buckets.move(self.path(step), self.directory / aside)
        return aside

    def damaged(self) -> list[str]:
        found = {name.partition("/")[0] for name in buckets.names(self.directory)}
        return sorted(name for name in found if name.startswith("damaged_step_"))

    def close(self) -> None:
        shutil.rmtree(self._scratch, ignore_errors=True)
        if self._lease is not None:
            self._lease.release()
            self._lease = None

    def _step_names(self) -> set[str]:
        return {step for name in buckets.names(self.directory) if _STEP.fullmatch(step := name.partition("/")[0])}

    def _empty(self, name: str) -> Path:
        """A new folder on this machine, in place of what a killed process left there."""
        folder = self._scratch / name
        shutil.rmtree(self._scratch, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder


def _aside(step: int, taken: set[str]) -> str:
    name = f"damaged_{step_name(step)}"
    return next(free for free in (name, *(f"{name}_{n}" for n in range(2, 1000))) if free not in taken)


def _seal(path: Path, mine: Callable[[], Entries], last: Callable[[], None]) -> None:
    """Process 0 writes the manifest, from every process's description of its own files.

    Args:
        path: the step.
        mine: makes this process's files durable, and describes them.
        last: called right before the manifest is written.
    """
    if (index := jax.process_index()) > 0:
        try:
            _write_part(path, index, {"files": mine()})
        except Exception as error:
            with suppress(OSError, UserError):
                _write_part(path, index, {"error": str(error)})
            raise
        return
    files = mine()
    deadline = time.monotonic() + _MOST_SECONDS_FOR_PARTS
    for other in range(1, jax.process_count()):
        files |= _part(path, other, deadline)
    last()
    write_entries(path, dict(sorted(files.items())))
    for other in range(1, jax.process_count()):
        _part_file(path, other).unlink()


def _part_file(path: Path, index: int) -> Path:
    return path / f"{_PARTS}_{index}.json"


def _write_part(path: Path, index: int, content: dict[str, Any]) -> None:
    write_json(_part_file(path, index), content)


def _part(path: Path, index: int, deadline: float) -> Entries:
    """Another process's description of its files, once it is there."""
    file, pause = _part_file(path, index), 0.05
    while not file.exists():
        if time.monotonic() > deadline:
            raise UserError(f"process {index} did not finish writing its part of {path}; see its own output for the reason")
        time.sleep(pause)
        pause = min(2 * pause, 2.0)
    content = json.loads(file.read_bytes())
    if "error" in content:
        raise UserError(f"process {index} could not write its part: {content['error']}")
    files: Entries = content["files"]
    return files
