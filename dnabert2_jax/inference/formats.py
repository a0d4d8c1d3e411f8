"""File formats for tables of results, by suffix; tables are written as they are computed.

CSV, TSV, JSON lines and BED are appended to, one part at a time. Parquet, HDF5 and npz are built at the end from a
:mod:`journal <dnabert2_jax.inference.journal>`, the first two in constant memory.

For embeddings, CSV and TSV have one column per number (``e0``, ``e1``, ...), and npz and HDF5 hold these arrays:

=========== ======================================================================
names       name of each sequence (for a window or interval, that of its record)
embeddings  float32 [sequences, D]; for ``token`` and ``base``, [tokens or bases of all sequences, D]
starts      for windows and intervals, with ``ends``; for intervals also ``intervals`` and ``strands``
offsets     for ``token`` and ``base``: sequence i has the rows offsets[i] to offsets[i + 1]
token_ids   the ids, [tokens of all sequences]
token_bases bases that each token covers, [tokens of all sequences]
=========== ======================================================================

BED has six columns: name, start, end, label, score (1,000 times the probability of the most probable class, rounded) and
strand (``.`` if none was given).
"""

import csv
import importlib
import io
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dnabert2_jax.inference.journal import Columns, packed, unpacked
from dnabert2_jax.inference.record import RECORD, Record, record_text
from dnabert2_jax.storage.atomic import atomic_file
from dnabert2_jax.storage.unfinished import Finish, moved

PREDICTION_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
PLACE_SUFFIXES = (*PREDICTION_SUFFIXES, ".bed")
"""Predictions with coordinates."""
EMBEDDING_SUFFIXES = (".npz", ".parquet", ".h5", ".csv", ".tsv", ".jsonl")
ARRAY_SUFFIXES = (".npz", ".h5")
"""Formats that hold arrays rather than rows."""

_ROW_GROUP_BYTES = 64 * 2**20
ARRAY_NAMES = {
    **{"name": "names", "start": "starts", "end": "ends"},
    **{"interval": "intervals", "strand": "strands", "embedding": "embeddings", "count": "offsets"},
}
"""Names of columns in npz and HDF5 files."""


@dataclass(frozen=True)
class Format:
    """How a table is written.

    Attributes:
        encode: returns the bytes of a part, which are appended to the unfinished file; the flag marks the first part.
        build: builds the file from the parts of its journal; None if the appended bytes are the file.
    """

    encode: Callable[[Columns, bool], bytes]
    build: Callable[[Iterable[Columns], Path, Record | None], None] | None = None

    def finish(self, record: Record | None) -> Finish:
        """A function that turns the unfinished file into its destination."""
        build = self.build
        if build is None:
            return moved

        def finish(unfinished: Path, path: Path) -> None:
            with atomic_file(path) as file:
                build(unpacked(unfinished), file, record)

        return finish

    def save(self, path: Path, columns: Columns, record: Record | None) -> None:
        """Write an in-memory table.

        Raises:
            NotWritten: it cannot be written.
        """
        with atomic_file(path) as file:
            if self.build is None:
                file.write_bytes(self.encode(columns, True))
            else:
                self.build([columns], file, record)


def _text(columns: Columns, first: bool, delimiter: str) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
    vectors = columns.get("embedding", np.empty((len(next(iter(columns.values()))), 0)))
    plain = {name: values for name, values in columns.items() if name != "embedding"}
    if first:
        writer.writerow([*plain, *(f"e{n}" for n in range(vectors.shape[1]))])
    for *values, vector in zip(*plain.values(), vectors, strict=True):
        writer.writerow(map(_cell, (*values, *vector)))
    return file.getvalue().encode()


def _cell(value: Any) -> Any:
    """A number with six digits; empty for NaN."""
    if not isinstance(value, float | np.floating):
        return value
    return "" if np.isnan(value) else f"{value:.6g}"


def _json_lines(columns: Columns, first: bool) -> bytes:
    rows = zip(*columns.values(), strict=True)
    lines = (json.dumps(dict(zip(columns, map(_json, row), strict=True)), ensure_ascii=False) + "\n" for row in rows)
    return "".join(lines).encode()


