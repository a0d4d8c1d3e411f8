"""Parameter trees as named tensors: flattened, hashed, and written to safetensors files."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save_file

from dnabert2_jax.errors import UserError
from dnabert2_jax.types import Tree


def flatten_tree(tree: Tree) -> dict[str, NDArray[Any]]:
    """A nested dict of arrays as ``{"encoder.embeddings.word": array}``: on the host, contiguous, sorted by path.

    Raises:
        ValueError: a key contains a ".", so the path could not be split again.
    """
    flat: dict[str, NDArray[Any]] = {}
    for keys, value in sorted(flatten_dict(tree).items()):  # type: ignore[no-untyped-call]
        path = ".".join(keys)
        if path.count(".") >= len(keys):
            raise ValueError(f"parameter name {path!r} contains a '.'")
        # safetensors writes the memory as it is, whatever the strides.
        flat[path] = np.asarray(value, order="C")
    return flat


def unflatten_tree(tensors: Mapping[str, NDArray[Any]]) -> Tree:
    """The inverse of :func:`flatten_tree`."""
    tree: Tree = unflatten_dict(dict(tensors), sep=".")  # type: ignore[no-untyped-call]
    return tree


def tree_sha256(tree: Tree) -> str:
    """Hex SHA-256 over a tree's sorted paths, dtypes, shapes and bytes: the same on every host, device and version."""
    digest = hashlib.sha256()
    for path, value in sorted(flatten_tree(tree).items()):
        digest.update(f"{path}\0{value.dtype.name}\0{value.shape}\0".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file; call it inside :func:`~dnabert2_jax.storage.directories.atomic_directory`.

    Raises:
        OSError: it cannot be written.
    """
    try:
        save_file(dict(tensors), path, metadata=dict(metadata) if metadata else None)
    except SafetensorError as error:
        raise OSError(str(error)) from error


def check_finite(source: Path, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Refuse tensors with values that are NaN or infinite.

    Raises:
        UserError: names the first one.
    """
    for name, tensor in tensors.items():
        bad = tensor.size - np.count_nonzero(np.isfinite(tensor))
        if bad:
            raise UserError(
                f"{source}: tensor {name} holds {bad} values of {tensor.size} that are NaN or infinite; the training "
                "diverged: go back to an earlier checkpoint, and lower the learning rate"
            )
