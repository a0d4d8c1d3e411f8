"""Model and adapter directories: what every command writes and reads.

A model directory::

    config.json         format, kind of model, encoder sizes, labels
    model.safetensors   weights by parameter path, joined with "."
    tokenizer.model     and whatever else ``Tokenizer.save`` writes
    provenance.json     how it was made
    manifest.json       size and SHA-256 of every file above, written last

An adapter directory holds ``adapter.json``, ``adapter.safetensors``, ``provenance.json`` and ``manifest.json``: the LoRA
tree and the trained heads alone. It names its base by path and by the hash of the base encoder's tensors.

Both are written beside their destination and renamed into place, so a kill leaves the old directory or the new one. Nothing
here depends on the versions of Python, jax or numpy that wrote a directory.
"""

import hashlib
import json
import logging
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from dnabert2_jax.config.model import ORIGINAL_HEAD, EncoderConfig, HeadConfig, LoraConfig
from dnabert2_jax.errors import UserError
from dnabert2_jax.storage.atomic import partial_name, write_json
from dnabert2_jax.storage.manifest import FORMAT, MANIFEST, manifest_files, verify_manifest, write_manifest
from dnabert2_jax.tokenizer.base import Tokenizer
from dnabert2_jax.types import Tree
from dnabert2_jax.version import __version__

MODEL, ADAPTER = "config.json", "adapter.json"

ModelKind = Literal["masked_lm", "classifier"]

_WORD = "encoder.embeddings.word"
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "safetensors", "sentencepiece", "scikit-learn")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SavedModel:
    """A model as it lies in its directory.

    Attributes:
        kind: ``masked_lm`` (encoder and MLM head) or ``classifier`` (encoder, pooler and classification head).
        config: sizes of the encoder.
        params: nested dict of host arrays.
        tokenizer: makes the ids that the word embeddings are indexed by.
        labels: class names by class number; the measurement's name of a regression; empty for a masked language model.
        head: how a classifier reads a sequence, and what its outputs mean.
        provenance: how it was made, see :func:`make_provenance`.
        path: its directory; None until it is saved.
    """

    kind: ModelKind
    config: EncoderConfig
    params: Tree
    tokenizer: Tokenizer
    labels: tuple[str, ...] = ()
    head: HeadConfig = ORIGINAL_HEAD
    provenance: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None


@dataclass(frozen=True, kw_only=True)
class SavedAdapter:
    """A LoRA adapter with its trained heads, and the model that it adapts.

    Attributes:
        base: the model whose encoder the adapter was trained on.
        params: nested dict of host arrays: ``{"adapter": {target: {"A", "B"}}, "pooler": ..., "classifier": ...}``.
        lora: the settings it was trained with.
        labels: class names by class number.
        head: how it reads a sequence.
        provenance: how it was made, see :func:`make_provenance`.
        path: its directory; None until it is saved.
    """

    base: SavedModel
    params: Tree
    lora: LoraConfig
    labels: tuple[str, ...]
    head: HeadConfig = ORIGINAL_HEAD
    provenance: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None


def save_model(path: str | os.PathLike[str], model: SavedModel) -> SavedModel:
    """Write ``model`` to the directory ``path``; a model directory that is already there is replaced.

    Returns:
        ``model`` with its new path.

    Raises:
        UserError: parts of the model contradict each other, a weight is not finite, something else than a model directory
            lies at ``path``, or it cannot be written.
    """
    path = Path(path).resolve()
    tensors = flatten_tree(model.params)
    _check_model(path, model, tensors)
    with _replacing(path, MODEL) as new:
        save_file(tensors, new / "model.safetensors")
        model.tokenizer.save(new)
        header = {"format": FORMAT, "kind": model.kind, "encoder": model.config.to_dict(), "labels": list(model.labels)}
        write_json(new / MODEL, header | _head_entry(model.head))
        write_json(new / "provenance.json", model.provenance)
    return replace(model, path=path)


