"""Tables of results as files: checked in advance and written atomically; see :mod:`dnabert2_jax.inference.formats`."""

import sys
from pathlib import Path
from typing import Any

from dnabert2_jax.config.inference import STANDARD_STREAM
from dnabert2_jax.errors import UserError
from dnabert2_jax.extras import optional_package
from dnabert2_jax.inference.fill_mask import MaskedToken
from dnabert2_jax.inference.formats import FORMATS
from dnabert2_jax.inference.journal import Columns
from dnabert2_jax.inference.record import Record, save_record_beside
from dnabert2_jax.storage.paths import in_bucket

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")

_LIBRARIES = {".parquet": "pyarrow", ".h5": "h5py"}
_EXTRAS = {".parquet": "parquet", ".h5": "hdf5"}


def check_output(path: Path, accepted: tuple[str, ...]) -> None:
    """Check in advance that a file can be written.

    Args:
        path: the file to write; ``-`` is standard output, where tables go as TSV and scores as JSON.
        accepted: suffixes of the formats that can hold the result.

    Raises:
        UserError: another suffix, no such directory, or a format whose library is not installed.
    """
    if is_standard_output(path, accepted):
        return
    if path.suffix not in accepted:
        raise UserError(f"{path}: the suffix {path.suffix!r} is not a known format; accepted are {', '.join(accepted)}")
    if not in_bucket(path) and path.is_dir():
        raise UserError(f"{path} is a directory; name a file")
    if not in_bucket(path) and not path.parent.is_dir():
        raise UserError(f"{path}: there is no directory {path.parent}; create it first")
    if path.suffix in _LIBRARIES:
        _library(path)


def is_standard_output(path: Path, accepted: tuple[str, ...]) -> bool:
    """Whether a result goes to standard output, which is for text formats only."""
    return str(path) == STANDARD_STREAM and bool({".tsv", ".json"} & set(accepted))


def save_columns(path: Path, columns: Columns, record: Record | None = None) -> None:
    """Write an in-memory table.

    Args:
        path: its suffix is the format; ``-`` for TSV on standard output.
        columns: arrays of numbers and lists of strings, by name.
        record: how they were made, see :mod:`dnabert2_jax.inference.record`.

    Raises:
        UserError: as for :func:`check_output`, or the file cannot be written.
    """
    if str(path) == STANDARD_STREAM:
        sys.stdout.write(FORMATS[".tsv"].encode(columns, True).decode())
        return
    check_output(path, tuple(FORMATS))
    chosen = FORMATS[path.suffix]
    chosen.save(path, columns, record)
    if record and chosen.build is None:
        save_record_beside(path, record)


def save_masked_tokens(path: Path, tokens: list[MaskedToken], record: Record | None = None) -> None:
    """Write a table of one row per candidate.

    Columns: mask (from 1), first_base and last_base (from 1; empty for a ``[MASK]`` in the text), original, rank, piece,
    probability.

    Args:
        path: ``.csv``, ``.tsv`` or ``.parquet``; ``-`` for TSV on standard output.
        tokens: the result of :func:`~dnabert2_jax.inference.fill_mask.fill_mask`.
        record: how they were made, see :mod:`dnabert2_jax.inference.record`.

    Raises:
        UserError: as for :func:`check_output`, or the file cannot be written.
    """
    rows = [
        (
            number,
            None if token.original is None else token.start + 1,
            None if token.original is None else token.end,
            token.original,
            rank,
            piece,
            probability,
        )
        for number, token in enumerate(tokens, start=1)
        for rank, (piece, probability) in enumerate(token.candidates, start=1)
    ]
    names = ("mask", "first_base", "last_base", "original", "rank", "piece", "probability")
    save_columns(path, {name: [row[at] for row in rows] for at, name in enumerate(names)}, record)


def _library(path: Path) -> Any:
    """The library that writes this format, an optional extra of this package."""
    suffix = path.suffix
    return optional_package(
        _LIBRARIES[suffix],
        f"{path}: {suffix} files need",
        f"dnabert2_jax[{_EXTRAS[suffix]}]",
        otherwise="choose another format",
    )
