"""Merge the shares of a job computed by several processes (``--shard 2/8``), in input order."""

import importlib
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dnabert2_jax.config.inference import Shard
from dnabert2_jax.errors import UserError
from dnabert2_jax.inference.formats import ARRAY_NAMES, FORMATS
from dnabert2_jax.inference.journal import Columns
from dnabert2_jax.inference.output import check_output
from dnabert2_jax.inference.record import RECORD, Record, save_record_beside
from dnabert2_jax.storage.atomic import atomic_file
from dnabert2_jax.storage.copies import local_copy
from dnabert2_jax.storage.unfinished import unfinished_path

_ROWS_AT_ONCE = 65_536


@dataclass(frozen=True)
class Shards:
    """The complete shares of a file; make it with :func:`find_shards`.

    Attributes:
        out: the merged file.
        files: one per share, in order.
        record: how they were made.
        beside: whether their records are in files next to them.
    """

    out: Path
    files: tuple[Path, ...]
    record: Record
    beside: bool

    def merge(self) -> None:
        """Write the merged file; the shares are kept.

        Raises:
            UserError: it cannot be written, or tables have different columns.
        """
        chosen = FORMATS[self.out.suffix]
        with atomic_file(self.out) as file:
            if chosen.build is None:
                self._join_text(file)
            else:
                chosen.build((part for share in self.files for part in _parts(share)), file, self.record)
        if self.beside:
            save_record_beside(self.out, self.record)

    def _join_text(self, path: Path) -> None:
        header = b""
        with path.open("wb") as joined:
            for share in self.files:
                with share.open("rb") as file:
                    if self.out.suffix in (".csv", ".tsv"):
                        first = file.readline()
                        if header and first != header:
                            raise UserError(f"{share} has other columns than {self.files[0]}; compute one of them again")
                        if not header:
                            joined.write(first)
                        header = first
                    shutil.copyfileobj(file, joined)


def find_shards(out: Path) -> Shards:
    """Find the shares of a file, next to it as ``NAME.2-of-8.csv``.

    Args:
        out: the merged file.

    Raises:
        UserError: there are none, one is missing or unfinished, or they are from different jobs.
    """
    if out.is_dir() and out.suffix not in FORMATS:
        shares = (re.fullmatch(r"(.+)\.\d+-of-\d+(\.\w+)", path.name) for path in out.iterdir())
        names = sorted({str(out / f"{share[1]}{share[2]}") for share in shares if share})
        known = f": {' or '.join(names)}" if names else "; it holds no shares"
        raise UserError(f"{out} is a directory; name the file that the shares belong to, the --out of their commands{known}")
    check_output(out, tuple(FORMATS))
    named = re.compile(re.escape(out.stem) + r"\.(\d+)-of-(\d+)" + re.escape(out.suffix))
    found = [match for path in out.parent.iterdir() if (match := named.fullmatch(path.name))]
    counts = sorted({int(match[2]) for match in found})
    if not counts:
        raise UserError(f"{out}: there is no {Shard(1, 2).path(out).name} or the like beside it; compute shares (--shard)")
    if len(counts) > 1:
        raise UserError(
            f"{out}: there are shares of {' and of '.join(map(str, counts))} beside it; remove those not to be merged"
        )
    shards = [Shard(number, counts[0]) for number in range(1, counts[0] + 1)]
    present = {int(match[1]) for match in found}
    if missing := [shard for shard in shards if shard.number not in present]:
        begun = [str(shard) for shard in missing if unfinished_path(shard.path(out)).exists()]
        state = f", of which unfinished: {', '.join(begun)}" if begun else ""
        raise UserError(f"{out}: shares are missing ({', '.join(map(str, missing))}{state}); run them with --shard")
    files = tuple(local_copy(shard.path(out)) for shard in shards)
    records = list[dict[str, Any]]()
    for shard, file in zip(shards, files, strict=True):
        record = _record(file, local_copy(shard.path(out).with_name(f"{file.name}.json")))
        if record["settings"].pop("shard", None) != str(shard) or (records and record != records[0]):
            raise UserError(
                f"{shard.path(out)} was made with another model or other settings than {files[0]}; compute it again"
            )
        records.append(record)
    return Shards(out, files, records[0], files[0].with_name(f"{files[0].name}.json").exists())


def _record(file: Path, beside: Path) -> dict[str, Any]:
    """The record of a share."""
    if beside.exists():
        text = beside.read_text(encoding="utf-8")
    elif file.suffix == ".parquet":
        text = importlib.import_module("pyarrow.parquet").read_schema(file).metadata[RECORD.encode()]
    elif file.suffix == ".h5":
        with importlib.import_module("h5py").File(file) as opened:
            text = opened.attrs[RECORD]
    elif file.suffix == ".npz":
        with np.load(file) as arrays:
            text = str(arrays[RECORD])
    else:
        raise UserError(f"{beside} is missing, which says what made {file.name}; compute that share again")
    record: dict[str, Any] = json.loads(text)
    return record


def _parts(file: Path) -> Iterator[Columns]:
    """The columns of a share, some rows at a time; for HDF5, one column after another."""
    if file.suffix == ".parquet":
        for batch in importlib.import_module("pyarrow.parquet").ParquetFile(file).iter_batches(_ROWS_AT_ONCE):
            yield {name: _values(column) for name, column in zip(batch.schema.names, batch.columns, strict=True)}
    elif file.suffix == ".h5":
        with importlib.import_module("h5py").File(file) as opened:
            for name, dataset in opened.items():
                if name == ARRAY_NAMES["count"]:
                    yield {"count": np.diff(dataset[()])}
                    continue
                text = importlib.import_module("h5py").check_string_dtype(dataset.dtype) is not None
                for start in range(0, len(dataset), _ROWS_AT_ONCE):
                    values = (dataset.asstr() if text else dataset)[start : start + _ROWS_AT_ONCE]
                    yield {_column(name): values.tolist() if text else values}
    else:
        with np.load(file) as arrays:
            kept = {_column(name): arrays[name] for name in arrays.files if name != RECORD}
            if "count" in kept:
                kept["count"] = np.diff(kept["count"])
            yield kept


def _column(name: str) -> str:
    return next((column for column, array in ARRAY_NAMES.items() if array == name), name)


def _values(column: Any) -> Any:
    pyarrow = importlib.import_module("pyarrow")
    if pyarrow.types.is_fixed_size_list(column.type):
        return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)
    if pyarrow.types.is_string(column.type):
        return column.to_pylist()
    return column.to_numpy(zero_copy_only=False)
