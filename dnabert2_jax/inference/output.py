"""Results as files, written atomically: npz, parquet or HDF5 for embeddings, CSV, TSV or parquet for predictions.

An embedding file holds, for ``mean``, ``cls`` and ``max``:

=========== ======================================================================
names       name of each sequence
embeddings  float32 [sequences, D]
=========== ======================================================================

For ``token`` and ``base``, npz and HDF5 hold the vectors of all sequences, concatenated, and where each sequence begins:

=========== ======================================================================
names       name of each sequence
embeddings  float32 [tokens or bases of all sequences, D]
offsets     sequence i has the rows offsets[i] to offsets[i + 1]
token_ids   the ids, [tokens of all sequences]
token_bases bases that each token covers, [tokens of all sequences]
=========== ======================================================================

and parquet has one row per vector: name, index (token or base within the sequence, from 0), embedding.
"""

import csv
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from dnabert2_jax.config.inference import STANDARD_STREAM
from dnabert2_jax.errors import UserError
from dnabert2_jax.extras import optional_package
from dnabert2_jax.inference.embedding import Embeddings
from dnabert2_jax.inference.fill_mask import MaskedToken
from dnabert2_jax.inference.prediction import Predictions
from dnabert2_jax.inference.record import RECORD, Record, record_text, save_record_beside
from dnabert2_jax.storage.atomic import atomic_file
from dnabert2_jax.storage.paths import in_bucket
from dnabert2_jax.tokenizer.base import Tokenizer

EMBEDDING_SUFFIXES = (".npz", ".parquet", ".h5")
TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")

_LIBRARIES = {".parquet": "pyarrow", ".h5": "h5py"}
_EXTRAS = {".parquet": "parquet", ".h5": "hdf5"}


def check_output(path: Path, accepted: tuple[str, ...]) -> None:
    """Check before the work, rather than after it, that a file can be written.

    Args:
        path: the file to write; ``-`` is standard output, where tables go as TSV and scores as JSON.
        accepted: suffixes of the formats that can hold the result.

    Raises:
        UserError: another suffix, no such directory, or a format whose library is not installed.
    """
    if is_standard_output(path, accepted):
        return
    if path.suffix not in accepted:
        raise UserError(f"{path}: the suffix {path.suffix!r} is not a known format; accepted are {', '.join(accepted)}")
    if not in_bucket(path) and path.is_dir():
        raise UserError(f"{path} is a directory; name a file")
    if not in_bucket(path) and not path.parent.is_dir():
        raise UserError(f"{path}: there is no directory {path.parent}; create it first")
    if path.suffix in _LIBRARIES:
        _library(path)


def is_standard_output(path: Path, accepted: tuple[str, ...]) -> bool:
    """Whether a result goes to standard output, which only formats of text can."""
    return str(path) == STANDARD_STREAM and bool({".tsv", ".json"} & set(accepted))


def save_embeddings(path: Path, embeddings: Embeddings, tokenizer: Tokenizer, record: Record | None = None) -> None:
    """Write embeddings in the format that the file's suffix names; see the module's docstring for its content.

    Args:
        path: ``.npz``, ``.parquet`` or ``.h5``.
        embeddings: the result of :func:`~dnabert2_jax.inference.embedding.embed`.
        tokenizer: the model's, for the bases of each token.
        record: what made them, see :mod:`dnabert2_jax.inference.record`.

    Raises:
        UserError: as :func:`check_output`, or the file cannot be written.
    """
    check_output(path, EMBEDDING_SUFFIXES)
    writers: dict[str, Callable[[Path], None]] = {
        ".npz": lambda file: _write_npz(file, _arrays(embeddings, tokenizer), record),
        ".h5": lambda file: _write_hdf5(file, _arrays(embeddings, tokenizer), embeddings.pooling, record),
        ".parquet": lambda file: _write_parquet(file, _embedding_columns(embeddings), record),
    }
    with atomic_file(path) as partial:
        writers[path.suffix](partial)


def save_predictions(path: Path, predictions: Predictions, record: Record | None = None) -> None:
    """Write a table: name, label, one probability per class (``p_<class>``), windows, cut_bases, note, the input's columns.

    If a row has several labels, ``label`` has ``;`` between them; a regression has ``value`` instead of label and
    probabilities.

    Args:
        path: ``.csv``, ``.tsv`` or ``.parquet``; ``-`` for TSV on standard output.
        predictions: the result of :func:`~dnabert2_jax.inference.prediction.predict`.
        record: what made them, see :mod:`dnabert2_jax.inference.record`.

    Raises:
        UserError: as :func:`check_output`, or the file cannot be written.
    """
    _save_table(path, predictions.columns(), record)


