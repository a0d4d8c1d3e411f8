"""Tables of windows, written as they are computed: CSV, TSV, BED, parquet and HDF5; npz at the end, from memory.

Columns are those of :mod:`dnabert2_jax.inference.scan`. Of an embedding, CSV and TSV have one column per number (``e0``,
``e1``, ...), and npz and HDF5 hold the arrays ``names``, ``starts``, ``ends`` and ``embeddings``, and of intervals also
``intervals`` and ``strands``. BED has six columns: name, start, end, label, score (1,000 times the probability of the most
probable class, rounded) and the strand, ``.`` where none was given.
"""

import csv
import importlib
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dnabert2_jax.errors import UserError
from dnabert2_jax.inference.output import check_output
from dnabert2_jax.storage.atomic import atomic_file

PREDICTION_SUFFIXES = (".csv", ".tsv", ".bed", ".parquet")
EMBEDDING_SUFFIXES = (".parquet", ".h5", ".npz", ".csv", ".tsv")

Columns = dict[str, Any]
Write = Callable[[Columns], None]

_MOST_IN_MEMORY = 2e9
_TEXT_BYTES, _BINARY_BYTES = 11, 4
_ARRAYS = {
    **{"name": "names", "start": "starts", "end": "ends"},
    **{"interval": "intervals", "strand": "strands", "embedding": "embeddings"},
}


def expected_bytes(path: Path, rows: int, numbers: int) -> int:
    """About how large a file will be.

    Args:
        path: its suffix is the format.
        rows: windows.
        numbers: of a row, besides its name and coordinates.
    """
    return rows * (40 + numbers * (_TEXT_BYTES if path.suffix in (".csv", ".tsv") else _BINARY_BYTES))


def check_size(path: Path, rows: int, width: int) -> None:
    """Check before the work that embeddings of ``rows`` windows fit in a file's format.

    Raises:
        UserError: an npz file of more than 2 GB, which would have to be in memory.
    """
    size = expected_bytes(path, rows, width)
    if path.suffix == ".npz" and size > _MOST_IN_MEMORY:
        raise UserError(
            f"{path}: {rows:,} vectors of {width:,} numbers are {size / 1e9:,.1f} GB, but an .npz file is written from "
            f"memory, at most {_MOST_IN_MEMORY / 1e9:.0f} GB; choose .parquet or .h5, which are written as "
            "they are computed, or a larger --step"
        )


@contextmanager
def writing_rows(path: Path, accepted: tuple[str, ...]) -> Iterator[Write]:
    """A function that appends columns to a file, which appears when the block ends without an error.

    Args:
        path: the file to write.
        accepted: suffixes of the formats that can hold the result.

    Raises:
        UserError: as :func:`~dnabert2_jax.inference.output.check_output`, or the file cannot be written.
    """
    check_output(path, accepted)
    with atomic_file(path) as unfinished, _FORMATS[path.suffix](unfinished) as write:
        yield write


@contextmanager
def _text(path: Path, delimiter: str) -> Iterator[Write]:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")

        def write(columns: Columns) -> None:
            vectors = columns.get("embedding", np.empty((len(columns[next(iter(columns), "name")]), 0)))
            plain = {name: values for name, values in columns.items() if name != "embedding"}
            if not file.tell():
                writer.writerow([*plain, *(f"e{n}" for n in range(vectors.shape[1]))])
            for *values, vector in zip(*plain.values(), vectors, strict=True):
                writer.writerow(map(_cell, (*values, *vector)))

        yield write


def _cell(value: Any) -> Any:
    """Six digits of a number; nothing where there is none."""
    if not isinstance(value, float | np.floating):
        return value
    return "" if np.isnan(value) else f"{value:.6g}"


@contextmanager
def _bed(path: Path) -> Iterator[Write]:
    with path.open("w", encoding="utf-8") as file:

        def write(columns: Columns) -> None:
            most = np.max([values for name, values in columns.items() if name.startswith("p_")], axis=0)
            scores = np.rint(1000 * most).astype(int)
            strands = columns.get("strand", ["."] * len(scores))
            rows = zip(columns["name"], columns["start"], columns["end"], columns["label"], scores, strands, strict=True)
            for row in rows:
                words = (re.sub(r"\s", "_", str(field)) for field in row)
                file.write("\t".join(words) + "\n")

        yield write


@contextmanager
def _parquet(path: Path) -> Iterator[Write]:
    pyarrow = importlib.import_module("pyarrow")
    writer = None

    def write(columns: Columns) -> None:
        nonlocal writer
        if "embedding" in columns:
            vectors = columns["embedding"]
            flat = pyarrow.array(vectors.reshape(-1), pyarrow.float32())
            columns = columns | {"embedding": pyarrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1])}
        table = pyarrow.table(columns)
        writer = writer or importlib.import_module("pyarrow.parquet").ParquetWriter(path, table.schema)
        writer.write_table(table)

    try:
        yield write
    finally:
        if writer is not None:
            writer.close()


@contextmanager
def _hdf5(path: Path) -> Iterator[Write]:
    h5py = importlib.import_module("h5py")
    with h5py.File(path, "w") as file:

        def write(columns: Columns) -> None:
            for column, given in columns.items():
                name, text = _ARRAYS[column], isinstance(given, list)
                values = np.array(given, object) if text else given
                if name not in file:
                    kind = h5py.string_dtype() if text else values.dtype
                    file.create_dataset(name, (0, *values.shape[1:]), kind, maxshape=(None, *values.shape[1:]))
                end = len(file[name])
                file[name].resize(end + len(values), axis=0)
                file[name][end:] = values

        yield write


@contextmanager
def _npz(path: Path) -> Iterator[Write]:
    parts: list[Columns] = []
    yield parts.append
    arrays: dict[str, Any] = {_ARRAYS[column]: np.concatenate([part[column] for part in parts]) for column in parts[0]}
    with path.open("wb") as file:
        np.savez(file, **arrays)


_FORMATS: dict[str, Callable[[Path], AbstractContextManager[Write]]] = {
    ".csv": partial(_text, delimiter=","),
    ".tsv": partial(_text, delimiter="\t"),
    ".bed": _bed,
    ".parquet": _parquet,
    ".h5": _hdf5,
    ".npz": _npz,
}