def load_model(path: str | os.PathLike[str]) -> SavedModel:
    """Read the model directory ``path``, verifying every file's hash.

    Raises:
        UserError: there is no model directory, a file is missing or damaged, the format is unknown, the parts do not belong
            together, or a weight is not finite.
    """
    path = Path(path).resolve()
    source = _existing(path)
    if is_adapter_directory(path):
        raise UserError(
            f"{path} is an adapter directory, a model directory is needed here: merge the adapter into its base first"
        )
    header = _read_header(source, MODEL)
    try:
        config = EncoderConfig(**header["encoder"])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, ("encoder", *first["loc"])))
        raise UserError(f"{source / MODEL}: {where} is {first['input']!r}: {first['msg']}; write the model again") from error
    tensors = load_file(source / "model.safetensors")
    model = SavedModel(
        kind=header["kind"],
        config=config,
        params=unflatten_tree(tensors),
        tokenizer=Tokenizer.load(source),
        labels=tuple(header["labels"]),
        head=HeadConfig(**header.get("head", {})),
        provenance=_read_json(source / "provenance.json"),
        path=path,
    )
    _check_model(source, model, tensors)
    return model


def save_adapter(path: str | os.PathLike[str], adapter: SavedAdapter) -> SavedAdapter:
    """Write ``adapter`` to the directory ``path``; an adapter directory that is already there is replaced.

    Only the adapter and the heads are written. The base is recorded by the hashes of its encoder and tokenizer and by its
    path, relative (so that both can move together) and absolute.

    Returns:
        ``adapter`` with its new path.

    Raises:
        UserError: a weight is not finite, something else lies at ``path``, or it cannot be written.
        ValueError: the base has no directory yet.
    """
    path = Path(path).resolve()
    if adapter.base.path is None:
        raise ValueError("the adapter's base has no directory: save the base with save_model and use what that returns")
    tensors = flatten_tree(adapter.params)
    _check_finite(path, tensors)
    with _replacing(path, ADAPTER) as new:
        save_file(tensors, new / "adapter.safetensors")
        header = {
            "format": FORMAT,
            "lora": adapter.lora.to_dict(),
            "labels": list(adapter.labels),
            "base_sha256": tree_sha256(adapter.base.params["encoder"]),
            "base_tokenizer_sha256": adapter.base.tokenizer.sha256,
            "base_path": os.path.relpath(adapter.base.path, path),
            "base_absolute_path": str(adapter.base.path),
        }
        write_json(new / ADAPTER, header | _head_entry(adapter.head))
        write_json(new / "provenance.json", adapter.provenance)
    return replace(adapter, path=path)


def load_adapter(path: str | os.PathLike[str], base: SavedModel | None = None) -> SavedAdapter:
    """Read the adapter directory ``path`` and its base.

    Args:
        path: the adapter directory.
        base: the model it was trained on; by default it is loaded from where the adapter says it is.

    Raises:
        UserError: there is no adapter directory, a file is missing or damaged, the base is not found, or the base's encoder
            or tokenizer is not the one that the adapter was trained on.
    """
    path = Path(path).resolve()
    source = _existing(path)
    header = _read_header(source, ADAPTER)
    tensors = load_file(source / "adapter.safetensors")
    _check_finite(source, tensors)
    if base is None:
        candidates = (Path(os.path.normpath(path / header["base_path"])), Path(header["base_absolute_path"]))
        found = next((candidate for candidate in candidates if _existing(candidate).is_dir()), None)
        if found is None:
            raise UserError(
                f"{path}: its base model is neither at {candidates[0]} nor at {candidates[1]}; name the base's directory, "
                f"whose encoder has sha256 {header['base_sha256']}"
            )
        base = load_model(found)
    for part, trained_on, given in (
        ("encoder", header["base_sha256"], tree_sha256(base.params["encoder"])),
        ("tokenizer", header["base_tokenizer_sha256"], base.tokenizer.sha256),
    ):
        if given != trained_on:
            merged = part == "encoder" and base.provenance.get("parents", {}).get("base") == trained_on
            raise UserError(
                f"{path}: the adapter was trained on a base whose {part} has sha256 {trained_on}, but that of "
                f"{base.path or 'the base given'} has {given}"
                + ("; it was made from that base, with an adapter in it already if it was merged" if merged else "")
                + "; name the base it was trained on"
            )
    return SavedAdapter(
        base=base,
        params=unflatten_tree(tensors),
        lora=LoraConfig(**header["lora"]),
        labels=tuple(header["labels"]),
        head=HeadConfig(**header.get("head", {})),
        provenance=_read_json(source / "provenance.json"),
        path=path,
    )


