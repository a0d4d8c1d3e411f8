"""State dicts that torch pickled, read without torch and without running anything.

A pickle is a program for a stack machine, and Python's own machine calls whatever the program names. The one here knows
containers, numbers and text, makes *descriptions* of tensors of what torch would rebuild, and refuses everything else by
name: there is no way from a file to a call. Contents are read one tensor at a time, when asked for.

``torch.save`` has written two formats: since 1.6 a zip archive (``data.pkl`` and one member a storage), before that, and on
request, pickles one after the other with the storages behind them.
"""

import io
import mmap
import pickletools
import stat
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any, NoReturn, Protocol, cast

import ml_dtypes
import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from dnabert2_jax.errors import UserError

_STORAGES: dict[str, np.dtype[Any]] = {
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "BoolStorage": np.dtype("?"),
    "ByteStorage": np.dtype("u1"),
    "CharStorage": np.dtype("i1"),
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "IntStorage": np.dtype("<i4"),
    "LongStorage": np.dtype("<i8"),
    "ShortStorage": np.dtype("<i2"),
}
_REBUILD = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2")
_PARAMETER = "torch._utils._rebuild_parameter"
_ORDERED_DICT = "collections.OrderedDict"
_KNOWN = {_ORDERED_DICT, _PARAMETER, *_REBUILD, *(f"torch.{name}" for name in _STORAGES)}

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
"""What the two first pickles of the older format hold."""

_MOST_OPCODES = 1_000_000  # 12 layers take about 5,000
_MOST_AXES = 16


@dataclass(frozen=True)
class _Name:
    """A global that the pickle asked for, as text."""

    full: str


@dataclass(frozen=True)
class _Storage:
    """A flat array in the file."""

    key: str
    dtype: np.dtype[Any]
    elements: int


@dataclass(frozen=True)
class _View:
    """A tensor: where it lies in its storage; offset and strides in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class TensorReader(Protocol):
    """Tensors by name, read one at a time."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of every tensor by name, in the order of the file."""
        ...

    def read(self, name: str) -> NDArray[Any]:
        """One tensor, in the dtype of the file; read-only."""
        ...


