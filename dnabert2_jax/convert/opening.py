"""Resolves what a path to a model names; every command and function goes through here.

A path may name a model directory, an adapter directory, or a directory in the Hugging Face layout, which is read as it is;
``hf:OWNER/NAME`` is one on the Hugging Face Hub, and ``small`` a model that ships with the package.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dnabert2_jax.artifacts.adapter import SavedAdapter, load_adapter
from dnabert2_jax.artifacts.directory import is_adapter_directory, to_read
from dnabert2_jax.artifacts.model import SavedModel, load_model
from dnabert2_jax.convert import peft
from dnabert2_jax.convert.hub import PREFIX, fetch, is_hub_name
from dnabert2_jax.convert.hugging_face import is_hugging_face_directory, load_hugging_face
from dnabert2_jax.errors import UserError
from dnabert2_jax.models import shipped_model
from dnabert2_jax.storage.copies import local_copy
from dnabert2_jax.storage.paths import StrPath, absolute, as_path


def open_model(path: StrPath) -> SavedModel:
    """Read a whole model: a model directory, whose hashes are verified, a shipped one, or one in Hugging Face's layout.

    Raises:
        UserError: there is no model, it is an adapter, or a part is missing, damaged or of another model; or as
            :func:`~dnabert2_jax.convert.hub.fetch`.
    """
    if is_hub_name(path):
        return open_hugging_face(path)
    if (shipped := shipped_model(path)) is not None:
        return replace(load_model(shipped), path=Path(path))
    path = absolute(path)
    source = to_read(path)
    if is_hugging_face_directory(source):
        return open_hugging_face(path)
    if (source / peft.CONFIG).is_file():
        raise UserError(
            f"{path} is an adapter in PEFT's format, not a model; import it with `dnabert2 convert from-peft {path} OUT "
            "--base MODEL`, and name OUT"
        )
    return load_model(path)


def open_hugging_face(path: StrPath, command: Sequence[str] = ()) -> SavedModel:
    """Read a model in the Hugging Face layout.

    Args:
        path: its directory; or its name on the Hub, where the commit becomes one of its parents (``hub``).
        command: the command line, for the provenance.

    Raises:
        UserError: as :func:`~dnabert2_jax.convert.hugging_face.load_hugging_face` and
            :func:`~dnabert2_jax.convert.hub.fetch`.
    """
    if not is_hub_name(path):
        return replace(load_hugging_face(local_copy(path), command), path=as_path(path))
    snapshot = fetch(path)
    model = load_hugging_face(snapshot.directory, command)
    parents = model.provenance["parents"] | {"hub": snapshot.pinned}
    return replace(model, path=snapshot.directory, provenance=model.provenance | {"parents": parents})


def pinned_path(path: StrPath, model: SavedModel) -> Path:
    """The path that a model was opened with; for one of the Hub, its name with the commit."""
    return Path(f"{PREFIX}{model.provenance['parents']['hub']}") if is_hub_name(path) else as_path(path)


def path_from_anywhere(path: StrPath) -> str:
    """A path to a model for a file that may be read from another directory: absolute, unless it is a name."""
    return str(path) if is_hub_name(path) or shipped_model(path) else str(absolute(path))


def local_path(path: StrPath) -> Path:
    """The directory of a model on this machine; one of the Hub is downloaded.

    Raises:
        UserError: as :func:`~dnabert2_jax.convert.hub.fetch`.
    """
    return fetch(path).directory if is_hub_name(path) else shipped_model(path) or local_copy(path)


def open_adapter(path: StrPath, base: StrPath | None = None) -> SavedAdapter:
    """Read an adapter and its base, which may be in the Hugging Face layout, too.

    Args:
        path: the adapter directory.
        base: the model it was trained on, if it is not where the adapter says.

    Raises:
        UserError: either cannot be read, or the adapter was trained on another base.
    """
    return load_adapter(path, None if base is None else open_model(base), read_base=open_model)


def open_any(path: StrPath, base: StrPath | None = None) -> SavedModel | SavedAdapter:
    """Read a model, or an adapter with its base.

    Raises:
        UserError: as :func:`open_model` and :func:`open_adapter`; a base is given for a whole model.
    """
    if is_adapter_directory(path):
        return open_adapter(path, base)
    if base is not None:
        raise UserError(f"{path} is a whole model, not an adapter; leave the base out")
    return open_model(path)


def files_read(model: SavedModel) -> dict[str, str]:
    """SHA-256 of the files that a model in the Hugging Face layout was read from, as parents of what is made from it.

    A model directory has none: its tensors' hash identifies it.
    """
    if model.path is None or not is_hugging_face_directory(to_read(model.path)):
        return {}
    return {f"base/{name}": sha256 for name, sha256 in model.provenance["parents"].items()}
