"""Directories for other programs: there whole, or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from dnabert2_jax.errors import UserError
from dnabert2_jax.storage.atomic import partial_name


@contextmanager
def new_directory(directory: Path) -> Iterator[Path]:
    """A directory to write into, which becomes ``directory`` once the block has ended well.

    Raises:
        UserError: something is at ``directory`` already, or it cannot be written.
    """
    directory = directory.resolve()
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"{directory} exists; choose another directory, or remove it first")
    partial = directory.with_name(f".{partial_name(directory)}")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        partial.replace(directory)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{directory} could not be written: {error}; make room or choose another place") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