def _json(value: Any) -> Any:
    """A JSON value: numbers with six digits, null for NaN."""
    if isinstance(value, np.ndarray):
        return [_json(number) for number in value]
    if isinstance(value, float | np.floating):
        return None if np.isnan(value) else float(f"{value:.6g}")
    return value.item() if isinstance(value, np.generic) else value


def _bed(columns: Columns, first: bool) -> bytes:
    most = np.max([values for name, values in columns.items() if name.startswith("p_")], axis=0)
    scores = np.rint(1000 * most).astype(int)
    strands = columns.get("strand", ["."] * len(scores))
    rows = zip(columns["name"], columns["start"], columns["end"], columns["label"], scores, strands, strict=True)
    return "".join("\t".join(re.sub(r"\s", "_", str(field)) for field in row) + "\n" for row in rows).encode()


def _parquet(parts: Iterable[Columns], path: Path, record: Record | None) -> None:
    """Write row groups of about 64 MiB, made of whole parts."""
    pyarrow = importlib.import_module("pyarrow")
    parquet = importlib.import_module("pyarrow.parquet")
    metadata = {RECORD: record_text(record)} if record else None
    writer, waiting = None, []
    try:
        for columns in parts:
            if "embedding" in columns:
                vectors = columns["embedding"]
                flat = pyarrow.array(vectors.reshape(-1), pyarrow.float32())
                columns = columns | {"embedding": pyarrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1])}
            waiting.append(pyarrow.table(columns, metadata=metadata))
            writer = writer or parquet.ParquetWriter(path, waiting[0].schema)
            if sum(table.nbytes for table in waiting) >= _ROW_GROUP_BYTES:
                writer.write_table(pyarrow.concat_tables(waiting).combine_chunks())
                waiting = []
        if writer is not None and waiting:
            writer.write_table(pyarrow.concat_tables(waiting).combine_chunks())
    finally:
        if writer is not None:
            writer.close()


def _hdf5(parts: Iterable[Columns], path: Path, record: Record | None) -> None:
    h5py = importlib.import_module("h5py")
    with h5py.File(path, "w") as file:
        if record:
            file.attrs[RECORD] = record_text(record)
            file.attrs["pooling"] = record["settings"]["pooling"]
        for columns in parts:
            for column, values in columns.items():
                name, text = ARRAY_NAMES.get(column, column), isinstance(values, list)
                if name not in file:
                    kind = h5py.string_dtype() if text else values.dtype
                    file.create_dataset(name, (0, *np.shape(values)[1:]), kind, maxshape=(None, *np.shape(values)[1:]))
                    if column == "count":
                        _extend(file[name], np.zeros(1, np.int64))
                if column == "count":
                    values = file[name][-1] + np.cumsum(values)
                _extend(file[name], np.array(values, object) if text else values)


def _extend(dataset: Any, values: Any) -> None:
    end = len(dataset)
    dataset.resize(end + len(values), axis=0)
    dataset[end:] = values


def _npz(parts: Iterable[Columns], path: Path, record: Record | None) -> None:
    kept = list(parts)
    arrays: dict[str, Any] = {}
    for column in kept[0]:
        values = np.concatenate([part[column] for part in kept])
        if column == "count":
            values = np.concatenate([np.zeros(1, np.int64), np.cumsum(values)])
        arrays[ARRAY_NAMES.get(column, column)] = values
    about = {RECORD: np.array(record_text(record))} if record else {}
    with path.open("wb") as file:
        np.savez(file, **{**arrays, **about})


def _journal(columns: Columns, first: bool) -> bytes:
    return packed(columns)


FORMATS = {
    ".csv": Format(partial(_text, delimiter=",")),
    ".tsv": Format(partial(_text, delimiter="\t")),
    ".jsonl": Format(_json_lines),
    ".bed": Format(_bed),
    ".parquet": Format(_journal, _parquet),
    ".h5": Format(_journal, _hdf5),
    ".npz": Format(_journal, _npz),
}