def is_adapter_directory(path: str | os.PathLike[str]) -> bool:
    """Whether ``path`` holds an adapter rather than a whole model."""
    return (_existing(Path(path).resolve()) / ADAPTER).is_file()


def make_provenance(
    command: Sequence[str], *, run_config: Mapping[str, Any], parents: Mapping[str, str], metrics: Mapping[str, Any]
) -> dict[str, Any]:
    """The record of how something was made.

    Args:
        command: the command line, one word an item.
        run_config: the run's complete settings.
        parents: what it was made from, name to hash (``{"corpus": sha256, "base": sha256}``).
        metrics: what it reached.

    Returns:
        A JSON-ready dict that also holds the date (UTC) and the versions in use.
    """
    versions = {"python": platform.python_version(), "dnabert2_jax": __version__}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # pragma: no cover - a trimmed installation
            continue
    return {
        "command": list(command),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions,
        "run_config": dict(run_config),
        "parents": dict(parents),
        "metrics": dict(metrics),
    }


def flatten_tree(tree: Tree, prefix: str = "") -> dict[str, NDArray[Any]]:
    """A nested dict of arrays as ``{"encoder.embeddings.word": array}``: on the host, contiguous, sorted by path.

    Raises:
        ValueError: a key holds a ".", so that the path could not be split again.
    """
    flat: dict[str, NDArray[Any]] = {}
    for key, value in sorted(tree.items()):
        if "." in key:
            raise ValueError(f"parameter name {prefix + key!r} holds a '.'")
        if isinstance(value, dict):
            flat.update(flatten_tree(value, f"{prefix}{key}."))
        else:
            # safetensors writes the memory as it lies, without a look at the strides.
            flat[prefix + key] = np.asarray(value, order="C")
    return flat


def unflatten_tree(tensors: Mapping[str, NDArray[Any]]) -> Tree:
    """The inverse of :func:`flatten_tree`."""
    tree: Tree = {}
    for path, value in tensors.items():
        *parents, leaf = path.split(".")
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
        node[leaf] = value
    return tree


def tree_sha256(tree: Tree) -> str:
    """Hex SHA-256 over a tree's sorted paths, dtypes, shapes and bytes: the same on every host, device and version."""
    digest = hashlib.sha256()
    for path, value in sorted(flatten_tree(tree).items()):
        digest.update(f"{path}\0{value.dtype.name}\0{value.shape}\0".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def _head_entry(head: HeadConfig) -> dict[str, Any]:
    """The header's entry about the head; one like the original's goes without saying."""
    return {} if head == ORIGINAL_HEAD else {"head": head.to_dict()}


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_bytes())


def _read_header(directory: Path, name: str) -> dict[str, Any]:
    """The verified directory's ``config.json`` or ``adapter.json``."""
    kind = "a model" if name == MODEL else "an adapter"
    if not directory.is_dir():
        raise UserError(f"{directory} does not exist; name the directory of {kind}")
    for file in (name, MANIFEST):
        if not (directory / file).is_file():
            inside = [name for name in ("model", "adapter") if (directory / name / MANIFEST).is_file()]
            raise UserError(
                f"{directory} is not the directory of {kind} that dnabert2_jax wrote: it holds no {file}; "
                + (f"name {' or '.join(str(directory / name) for name in inside)}" if inside else f"name that of {kind}")
            )
    verify_manifest(directory)
    header = _read_json(directory / name)
    if header["format"] != FORMAT:
        raise UserError(
            f"{directory / name} has format {header['format']!r}, accepted is {FORMAT}; use the dnabert2_jax that wrote it"
        )
    return header


