"""The weights of a Hugging Face directory, in any of their forms."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from dnabert2_jax.convert.tensors import Tensors
from dnabert2_jax.convert.torch_pickle import open_pickled_tensors
from dnabert2_jax.errors import UserError

SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"
FORMS = (SAFETENSORS, f"{SAFETENSORS}.index.json", PICKLE, f"{PICKLE}.index.json")
"""Files to look for weights in, the first that exists; an index names the shards."""

_LFS = b"version https://git-lfs"


def open_safetensors(path: Path) -> Tensors:
    """The tensors of one safetensors file.

    Raises:
        UserError: damaged.
    """
    try:
        with safe_open(path, "numpy") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a valid safetensors file ({error}); copy or download it again") from error

    def read(name: str) -> NDArray[Any]:
        try:
            with safe_open(path, "numpy") as file:
                return file.get_tensor(name)
        except (SafetensorError, OSError, TypeError, AttributeError, KeyError) as error:  # numpy lacks some dtypes
            raise UserError(f"{path}: tensor {name} cannot be read ({error}); copy or download it again") from error

    return Tensors(shapes, read)


def open_weights(directory: Path) -> tuple[Tensors, Sequence[Path]]:
    """The weights of ``directory``, and the files that hold them.

    Raises:
        UserError: there are none, or they are damaged or could run code.
    """
    form = next((name for name in FORMS if (directory / name).is_file()), None)
    if form is None:
        raise UserError(f"{directory} holds no weights; accepted are {', '.join(FORMS)}: download one of them into it")
    path = directory / form
    if not form.endswith(".index.json"):
        return _open_file(path), [path]
    shards = _shards(path)
    readers = {file: _open_file(directory / file) for file in sorted(set(shards.values()))}
    for name, file in shards.items():
        if name not in readers[file].shapes:
            raise UserError(f"{directory / file}: tensor {name} is missing, but {path} lists it; download both again")
    listed = sum(len(reader.shapes) for reader in readers.values())
    if listed != len(shards):
        raise UserError(f"{path}: lists {len(shards)} tensors, but its files hold {listed}; download them again")
    shapes = {name: readers[file].shapes[name] for name, file in shards.items()}
    return Tensors(shapes, lambda name: readers[shards[name]].read(name)), [directory / file for file in readers]


def _open_file(path: Path) -> Tensors:
    try:
        with path.open("rb") as file:
            start = file.read(len(_LFS))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); download it into the directory") from error
    if start == _LFS:
        raise UserError(f"{path}: a Git LFS pointer, not the weights; get them with `git lfs pull`, or download the file")
    reader = open_safetensors(path) if path.suffix == ".safetensors" else open_pickled_tensors(path)
    if not reader.shapes:
        raise UserError(f"{path}: holds no tensors; download it again")
    return reader


def _shards(path: Path) -> dict[str, str]:
    """File name by tensor name."""
    try:
        shards = json.loads(path.read_bytes())["weight_map"]
        sound = all(isinstance(file, str) and _is_plain(file) for file in shards.values())
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: not an index of weights ({error!r}); download it again") from error
    if not sound:
        raise UserError(f"{path}: names files outside its directory; an index lists files beside it: download it again")
    return shards


def _is_plain(name: str) -> bool:
    """Whether a name is that of a file in the directory itself."""
    return name not in ("", ".", "..") and not {"/", "\\", "\0"} & set(name)
