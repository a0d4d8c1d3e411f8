"""A pickle machine that cannot run code: it knows containers, numbers, text and torch's tensors, and refuses the rest.

A pickle is a program for a stack machine, and Python's own machine calls whatever the program names. This one makes
*descriptions* of the tensors that torch would rebuild: there is no way from a file to a call.

A subclass of ``pickle.Unpickler`` that restricts ``find_class`` would not do. It keeps a file from calling functions, but
not from killing the process: a memo index of 2^30 in nine bytes makes it allocate and fill 16 GB, a tuple nested 900,000
deep overflows the C stack as the key of a dict, and one that doubles itself 60 times is never hashed to the end (the tests
have all three). Here the memo is a dict, keys are text or numbers, and every length is checked against the file.
"""

import pickletools
from dataclasses import dataclass
from typing import IO, Any, NoReturn

import ml_dtypes
import numpy as np

from dnabert2_jax.errors import UserError, first_line

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

_MOST_OPCODES = 1_000_000  # 12 layers take about 5,000
_MOST_AXES = 16


@dataclass(frozen=True)
class _Name:
    """A global that the pickle asked for, by name."""

    full: str


@dataclass(frozen=True)
class Storage:
    """A flat array in the file, described."""

    key: str
    dtype: np.dtype[Any]
    elements: int


@dataclass(frozen=True)
class View:
    """A tensor, described: where it is in its storage; offset and strides in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def value_kind(value: Any) -> str:
    """What a value is, for messages."""
    return "tensor" if isinstance(value, View) else type(value).__name__.lstrip("_").lower()


def damaged(source: str, why: str) -> UserError:
    """The error of a damaged file."""
    return UserError(f"{source}: a damaged state dict ({why}); copy or download it again")


# Protocol 2 is what torch.save writes, 4 and 5 what it may be told to write.

_OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
_UNREAD = {"INT", "LONG", "FLOAT", "STRING", "UNICODE", "GET", "PUT", "PERSID", "INST"}
"""Of protocol 0: their arguments end with the line, wherever that is. GLOBAL is the only one of them in torch's files."""

_VALUES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_CONSTANTS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES"),
}
_MARK = object()


def run(file: IO[bytes], source: str) -> Any:
    """The value of the pickle at the file's position, which moves to its end.

    Raises:
        UserError: damaged, or it asks for anything that a state dict does not need.
    """
    try:
        return _Machine(file, source).run()
    except (LookupError, TypeError, ValueError, OverflowError, StopIteration) as error:
        raise damaged(source, first_line(error)) from error


class _Machine:
    def __init__(self, file: IO[bytes], source: str) -> None:
        self.file, self.source = file, source
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        for _ in range(_MOST_OPCODES):
            code = self.file.read(1)
            if not code:
                raise ValueError("it ends too early")
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
            "Do not load this file elsewhere either, unless you trust it; get the weights as model.safetensors"
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
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                self.set_items([key, value])
            case "SETITEMS":
                self.set_items(self.marked())
            case "APPEND":
                self.extend([stack.pop()])
            case "APPENDS":
                self.extend(self.marked())
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
                    self.refuse(f"attributes of a {value_kind(stack[-1])}")
            case _:
                self.refuse(f"opcode {name}")

    def two_lines(self) -> tuple[str, str]:
        """Module and name; pickletools would interpret escape sequences in them."""
        lines = self.file.readline(), self.file.readline()
        if not all(line.endswith(b"\n") for line in lines):
            raise ValueError("it ends too early")
        return lines[0][:-1].decode("ascii"), lines[1][:-1].decode("ascii")

    def marked(self) -> list[Any]:
        """Pop everything above the last mark, and the mark."""
        start = next(index for index in reversed(range(len(self.stack))) if self.stack[index] is _MARK)
        items = self.stack[start + 1 :]
        del self.stack[start:]
        return items

    def set_items(self, items: list[Any]) -> None:
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int):
                raise TypeError(f"a {value_kind(key)} as key")
            if not isinstance(self.stack[-1], dict):
                raise TypeError(f"an item of a {value_kind(self.stack[-1])}")
            self.stack[-1][key] = value

    def extend(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise TypeError(f"an element of a {value_kind(self.stack[-1])}")
        self.stack[-1].extend(items)

    def push_name(self, module: Any, name: Any) -> None:
        full = f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else "a name that is not text"
        if full not in _KNOWN:
            self.refuse(full[:200] if full.isprintable() else repr(full[:200]))
        self.stack.append(_Name(full))

    def storage(self, identity: Any) -> Storage:
        """``("storage", type, key, device, elements)``, and a sixth item in the older format."""
        if not isinstance(identity, tuple) or identity[0] != "storage" or not isinstance(identity[1], _Name):
            raise TypeError("a persistent id that is not a storage")
        kind, key, elements = identity[1].full.removeprefix("torch."), identity[2], identity[4]
        if kind not in _STORAGES or not isinstance(key, str) or not isinstance(elements, int) or elements < 0:
            raise TypeError("a storage without type, key or size")
        if identity[5:] not in ((), (None,)):
            raise ValueError("a storage that is part of another one, as torch wrote before 0.4")
        return Storage(key, _STORAGES[kind], elements)

    def reduce(self, callee: Any, arguments: Any) -> Any:
        if not isinstance(callee, _Name) or not isinstance(arguments, tuple):
            self.refuse(f"a call of a {value_kind(callee)}")
        if callee.full == _ORDERED_DICT and arguments == ():
            return {}
        if callee.full in _REBUILD:
            return _checked_view(*arguments[:4])
        if callee.full == _PARAMETER and isinstance(arguments[0], View):
            return arguments[0]
        self.refuse(f"a call of {callee.full} with {len(arguments)} arguments")


def _checked_view(storage: Any, offset: Any, shape: Any, strides: Any) -> View:
    """A tensor that is within its storage and has no more elements than it."""
    if not isinstance(storage, Storage) or not isinstance(shape, tuple) or not isinstance(strides, tuple):
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
    return View(storage, offset, shape, strides)
