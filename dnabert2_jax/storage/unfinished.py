"""Files that grow while a job computes them, and survive a kill: the same job continues where it stopped.

Until a file ``NAME`` is complete, beside it lie::

    NAME.unfinished        what has been written so far
    NAME.unfinished.json   which job writes it, how far that is, and how many bytes of the file are good

Where a job writes several files, the record beside the first one covers all of them, so that they agree. For a bucket, both
lie in the directory of copies of this machine.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from dnabert2_jax.errors import UserError
from dnabert2_jax.storage.atomic import atomic_file, flush, write_json
from dnabert2_jax.storage.copies import cache_directory
from dnabert2_jax.storage.overwriting import refuse_overwriting
from dnabert2_jax.storage.paths import in_bucket

Finish = Callable[[Path, Path], None]
"""Makes the destination (second) of the complete unfinished file (first), whole or not at all."""


class Unfinished:
    """The files of a job and how far they are; make it with :func:`resuming`.

    Attributes:
        state: as of the last :meth:`commit`; empty for a new job.
        complete: everything has been written, and only :meth:`finish` was interrupted.
    """

    def __init__(self, paths: Sequence[Path], job: Mapping[str, Any], record: Mapping[str, Any]) -> None:
        self._paths, self._job = paths, job
        self._sizes: list[int] = record.get("bytes", [0] * len(paths))
        self.state: dict[str, Any] = record.get("state", {})
        self.complete: bool = record.get("complete", False)
        self._files: list[BinaryIO] = []
        if not record:
            _record_path(paths).unlink(missing_ok=True)

    def _open(self, stack: ExitStack) -> None:
        for path, size in zip(self._paths, self._sizes, strict=True):
            unfinished = unfinished_path(path)
            unfinished.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(unfinished.open("ab"))
            _lock(file, path)
            file.truncate(size)
            file.seek(0, os.SEEK_END)
            self._files.append(file)

    def _discard(self) -> None:
        for path in self._paths:
            unfinished_path(path).unlink(missing_ok=True)

    def write(self, *parts: bytes) -> None:
        """Append to the files, a part for each; it counts from the next :meth:`commit` on."""
        for file, part in zip(self._files, parts, strict=True):
            file.write(part)

    def commit(self, state: Mapping[str, Any]) -> None:
        """Everything written so far is good; ``state`` (JSON) says how far that is."""
        for file in self._files:
            file.flush()
            os.fsync(file.fileno())
        self._sizes = [file.tell() for file in self._files]
        self.state = dict(state)
        record = {"job": self._job, "state": self.state, "bytes": self._sizes, "complete": self.complete}
        write_json(_record_path(self._paths), record)

    def finish(self, *finishes: Finish) -> None:
        """Everything has been written: make each destination of its file, and remove what lies beside them."""
        if not self.complete:
            self.complete = True
            self.commit(self.state)
        for path, finish in zip(self._paths, finishes, strict=True):
            unfinished = unfinished_path(path)
            if unfinished.exists():
                finish(unfinished, path)
                unfinished.unlink(missing_ok=True)
        _record_path(self._paths).unlink()


@contextmanager
def resuming(paths: Sequence[Path], job: Mapping[str, Any], *, force: bool = False) -> Iterator[Unfinished]:
    """The unfinished files of a job, with what an earlier process of the same job has written.

    They stay if the block ends with an error, and the message of one that has to do with the disk says so.

    Args:
        paths: the destinations.
        job: what the content depends on, JSON-ready.
        force: what another job has left there may be discarded.

    Raises:
        UserError: another job has left something there, another process is writing there, or the disk is full.
    """
    job = json.loads(json.dumps(job))
    found = _record(paths)
    if found and found["job"] != job:
        if not force:
            raise UserError(
                f"{unfinished_path(paths[0])} is the beginning of another job ({_difference(found['job'], job)}); repeat "
                "that command to finish it, or start over with --force"
            )
        found = {}
    unfinished = Unfinished(paths, job, found)
    try:
        with ExitStack() as stack:
            if not unfinished.complete:
                unfinished._open(stack)
            try:
                yield unfinished
            except BaseException:
                if not unfinished.state:
                    unfinished._discard()
                raise
    except OSError as error:
        place = unfinished_path(paths[0])
        raise UserError(
            f"{paths[0]} could not be written ({error.strerror or error}); what is done stays in {place}: make room, and "
            "the same command continues"
        ) from error


def check_destinations(paths: Sequence[Path], *, force: bool) -> None:
    """Check before the work that a job may write its files; what its own earlier process wrote is no obstacle.

    Raises:
        UserError: one of them exists, and ``force`` was not given.
    """
    if not _record(paths):
        for path in paths:
            refuse_overwriting(path, force=force)


def unfinished_path(path: Path) -> Path:
    """Where a file lies until it is complete."""
    if in_bucket(path):
        path = cache_directory() / os.fspath(path).replace("://", "/", 1)
    return path.with_name(f"{path.name}.unfinished")


def moved(unfinished: Path, path: Path) -> None:
    """A :data:`Finish` for a file that needs no conversion.

    Raises:
        NotWritten: it cannot be written.
    """
    if in_bucket(path):
        with atomic_file(path) as partial:
            shutil.copyfile(unfinished, partial)
        return
    flush(unfinished)
    unfinished.replace(path)
    flush(path.parent)


def _record_path(paths: Sequence[Path]) -> Path:
    first = unfinished_path(paths[0])
    return first.with_name(f"{first.name}.json")


def _record(paths: Sequence[Path]) -> dict[str, Any]:
    """What an earlier process recorded; empty if there is no record, or its files are missing."""
    try:
        record: dict[str, Any] = json.loads(_record_path(paths).read_bytes())
        if len(record["bytes"]) != len(paths):
            return {}
        for path, size in zip(paths, record["bytes"], strict=True):
            if not record["complete"] and unfinished_path(path).stat().st_size < size:
                return {}
        return record if {"job", "state"} <= record.keys() else {}
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def _lock(file: BinaryIO, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"{path} is being written by another process; wait for it, or choose another name") from None


def _difference(before: Any, now: Any, name: str = "") -> str:
    """The first value that differs between two jobs."""
    if isinstance(before, dict) and isinstance(now, dict):
        key = next(key for key in {**before, **now} if before.get(key) != now.get(key))
        return _difference(before.get(key), now.get(key), key)
    return f"{name} {before}, now {now}"
