"""What model and adapter directories share: a header that says what the directory is, tensors, provenance, and a seal."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray
from safetensors.numpy import load_file

from dnabert2_jax.artifacts.tensors import write_tensors
from dnabert2_jax.config.model import HeadConfig
from dnabert2_jax.errors import UserError
from dnabert2_jax.models import SHIPPED
from dnabert2_jax.storage.atomic import write_json
from dnabert2_jax.storage.copies import local_copy
from dnabert2_jax.storage.directories import atomic_directory, existing_directory, files_below
from dnabert2_jax.storage.manifest import FORMAT, MANIFEST, manifest_files, verify_manifest
from dnabert2_jax.storage.paths import StrPath, absolute, in_bucket

_PROVENANCE = "provenance.json"


class Kind(NamedTuple):
    """A kind of directory.

    Attributes:
        name: for error messages.
        header: the JSON file that identifies it.
        weights: its safetensors file.
    """

    name: str
    header: str
    weights: str


MODEL = Kind("a model", "config.json", "model.safetensors")
ADAPTER = Kind("an adapter", "adapter.json", "adapter.safetensors")


class Content(NamedTuple):
    """What a directory holds.

    Attributes:
        header: its JSON header.
        tensors: host arrays by parameter path.
        provenance: how it was made.
    """

    header: dict[str, Any]
    tensors: dict[str, NDArray[Any]]
    provenance: dict[str, Any]

    @property
    def head(self) -> HeadConfig:
        """How the outputs are read; the header says what differs from the original's head."""
        return HeadConfig(**self.header.get("head", {}))


def is_adapter_directory(path: StrPath) -> bool:
    """Whether ``path`` holds an adapter rather than a whole model."""
    return (existing_directory(absolute(path)) / ADAPTER.header).is_file()


def to_read(path: Path) -> Path:
    """Where to read the directory ``path``: in its place or, after a kill, beside it; for a bucket, in a local copy."""
    return local_copy(path) if in_bucket(path) else existing_directory(path)


@contextmanager
def writing(
    path: Path, kind: Kind, header: Mapping[str, Any], head: HeadConfig, tensors: Mapping[str, NDArray[Any]], provenance: Any
) -> Iterator[Path]:
    """A new directory with its header, tensors and provenance; it replaces ``path``, sealed, when the block ends.

    Raises:
        UserError: it cannot be written, or something other than a directory of this kind exists at ``path``.
    """

    def may_replace(path: Path) -> None:
        if not (path / kind.header).is_file() or not (path / MANIFEST).is_file():
            raise UserError(
                f"{path} exists and is not the directory of {kind.name}; choose another path, or remove it first"
            )
        ours = {MANIFEST, *manifest_files(path)}
        if foreign := [file for file in files_below(path) if file not in ours]:
            raise UserError(f"{path} also holds {', '.join(foreign)}, which replacing it would delete; move that away first")

    with atomic_directory(path, may_replace=may_replace, seal=True) as new:
        write_tensors(new / kind.weights, tensors)
        differences = head.to_dict()
        write_json(new / kind.header, {"format": FORMAT, **header, **({"head": differences} if differences else {})})
        write_json(new / _PROVENANCE, provenance)
        yield new


def read(path: Path, kind: Kind) -> Content:
    """Verify a directory, and read it.

    Raises:
        UserError: there is no such directory, a file is missing or damaged, or the format is unknown.
    """
    if not path.is_dir():
        others = f", {' or '.join(SHIPPED)} for one that ships, or hf:OWNER/NAME for one of the Hugging Face Hub"
        raise UserError(
            f"{path} does not exist; name the directory of {kind.name} on this machine{others if kind is MODEL else ''}"
        )
    for file in (kind.header, MANIFEST):
        if not (path / file).is_file():
            inside = [str(path / part) for part in ("model", "adapter") if (path / part / MANIFEST).is_file()]
            raise UserError(
                f"{path} is not the directory of {kind.name} that dnabert2_jax wrote: it holds no {file}; name "
                f"{' or '.join(inside) or f'that of {kind.name}'}"
            )
    verify_manifest(path)
    header = json.loads((path / kind.header).read_bytes())
    if header["format"] != FORMAT:
        raise UserError(
            f"{path / kind.header} has format {header['format']!r}, accepted is {FORMAT}; use the version of dnabert2_jax "
            "that wrote it"
        )
    return Content(header, load_file(path / kind.weights), json.loads((path / _PROVENANCE).read_bytes()))
