"""State dicts that torch pickled, read without torch and without running anything.

``torch.save`` has written two formats: since 1.6 a zip archive (``data.pkl`` and one member per storage), before that, and
on request, pickles one after the other with the storages behind them. ``safe_pickle`` reads the pickles; contents are read
one tensor at a time, on demand.
"""

import io
import mmap
import stat
import zipfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from dnabert2_jax.convert.safe_pickle import Storage, View, damaged, run, value_kind
from dnabert2_jax.convert.tensors import Tensors
from dnabert2_jax.errors import UserError, first_line

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
"""What the two first pickles of the older format hold."""


def open_pickled_tensors(path: Path) -> Tensors:
    """Open a ``pytorch_model.bin`` of either format.

    Raises:
        UserError: not a state dict that torch saved, damaged, or one that would run code.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4)
        if start == b"PK\x03\x04":
            return _open_archive(path)
        if start[:1] == b"\x80":
            return _open_legacy(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); check the path and the disk") from error
    raise UserError(f"{path}: starts with {start!r}, not with what torch.save writes; download the file again")


def _open_archive(path: Path) -> Tensors:
    try:
        with zipfile.ZipFile(path) as archive:
            members = _checked_members(path, archive)
    except UserError:
        raise
    except Exception as error:  # zipfile raises errors of many kinds for a damaged directory of members
        raise UserError(f"{path}: not an archive of torch.save ({first_line(error)}); copy or download it again") from error
    program = next((name for name in members if name.endswith("/data.pkl") and name.count("/") == 1), None)
    if program is None:
        raise UserError(f"{path}: an archive, but not one of torch.save (no data.pkl in it); give the file it wrote")
    root = program.removesuffix("data.pkl")
    if f"{root}constants.pkl" in members:
        raise UserError(f"{path}: a TorchScript program; save the state dict: torch.save(model.state_dict(), ...)")

    def member(name: str, size: int | None = None) -> bytes:
        if name not in members:
            raise UserError(f"{path}: {name!r} is missing in the archive; copy or download it again")
        if size is not None and members[name].file_size != size:
            raise UserError(f"{path}: {name!r} has {members[name].file_size} bytes instead of {size}; download it again")
        try:
            with zipfile.ZipFile(path) as archive:
                return archive.read(members[name])
        except Exception as error:  # as above
            raise UserError(f"{path}: {name!r} is damaged ({first_line(error)}); copy or download it again") from error

    if f"{root}byteorder" in members and member(f"{root}byteorder").strip() != b"little":
        raise UserError(f"{path}: was saved on a big-endian machine; save it on a little-endian one")
    state = run(io.BytesIO(member(program)), f"{path}: {program}")
    return _tensors(
        _state_dict(path, state),
        lambda storage: member(f"{root}data/{storage.key}", storage.elements * storage.dtype.itemsize),
    )


def _checked_members(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The archive's members by name. Nothing is ever unpacked, but an archive made to escape is not read at all."""
    members: dict[str, zipfile.ZipInfo] = {}
    file_size = path.stat().st_size
    for info in archive.infolist():
        name = info.filename
        if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/") or ":" in name:
            fault = "has a name that leads out of the archive"
        elif stat.S_ISLNK(info.external_attr >> 16):
            fault = "is a symbolic link"
        elif info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            fault = "is compressed"  # torch never does, and so no member is larger than the file
        elif info.header_offset + info.file_size > file_size:
            fault = "is longer than the file"
        elif name in members:
            fault = "occurs twice"
        else:
            members[name] = info
            continue
        raise UserError(
            f"{path}: member {name!r} of the archive {fault}, which torch.save never writes; download the file again"
        )
    return members


def _open_legacy(path: Path) -> Tensors:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        # Reading from a map of the file, no length that the file claims is allocated beyond the file's own.
        stream = cast(IO[bytes], content)
        header = [run(stream, str(path)) for _ in range(3)]
        if header[:2] != [_MAGIC, _PROTOCOL]:
            raise UserError(f"{path}: a pickle, but not one of torch.save; give the file that torch.save wrote")
        if not isinstance(header[2], dict) or header[2].get("little_endian") is not True:
            raise UserError(f"{path}: was saved on a big-endian machine; save it on a little-endian one")
        views = _state_dict(path, run(stream, str(path)))
        keys = run(stream, str(path))
        storages = {view.storage.key: view.storage for view in views.values()}
        at: dict[str, int] = {}
        for key in keys if isinstance(keys, list) else ():
            if not isinstance(key, str) or key not in storages:
                raise damaged(str(path), f"storage {key!r} belongs to no tensor")
            size = storages[key].elements * storages[key].dtype.itemsize
            elements = int.from_bytes(content.read(8), "little")
            at[key] = content.tell()
            if elements != storages[key].elements or at[key] + size > len(content):
                raise damaged(str(path), f"storage {key!r} is cut short or of another size")
            content.seek(at[key] + size)
    if missing := storages.keys() - at.keys():
        raise damaged(str(path), f"storage {min(missing)!r} is missing")

    def read_storage(storage: Storage) -> bytes:
        with path.open("rb") as file:
            file.seek(at[storage.key])
            return file.read(storage.elements * storage.dtype.itemsize)

    return _tensors(views, read_storage)


def _state_dict(path: Path, state: Any) -> dict[str, View]:
    if not isinstance(state, dict):
        raise UserError(
            f"{path}: holds a {value_kind(state)}, not a state dict; save it by torch.save(model.state_dict(), ...)"
        )
    other = [f"{str(key)[:80]!r} ({value_kind(value)})" for key, value in state.items() if not isinstance(value, View)]
    if other or not all(isinstance(key, str) for key in state):
        raise UserError(
            f"{path}: a state dict holds only tensors by name, found {', '.join(other) or 'keys that are not text'}; from a "
            "training checkpoint, save only the model: torch.save(checkpoint[...], ...)"
        )
    sizes: dict[str, Storage] = {}
    for name, view in state.items():
        if sizes.setdefault(view.storage.key, view.storage) != view.storage:
            raise damaged(str(path), f"the storage of {name} has two types or sizes")
    return state


def _tensors(views: dict[str, View], read_storage: Callable[[Storage], bytes]) -> Tensors:
    """Tensors as descriptions and what reads a storage."""
    # Tensors that share a flat storage follow each other: it is read once for all of them.
    read_storage = lru_cache(maxsize=1)(read_storage)

    def read(name: str) -> NDArray[Any]:
        view, storage = views[name], views[name].storage
        flat = np.frombuffer(read_storage(storage), storage.dtype) if storage.elements else np.empty(0, storage.dtype)
        strides = [stride * flat.itemsize for stride in view.strides]
        return as_strided(flat[view.offset :], view.shape, strides, writeable=False)

    return Tensors({name: view.shape for name, view in views.items()}, read)
