"""A table serialized in parts that can be appended to a file, for formats that cannot be written incrementally.

A part is a line of JSON that names its columns, followed by one array per column, as ``numpy.save`` writes it; a column of
strings is stored as the bytes of its JSON.
"""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

Columns = dict[str, Any]
"""Columns of a table by name: arrays of numbers and lists of strings."""


def packed(columns: Columns) -> bytes:
    """Serialize one part."""
    file = io.BytesIO()
    kinds = {name: "text" if isinstance(values, list) else "numbers" for name, values in columns.items()}
    file.write(json.dumps(kinds).encode() + b"\n")
    for values in columns.values():
        array = np.frombuffer(json.dumps(values).encode(), np.uint8) if isinstance(values, list) else np.asarray(values)
        np.save(file, array, allow_pickle=False)
    return file.getvalue()


def unpacked(path: Path) -> Iterator[Columns]:
    """The parts of a file, one in memory at a time."""
    with path.open("rb") as file:
        while line := file.readline():
            columns: Columns = {}
            for name, kind in json.loads(line).items():
                array = np.load(file, allow_pickle=False)
                columns[name] = json.loads(array.tobytes()) if kind == "text" else array
            yield columns
