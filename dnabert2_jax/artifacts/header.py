"""What model and adapter directories share: the JSON file that says what a directory is."""

import json
from pathlib import Path
from typing import Any

from dnabert2_jax.config.model import ORIGINAL_HEAD, HeadConfig
from dnabert2_jax.errors import UserError
from dnabert2_jax.storage.directories import existing_directory
from dnabert2_jax.storage.manifest import FORMAT, MANIFEST, manifest_files, verify_manifest

MODEL, ADAPTER = "config.json", "adapter.json"
"""The header of a model directory and of an adapter directory."""

_KINDS = {MODEL: "a model", ADAPTER: "an adapter"}


def is_adapter_directory(path: str | Path) -> bool:
    """Whether ``path`` holds an adapter rather than a whole model."""
    return (existing_directory(Path(path).resolve()) / ADAPTER).is_file()


def head_entry(head: HeadConfig) -> dict[str, Any]:
    """The header's entry about the head; there is none for the original's."""
    return {} if head == ORIGINAL_HEAD else {"head": head.to_dict()}


def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file that the manifest has vouched for."""
    content: dict[str, Any] = json.loads(path.read_bytes())
    return content


def read_header(directory: Path, name: str) -> dict[str, Any]:
    """Verify a directory, and read its header.

    Args:
        directory: a model or adapter directory.
        name: :data:`MODEL` or :data:`ADAPTER`.

    Raises:
        UserError: there is no such directory, a file is missing or damaged, or the format is unknown.
    """
    kind = _KINDS[name]
    if not directory.is_dir():
        raise UserError(f"{directory} does not exist; name the directory of {kind}")
    for file in (name, MANIFEST):
        if not (directory / file).is_file():
            inside = [str(directory / part) for part in ("model", "adapter") if (directory / part / MANIFEST).is_file()]
            raise UserError(
                f"{directory} is not the directory of {kind} that dnabert2_jax wrote: it holds no {file}; name "
                f"{' or '.join(inside) or f'that of {kind}'}"
            )
    verify_manifest(directory)
    header = read_json(directory / name)
    if header["format"] != FORMAT:
        raise UserError(
            f"{directory / name} has format {header['format']!r}, accepted is {FORMAT}; use the version of dnabert2_jax "
            "that wrote it"
        )
    return header


def check_replaceable(path: Path, name: str) -> None:
    """Refuse to replace anything but a directory of the same kind that holds its own files alone.

    Raises:
        UserError: says what is in the way.
    """
    if not (path / name).is_file() or not (path / MANIFEST).is_file():
        raise UserError(f"{path} exists and is not the directory of {_KINDS[name]}; choose another path, or remove it first")
    ours = {MANIFEST, *manifest_files(path)}
    files = (file.relative_to(path).as_posix() for file in sorted(path.rglob("*")) if file.is_file())
    if foreign := [file for file in files if file not in ours]:
        raise UserError(f"{path} also holds {', '.join(foreign)}, which replacing it would delete; move that away first")
