"""Whole directories, written completely or not at all."""

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dnabert2_jax.errors import UserError
from dnabert2_jax.storage import buckets
from dnabert2_jax.storage.atomic import NotWritten, flush, partial_name
from dnabert2_jax.storage.manifest import settle, write_manifest
from dnabert2_jax.storage.paths import StrPath, as_path, in_bucket

logger = logging.getLogger(__name__)


def refuse_existing(path: Path) -> None:
    """The usual rule of :func:`atomic_directory`: nothing is ever overwritten."""
    raise UserError(f"{path} exists; choose another name, or replace it with --force")


@contextmanager
def atomic_directory(
    path: StrPath, *, may_replace: Callable[[Path], None] = refuse_existing, seal: bool = False
) -> Iterator[Path]:
    """A directory beside ``path`` to write into; it takes the place of ``path`` when the block ends without an error.

    Args:
        path: the destination; parents are created. An empty directory there is always replaced. For a bucket, the directory
            is written on this machine, and then uploaded as :mod:`dnabert2_jax.storage.buckets` describes.
        may_replace: called with ``path`` where something else exists there; raises UserError if it must stay.
        seal: write a manifest last.

    Raises:
        NotWritten: for any OSError, in the block or here.
        UserError: ``may_replace`` refused.
    """
    path = as_path(path)
    if in_bucket(path):
        with _bucket_directory(path, may_replace, seal) as folder:
            yield folder
        return
    target = path.resolve()
    partial, previous = target.with_name(f".{partial_name(target)}"), _previous(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if existing_directory(target) == previous:
            _swap(previous, target, None)
        if target.exists() and not (target.is_dir() and not any(target.iterdir())):
            may_replace(path)
        for leftover in (partial, previous):
            if leftover.exists():
                logger.warning("removing %s, left behind by a process that was killed", leftover)
                shutil.rmtree(leftover)
        partial.mkdir()
        yield partial
        if seal:
            write_manifest(partial)
        else:
            settle(partial)
        _swap(partial, target, previous)
        shutil.rmtree(previous, ignore_errors=True)
    except (OSError, NotWritten) as error:
        raise NotWritten(path, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _bucket_directory(path: Path, may_replace: Callable[[Path], None], seal: bool) -> Iterator[Path]:
    """The same in a bucket."""
    try:
        if files_below(buckets.whole(path)) or buckets.about(path) is not None:
            may_replace(buckets.whole(path))
        with buckets.uploaded_directory(path) as folder:
            yield folder
            if seal:
                write_manifest(folder)
    except (OSError, NotWritten) as error:
        raise NotWritten(path, error) from error


def files_below(path: Path) -> list[str]:
    """The files in and below a directory, by name relative to it, sorted; none if there is no such directory.

    Raises:
        BucketError: the bucket cannot be read.
    """
    if in_bucket(path):
        return sorted(buckets.names(path))
    return sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())


def existing_directory(path: Path) -> Path:
    """Where the directory ``path`` is: a kill in the middle of a replacement leaves the old one under another name."""
    if in_bucket(path):
        return buckets.whole(path)
    previous = _previous(path)
    return previous if previous.is_dir() and not path.exists() else path


def _previous(path: Path) -> Path:
    return path.with_name(f".{path.name}.previous")


def _swap(new: Path, path: Path, previous: Path | None) -> None:
    """Put ``new`` in the place of ``path``, whose old content moves to ``previous``, and comes back if that fails."""
    moved = previous if path.exists() else None
    if moved is not None:
        path.rename(moved)
    try:
        new.rename(path)
    except OSError:
        if moved is not None:
            moved.rename(path)
        raise
    flush(path.parent)
