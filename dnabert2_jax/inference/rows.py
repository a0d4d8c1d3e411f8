"""A table of results, written in input order as it is computed; a killed job can be resumed."""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dnabert2_jax.config.inference import STANDARD_STREAM
from dnabert2_jax.errors import UserError
from dnabert2_jax.inference.formats import FORMATS, Format
from dnabert2_jax.inference.journal import Columns
from dnabert2_jax.inference.record import Record, save_record_beside
from dnabert2_jax.storage.unfinished import Unfinished, resuming

_MOST_IN_MEMORY = 2e9
_TEXT_BYTES, _BINARY_BYTES = 11, 4


def expected_bytes(path: Path, rows: int, numbers: int) -> int:
    """The approximate size of a file in bytes.

    Args:
        path: its suffix is the format.
        rows: number of rows, such as sequences or windows.
        numbers: numbers per row, besides its name and coordinates.
    """
    return rows * (40 + numbers * (_BINARY_BYTES if path.suffix in (".parquet", ".h5", ".npz") else _TEXT_BYTES))


def check_size(path: Path, rows: int, width: int) -> None:
    """Check in advance that ``rows`` embeddings fit in a file's format.

    Raises:
        UserError: an npz file of more than 2 GB, which would have to be in memory.
    """
    size = expected_bytes(path, rows, width)
    if path.suffix == ".npz" and size > _MOST_IN_MEMORY:
        raise UserError(
            f"{path}: {rows:,} vectors of {width:,} numbers are {size / 1e9:,.1f} GB, but an .npz file is written from "
            f"memory, at most {_MOST_IN_MEMORY / 1e9:.0f} GB; choose .parquet or .h5, which are written in parts"
        )


class RowWriter:
    """Appends parts to a table; make it with :func:`writing_rows`.

    Attributes:
        parts: number of parts written, including those of an earlier process.
        rows: rows of the input that the parts cover.
        counts: counts summed over the parts.
    """

    def __init__(self, format_: Format, unfinished: Unfinished | None) -> None:
        self._format, self._unfinished = format_, unfinished
        state = unfinished.state if unfinished else {}
        self.parts: int = state.get("parts", 0)
        self.rows: int = state.get("rows", 0)
        self.counts: Counter[str] = Counter(state.get("counts", {}))

    def write(self, columns: Columns, rows: int, counts: Mapping[str, int] | None = None) -> None:
        """Write the next part, which is kept if this process is killed.

        Args:
            columns: the part.
            rows: rows of the input that it covers.
            counts: what to add to :attr:`counts`.
        """
        encoded = self._format.encode(columns, self.parts == 0)
        self.parts, self.rows = self.parts + 1, self.rows + rows
        self.counts.update(counts or {})
        if self._unfinished is None:
            sys.stdout.write(encoded.decode())
            sys.stdout.flush()
        else:
            self._unfinished.write(encoded)
            self._unfinished.commit({"parts": self.parts, "rows": self.rows, "counts": self.counts})


@contextmanager
def writing_rows(
    path: Path, record: Record, job: Mapping[str, Any], *, beside: bool = False, force: bool = False
) -> Iterator[RowWriter]:
    """A writer for a table that appears under its name when the block ends without an error.

    Until then its parts are kept next to it (:mod:`dnabert2_jax.storage.unfinished`), and the same job resumes after them.

    Args:
        path: the file; its suffix is the format. ``-`` writes TSV to standard output, part by part.
        record: how it is made; stored in the file, or next to it if the format cannot hold it.
        job: what its content depends on besides the record, JSON-ready.
        beside: write the record next to the file regardless of the format.
        force: discard what another job has left there.

    Raises:
        UserError: it cannot be written, or as for :func:`~dnabert2_jax.storage.unfinished.resuming`.
    """
    if str(path) == STANDARD_STREAM:
        yield RowWriter(FORMATS[".tsv"], None)
        return
    chosen = FORMATS[path.suffix]
    with resuming([path], {**record, "job": job}, force=force) as unfinished:
        yield RowWriter(chosen, unfinished)
        if beside or chosen.build is None:
            save_record_beside(path, record)
        unfinished.finish(chosen.finish(record))