def save_masked_tokens(path: Path, tokens: list[MaskedToken], record: Record | None = None) -> None:
    """Write a table of one row per candidate.

    Columns: mask (from 1), first_base and last_base (from 1; empty for a ``[MASK]`` in the text), original, rank, piece,
    probability.

    Args:
        path: ``.csv``, ``.tsv`` or ``.parquet``; ``-`` for TSV on standard output.
        tokens: the result of :func:`~dnabert2_jax.inference.fill_mask.fill_mask`.
        record: what made them, see :mod:`dnabert2_jax.inference.record`.

    Raises:
        UserError: as :func:`check_output`, or the file cannot be written.
    """
    rows = [
        (
            number,
            None if token.original is None else token.start + 1,
            None if token.original is None else token.end,
            token.original,
            rank,
            piece,
            probability,
        )
        for number, token in enumerate(tokens, start=1)
        for rank, (piece, probability) in enumerate(token.candidates, start=1)
    ]
    names = ("mask", "first_base", "last_base", "original", "rank", "piece", "probability")
    _save_table(path, {name: [row[at] for row in rows] for at, name in enumerate(names)}, record)


def _save_table(path: Path, columns: dict[str, Any], record: Record | None) -> None:
    check_output(path, TABLE_SUFFIXES)
    if is_standard_output(path, TABLE_SUFFIXES):
        _write_text(sys.stdout, columns, "\t")
        return
    with atomic_file(path) as partial:
        if path.suffix == ".parquet":
            _write_parquet(partial, columns, record)
        else:
            with partial.open("w", newline="", encoding="utf-8") as file:
                _write_text(file, columns, "," if path.suffix == ".csv" else "\t")
    if record and path.suffix != ".parquet":
        save_record_beside(path, record)


def _write_text(file: TextIO, columns: dict[str, Any], delimiter: str) -> None:
    writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
    writer.writerow(columns)
    for row in zip(*columns.values(), strict=True):
        writer.writerow([f"{value:.6g}" if isinstance(value, float | np.floating) else value for value in row])


def _arrays(embeddings: Embeddings, tokenizer: Tokenizer) -> dict[str, Any]:
    arrays: dict[str, Any] = {"names": np.array(embeddings.names), "embeddings": embeddings.vectors}
    if embeddings.pooling in ("token", "base"):
        ids = np.concatenate(embeddings.token_ids)
        bases = np.concatenate([tokenizer.token_bases(own) for own in embeddings.token_ids])
        arrays |= {"offsets": embeddings.offsets, "token_ids": ids, "token_bases": bases}
    return arrays


def _embedding_columns(embeddings: Embeddings) -> dict[str, Any]:
    pyarrow = importlib.import_module("pyarrow")
    vectors = embeddings.vectors
    flat = pyarrow.array(vectors.reshape(-1), pyarrow.float32())
    embedding = pyarrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    if embeddings.pooling not in ("token", "base"):
        return {"name": embeddings.names, "embedding": embedding}
    each = np.diff(embeddings.offsets)
    index = np.arange(len(vectors)) - np.repeat(embeddings.offsets[:-1], each)
    return {"name": np.repeat(np.array(embeddings.names, object), each), "index": index, "embedding": embedding}


def _write_npz(path: Path, arrays: dict[str, Any], record: Record | None) -> None:
    about = {RECORD: np.array(record_text(record))} if record else {}
    with path.open("wb") as file:
        np.savez(file, **{**arrays, **about})


def _write_hdf5(path: Path, arrays: dict[str, Any], pooling: str, record: Record | None) -> None:
    h5py = importlib.import_module("h5py")
    with h5py.File(path, "w") as file:
        file.attrs["pooling"] = pooling
        if record:
            file.attrs[RECORD] = record_text(record)
        for name, array in arrays.items():
            if name == "names":
                file.create_dataset(name, data=array.tolist(), dtype=h5py.string_dtype())
            else:
                file.create_dataset(name, data=array)


def _write_parquet(path: Path, columns: dict[str, Any], record: Record | None) -> None:
    pyarrow = importlib.import_module("pyarrow")
    table = pyarrow.table(columns, metadata={RECORD: record_text(record)} if record else None)
    importlib.import_module("pyarrow.parquet").write_table(table, path)


def _library(path: Path) -> Any:
    """The library that writes this format, which is an optional extra of this package."""
    suffix = path.suffix
    return optional_package(
        _LIBRARIES[suffix],
        f"{path}: {suffix} files need",
        f"dnabert2_jax[{_EXTRAS[suffix]}]",
        otherwise="choose another format",
    )