@dataclass
class PickledTensors:
    """The state dict of one ``pytorch_model.bin``.

    Attributes:
        path: the file.
        views: descriptions by name.
        read_storage: bytes of a storage.
    """

    path: Path
    views: dict[str, _View]
    read_storage: Callable[[_Storage], bytes]
    _last: tuple[_Storage, bytes] | None = field(default=None, repr=False)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor by name, in the order of the file."""
        return {name: view.shape for name, view in self.views.items()}

    def read(self, name: str) -> NDArray[Any]:
        """One tensor, in the dtype of the file; read-only.

        Raises:
            UserError: its bytes are missing or damaged.
        """
        view = self.views[name]
        # Tensors that are cut from one flat storage follow each other: it is read once for all of them.
        if self._last is None or self._last[0] != view.storage:
            self._last = None
            self._last = (view.storage, self.read_storage(view.storage))
        flat = np.frombuffer(self._last[1], view.storage.dtype) if view.storage.elements else np.empty(0, view.storage.dtype)
        strides = [stride * flat.itemsize for stride in view.strides]
        return as_strided(flat[view.offset :], view.shape, strides, writeable=False)


def open_pickled_tensors(path: Path) -> PickledTensors:
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


def _open_archive(path: Path) -> PickledTensors:
    try:
        with zipfile.ZipFile(path) as archive:
            members = _checked_members(path, archive)
    except UserError:
        raise
    except Exception as error:  # zipfile lets errors of many kinds out of a damaged directory of members
        raise UserError(f"{path}: not an archive of torch.save ({_first_line(error)}); copy or download it again") from error
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
            raise UserError(f"{path}: {name!r} has {members[name].file_size} bytes where {size} belong; download it again")
        try:
            with zipfile.ZipFile(path) as archive:
                return archive.read(members[name])
        except Exception as error:  # as above
            raise UserError(f"{path}: {name!r} is damaged ({_first_line(error)}); copy or download it again") from error

    if f"{root}byteorder" in members and member(f"{root}byteorder").strip() != b"little":
        raise UserError(f"{path}: was saved on a big-endian machine; save it on a little-endian one")
    state = _run(io.BytesIO(member(program)), f"{path}: {program}")
    return PickledTensors(
        path,
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


def _open_legacy(path: Path) -> PickledTensors:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        # Read from a map of the file, a length that the file claims cannot be allocated beyond the file's own.
        stream = cast(IO[bytes], content)
        header = [_run(stream, str(path)) for _ in range(3)]
        if header[:2] != [_MAGIC, _PROTOCOL]:
            raise UserError(f"{path}: a pickle, but not one of torch.save; give the file that torch.save wrote")
        if not isinstance(header[2], dict) or header[2].get("little_endian") is not True:
            raise UserError(f"{path}: was saved on a big-endian machine; save it on a little-endian one")
        views = _state_dict(path, _run(stream, str(path)))
        keys = _run(stream, str(path))
        storages = {view.storage.key: view.storage for view in views.values()}
        at: dict[str, int] = {}
        for key in keys if isinstance(keys, list) else ():
            if not isinstance(key, str) or key not in storages:
                raise _damaged(str(path), f"storage {key!r} belongs to no tensor")
            size = storages[key].elements * storages[key].dtype.itemsize
            elements = int.from_bytes(content.read(8), "little")
            at[key] = content.tell()
            if elements != storages[key].elements or at[key] + size > len(content):
                raise _damaged(str(path), f"storage {key!r} is cut short or of another size")
            content.seek(at[key] + size)
    if missing := storages.keys() - at.keys():
        raise _damaged(str(path), f"storage {min(missing)!r} is missing")

    def read_storage(storage: _Storage) -> bytes:
        with path.open("rb") as file:
            file.seek(at[storage.key])
            return file.read(storage.elements * storage.dtype.itemsize)

    return PickledTensors(path, views, read_storage)


def _state_dict(path: Path, state: Any) -> dict[str, _View]:
    if not isinstance(state, dict):
        raise UserError(f"{path}: holds a {_kind(state)}, not a state dict; save it by torch.save(model.state_dict(), ...)")
    other = [f"{str(key)[:80]!r} ({_kind(value)})" for key, value in state.items() if not isinstance(value, _View)]
    if other or not all(isinstance(key, str) for key in state):
        raise UserError(
            f"{path}: a state dict holds tensors by name alone, found {', '.join(other) or 'keys that are not text'}; of a "
            "training checkpoint save the model's part by itself: torch.save(checkpoint[...], ...)"
        )
    sizes: dict[str, _Storage] = {}
    for name, view in state.items():
        if sizes.setdefault(view.storage.key, view.storage) != view.storage:
            raise _damaged(str(path), f"the storage of {name} has two types or sizes")
    return state


def _kind(value: Any) -> str:
    return "tensor" if isinstance(value, _View) else type(value).__name__.lstrip("_").lower()


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _damaged(source: str, why: str) -> UserError:
    return UserError(f"{source}: a damaged state dict ({why}); copy or download it again")


# The stack machine. Protocol 2 is what torch.save writes, 4 and 5 what it may be told to write.

_OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
_UNREAD = {"INT", "LONG", "FLOAT", "STRING", "UNICODE", "GET", "PUT", "PERSID", "INST"}
"""Of protocol 0: their arguments end with the line, wherever that is. torch's files have GLOBAL alone of that kind."""

_VALUES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_CONSTANTS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES"),
}
_MARK = object()


def _run(file: IO[bytes], source: str) -> Any:
    """The value of the pickle at the file's position, which moves to its end."""
    try:
        return _Machine(file, source).run()
    except (LookupError, TypeError, ValueError, OverflowError, StopIteration) as error:
        raise _damaged(source, _first_line(error)) from error


