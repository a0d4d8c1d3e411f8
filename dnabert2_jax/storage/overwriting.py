"""The one rule of overwriting: what exists stays, unless the user asks for its replacement with ``--force``."""

import os
from collections.abc import Callable
from pathlib import Path

from dnabert2_jax.errors import UserError
from dnabert2_jax.storage import buckets
from dnabert2_jax.storage.directories import refuse_existing
from dnabert2_jax.storage.paths import StrPath, as_path, in_bucket


def refuse_overwriting(path: StrPath, *, force: bool = False) -> None:
    """Check before the work that a command may write a file or a directory.

    Args:
        path: the output; an empty directory counts as absent.
        force: it may be replaced.

    Raises:
        UserError: it exists, and ``force`` was not given.
        BucketError: the bucket cannot be read.
    """
    path = as_path(path)
    if force:
        return
    if in_bucket(path):
        exists = bool(buckets.names(path) or buckets.about(path))
    else:
        exists = os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir()))
    if exists:
        refuse_existing(path)


def replacing(marker: str, kind: str, *, force: bool) -> Callable[[Path], None]:
    """For :func:`~dnabert2_jax.storage.directories.atomic_directory`: what ``--force`` may replace.

    A directory without the file ``marker`` is something else, and is never deleted.

    Args:
        marker: a file that every directory of this kind has.
        kind: what it is, for the message.
        force: the user asked for it.
    """

    def may_replace(path: Path) -> None:
        if not force:
            refuse_existing(path)
        if not (path / marker).is_file():
            raise UserError(f"{path} is not {kind} (no {marker} in it), so --force does not replace it; remove it yourself")

    return may_replace
