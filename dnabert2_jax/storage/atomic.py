"""Single files, written completely or not at all."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dnabert2_jax.errors import UserError
from dnabert2_jax.storage.buckets import uploaded_file
from dnabert2_jax.storage.paths import StrPath, as_path, in_bucket


class NotWritten(UserError):
    """A file or directory could not be written; what was at its destination is unchanged.

    Args:
        path: the destination.
        error: why.

    Attributes:
        reason: why, in words.
    """

    reason: str

    def __init__(self, path: Path, error: Exception) -> None:
        reason = error.reason if isinstance(error, NotWritten) else getattr(error, "strerror", None) or error
        self.reason = str(reason)
        unchanged = "; what was there is unchanged" if os.path.lexists(path) else ""
        super().__init__(f"{path} could not be written ({self.reason}{unchanged}); make room or choose another place")


def partial_name(path: Path) -> str:
    """What a file or directory is called while it is being written; a kill may leave it behind."""
    return f"{path.name}.partial"


@contextmanager
def atomic_file(path: StrPath) -> Iterator[Path]:
    """A file beside ``path`` to write to; it takes the place of ``path`` when the block ends without an error.

    For a bucket, the file is written on this machine, and then uploaded.

    Raises:
        NotWritten: for any OSError, in the block or here.
    """
    path = as_path(path)
    if in_bucket(path):
        try:
            with uploaded_file(path) as partial:
                yield partial
        except OSError as error:
            raise NotWritten(path, error) from error
        return
    partial = path.with_name(partial_name(path))
    try:
        yield partial
        flush(partial)
        partial.replace(path)
        flush(path.parent)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError):
            raise NotWritten(path, error) from error
        raise


def write_bytes(path: Path, content: bytes) -> Path:
    """Write a file, completely or not at all; returns ``path``.

    Raises:
        NotWritten: there is no room, or the place cannot be written to.
    """
    with atomic_file(path) as partial:
        partial.write_bytes(content)
    return path


def write_json(path: Path, content: Any) -> Path:
    """Write JSON, completely or not at all; returns ``path``.

    Raises:
        NotWritten: there is no room, or the place cannot be written to.
    """
    return write_bytes(path, f"{json.dumps(content, indent=2)}\n".encode())


def flush(path: Path) -> None:
    """Return once a file's data, or a directory's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