class _Machine:
    def __init__(self, file: IO[bytes], source: str) -> None:
        self.file, self.source = file, source
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        for _ in range(_MOST_OPCODES):
            code = self.file.read(1)
            if not code:
                raise ValueError("it ends in the middle")
            opcode = _OPCODES.get(code)
            if opcode is None or opcode.name in _UNREAD:
                self.refuse(f"opcode {code!r}" if opcode is None else f"opcode {opcode.name}")
            argument = self.two_lines() if opcode.name == "GLOBAL" else opcode.arg.reader(self.file) if opcode.arg else None
            if opcode.name == "STOP":
                return self.stack.pop()
            self.step(opcode.name, argument)
        raise ValueError(f"more than {_MOST_OPCODES:,} opcodes")

    def refuse(self, what: str) -> NoReturn:
        raise UserError(
            f"{self.source}: asks for {what}, which a state dict does not need and which could run code; nothing was run. "
            "Do not load this file elsewhere either unless you trust it; get the weights as model.safetensors"
        )

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        match name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                stack.append(_MARK)
            case _ if name in _VALUES:
                stack.append(_VALUES[name])
            case _ if name in _CONSTANTS:
                stack.append(argument)
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(name[-1])
                if len(stack) < count:
                    raise IndexError("the stack is empty")
                stack[-count:] = [tuple(stack[-count:])]
            case "TUPLE":
                stack.append(tuple(self.marked()))
            case "LIST":
                stack.append(self.marked())
            case "DICT":
                items = self.marked()
                stack.append({})
                self.set_items(items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                self.set_items([key, value])
            case "SETITEMS":
                self.set_items(self.marked())
            case "APPEND":
                self.extend([stack.pop()])
            case "APPENDS":
                self.extend(self.marked())
            case "POP":
                stack.pop()
            case "DUP":
                stack.append(stack[-1])
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "GLOBAL":
                self.push_name(*argument)
            case "STACK_GLOBAL":
                what, module = stack.pop(), stack.pop()
                self.push_name(module, what)
            case "BINPERSID":
                stack.append(self.storage(stack.pop()))
            case "REDUCE":
                arguments, callee = stack.pop(), stack.pop()
                stack.append(self.reduce(callee, arguments))
            case "BUILD":  # an OrderedDict's attributes: the versions of torch's modules, which no tensor depends on
                stack.pop()
                if not isinstance(stack[-1], dict):
                    self.refuse(f"attributes of a {_kind(stack[-1])}")
            case _:
                self.refuse(f"opcode {name}")

    def two_lines(self) -> tuple[str, str]:
        """Module and name; pickletools would look for escape sequences in them."""
        lines = self.file.readline(), self.file.readline()
        if not all(line.endswith(b"\n") for line in lines):
            raise ValueError("it ends in the middle")
        return lines[0][:-1].decode("ascii"), lines[1][:-1].decode("ascii")

    def marked(self) -> list[Any]:
        """What lies above the last mark; it and the mark go."""
        start = next(index for index in reversed(range(len(self.stack))) if self.stack[index] is _MARK)
        items = self.stack[start + 1 :]
        del self.stack[start:]
        return items

    def set_items(self, items: list[Any]) -> None:
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int):
                raise TypeError(f"a {_kind(key)} as key")
            if not isinstance(self.stack[-1], dict):
                raise TypeError(f"an item of a {_kind(self.stack[-1])}")
            self.stack[-1][key] = value

    def extend(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise TypeError(f"an element of a {_kind(self.stack[-1])}")
        self.stack[-1].extend(items)

    def push_name(self, module: Any, name: Any) -> None:
        full = f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else "a name that is not text"
        if full not in _KNOWN:
            self.refuse(full[:200] if full.isprintable() else repr(full[:200]))
        self.stack.append(_Name(full))

    def storage(self, identity: Any) -> _Storage:
        """``("storage", type, key, device, elements)``, and a sixth item in the older format."""
        if not isinstance(identity, tuple) or identity[0] != "storage" or not isinstance(identity[1], _Name):
            raise TypeError("a persistent id that is not a storage")
        kind, key, elements = identity[1].full.removeprefix("torch."), identity[2], identity[4]
        if kind not in _STORAGES or not isinstance(key, str) or not isinstance(elements, int) or elements < 0:
            raise TypeError("a storage without type, key or size")
        if identity[5:] not in ((), (None,)):
            raise ValueError("a storage that is part of another one, as torch wrote before 0.4")
        return _Storage(key, _STORAGES[kind], elements)

    def reduce(self, callee: Any, arguments: Any) -> Any:
        if not isinstance(callee, _Name) or not isinstance(arguments, tuple):
            self.refuse(f"a call of a {_kind(callee)}")
        if callee.full == _ORDERED_DICT and arguments == ():
            return {}
        if callee.full in _REBUILD:
            return _checked_view(*arguments[:4])
        if callee.full == _PARAMETER and isinstance(arguments[0], _View):
            return arguments[0]
        self.refuse(f"a call of {callee.full} with {len(arguments)} arguments")


def _checked_view(storage: Any, offset: Any, shape: Any, strides: Any) -> _View:
    """A tensor that lies within its storage and has no more elements than it."""
    if not isinstance(storage, _Storage) or not isinstance(shape, tuple) or not isinstance(strides, tuple):
        raise TypeError("a tensor without storage, shape or strides")
    numbers = (offset, *shape, *strides)
    if len(shape) != len(strides) or len(shape) > _MOST_AXES or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise ValueError(f"a tensor with offset, shape and strides {numbers}")
    size, last = 1, offset
    for length, stride in zip(shape, strides, strict=True):
        size *= length
        last += (length - 1) * stride
    if size > storage.elements or (size > 0 and last >= storage.elements) or offset > storage.elements:
        raise ValueError(f"a tensor of shape {shape} in a storage of {storage.elements} elements")
    return _View(storage, offset, shape, strides)
