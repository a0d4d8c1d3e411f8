"""Tensors of a file, whatever its format."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True)
class Tensors:
    """Tensors by name, read one at a time.

    Attributes:
        shapes: shape of every tensor by name, in the order of the file.
        read: one tensor by name, in the dtype of the file, read-only; raises UserError if its bytes are missing or damaged.
    """

    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], NDArray[Any]]