def _check_model(source: Path, model: SavedModel, tensors: Mapping[str, NDArray[Any]]) -> None:
    if model.kind not in get_args(ModelKind):
        raise UserError(f"{source}: model kind {model.kind!r} is unknown; accepted are {', '.join(get_args(ModelKind))}")
    regression = model.head.task == "regression"
    fits = len(model.labels) == 1 if regression else len(model.labels) >= 2
    if (model.kind == "classifier") != fits or len(set(model.labels)) != len(model.labels):
        raise UserError(
            f"{source}: a {model.kind} with the labels {list(model.labels)}; a classifier has at least two different ones, "
            "a regression one, a masked_lm none"
        )
    sizes = (model.config.vocab_size, model.config.hidden_size)
    if _WORD not in tensors:
        raise UserError(f"{source}: tensor {_WORD} is missing; found are {', '.join(tensors) or 'none'}")
    if tensors[_WORD].shape != sizes:
        raise UserError(
            f"{source}: tensor {_WORD} has the shape {tensors[_WORD].shape}, but the configuration has vocab_size "
            f"{sizes[0]} and hidden_size {sizes[1]}; weights and configuration are of different models"
        )
    if model.tokenizer.vocab_size != sizes[0]:
        raise UserError(
            f"{source}: the tokenizer has {model.tokenizer.vocab_size} pieces, but the model was made for {sizes[0]}; "
            "use the tokenizer that it was trained with"
        )
    for name, tensor in tensors.items():
        if name.startswith("classifier.") and tensor.shape[-1] != len(model.labels):
            raise UserError(
                f"{source}: tensor {name} has the shape {tensor.shape}, but there are {len(model.labels)} labels "
                f"{list(model.labels)}; weights and labels are of different models"
            )
    _check_finite(source, tensors)


def _check_finite(source: Path, tensors: Mapping[str, NDArray[Any]]) -> None:
    for name, tensor in tensors.items():
        bad = tensor.size - np.count_nonzero(np.isfinite(tensor))
        if bad:
            raise UserError(
                f"{source}: tensor {name} holds {bad} values of {tensor.size} that are NaN or infinite; the training "
                "diverged: go back to an earlier checkpoint, with a lower learning rate"
            )


def _partial_and_previous(path: Path) -> tuple[Path, Path]:
    return path.with_name(f".{partial_name(path)}"), path.with_name(f".{path.name}.previous")


def _existing(path: Path) -> Path:
    """Where the directory is: a kill between the two renames of a replacement leaves the old one under another name."""
    previous = _partial_and_previous(path)[1]
    return previous if previous.is_dir() and not path.exists() else path


@contextmanager
def _replacing(path: Path, marker: str) -> Iterator[Path]:
    """A new directory beside ``path`` to write into; it gets its manifest and takes the place of ``path`` at the end."""
    partial, previous = _partial_and_previous(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if _existing(path) == previous:
            previous.rename(path)
        _check_replaceable(path, marker)
        for leftover in (partial, previous):
            if leftover.exists():
                logger.warning("removing %s, left by a process that was killed", leftover)
                shutil.rmtree(leftover)
        partial.mkdir()
        yield partial
        write_manifest(partial)
        if path.exists():
            path.rename(previous)
        partial.rename(path)
        shutil.rmtree(previous, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path} could not be written: {error}; what was there is as before; make room or choose another place"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_replaceable(path: Path, marker: str) -> None:
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    kind = "a model" if marker == MODEL else "an adapter"
    if not (path / marker).is_file() or not (path / MANIFEST).is_file():
        raise UserError(f"{path} exists and is not the directory of {kind}; choose another path, or remove it first")
    ours = {MANIFEST, *manifest_files(path)}
    foreign = [
        name
        for file in sorted(path.rglob("*"))
        if file.is_file() and (name := file.relative_to(path).as_posix()) not in ours
    ]
    if foreign:
        raise UserError(f"{path} also holds {', '.join(foreign)}, which replacing it would delete; move that away first")
