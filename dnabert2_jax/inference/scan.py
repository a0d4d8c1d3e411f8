"""One answer for each stretch of a chromosome: windows over every record of a file, computed chunk by chunk.

Only one record and one chunk of windows are in memory, whatever the size of the file. Coordinates are those of the file:
from 0, the end not included, as in BED.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.config.inference import PER_TOKEN, DuplicateNames, LongSequences, Pooling
from dnabert2_jax.data.reading import stream_sequences
from dnabert2_jax.data.sequences import Sequences
from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.letters import LetterCounts
from dnabert2_jax.inference.embedding import embed
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.inference.prediction import predict
from dnabert2_jax.inference.predictor import default_batch_tokens
from dnabert2_jax.progress import ProgressBar
from dnabert2_jax.storage.paths import as_path

_BATCHES_A_CHUNK = 8
_BASES_A_TOKEN = 5


class Chunk(NamedTuple):
    """Some consecutive windows.

    Attributes:
        sequences: their letters; the names are those of their records.
        starts: first base of each within its record, from 0. [windows].
        ends: the base after its last one. [windows].
        origins: further columns that say where each is from. [windows] each.
    """

    sequences: Sequences
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    origins: Mapping[str, list[str]] = MappingProxyType({})

    def coordinates(self) -> dict[str, Any]:
        """The first columns of every table of windows."""
        return {"name": self.sequences.names, "start": self.starts, "end": self.ends, **self.origins}


class Windows(Protocol):
    """Stretches to compute something for, in chunks that fit into memory."""

    @property
    def windows(self) -> int:
        """How many there are."""
        ...

    def summary(self) -> str:
        """One line about them, for the terminal."""
        ...

    def chunks(self, bases: int) -> Iterator[Chunk]:
        """All of them in order, in chunks of at least ``bases`` bases (the last one may have fewer)."""
        ...


@dataclass(frozen=True)
class Scan:
    """Windows of ``window`` bases, one every ``step`` bases, over the records of a file; make it with :func:`plan_scan`.

    The last window of a record ends with the record and may be shorter, so every base is in a window.

    Attributes:
        path: FASTA, or a table of sequences.
        window: bases of a window.
        step: bases from one start to the next.
        sequence_column: a table's column of sequences.
        name_column: a table's column of names.
        duplicate_names: what happens to records of one name.
        records: sequences in the file.
        windows: windows over all of them.
        letters: what the letters policy saw and changed.
    """

    path: Path
    window: int
    step: int
    sequence_column: str
    name_column: str | None
    duplicate_names: DuplicateNames | None
    records: int
    windows: int
    letters: LetterCounts

    def summary(self) -> str:
        """One line about the file and its windows, for the terminal."""
        read = Sequences(str(self.path), [], [], None, self.letters)
        plural = "s" * (self.records != 1)
        counts = f"{self.path}: {self.records:,} sequence{plural}, {self.letters.bases:,} bases"
        windows = f"{self.windows:,} windows of {self.window:,} bases, one every {self.step:,}"
        return "; ".join([counts, *read.changes(), windows])

    def chunks(self, bases: int) -> Iterator[Chunk]:
        """All windows in the order of the file, in chunks of at least ``bases`` bases (the last one may have fewer)."""
        names: list[str] = []
        letters: list[str] = []
        starts: list[int] = []
        size = 0
        records = stream_sequences(
            self.path,
            LetterCounts(),
            sequence_column=self.sequence_column,
            name_column=self.name_column,
            duplicate_names=self.duplicate_names,
        )
        for name, sequence in records:
            for start in starts_of_windows(len(sequence), self.window, self.step):
                names.append(name)
                starts.append(start)
                letters.append(sequence[start : start + self.window])
                size += len(letters[-1])
                if size >= bases:
                    yield self._chunk(names, letters, starts)
                    names, letters, starts, size = [], [], [], 0
        if names:
            yield self._chunk(names, letters, starts)

    def _chunk(self, names: list[str], letters: list[str], starts: list[int]) -> Chunk:
        sequences = Sequences(str(self.path), names, letters, None, LetterCounts())
        first = np.array(starts, np.int64)
        return Chunk(sequences, first, first + np.array([len(text) for text in letters], np.int64))


def starts_of_windows(bases: int, window: int, step: int) -> range:
    """First bases of the windows of a sequence: up to the first window that reaches its end."""
    return range(0, step * (1 + max(0, -(-(bases - window) // step))), step)


def plan_scan(
    path: Path,
    window: int,
    step: int | None = None,
    *,
    sequence_column: str = "sequence",
    name_column: str | None = None,
    duplicate_names: DuplicateNames | None = None,
) -> Scan:
    """Read a file once, checking every letter, and count its windows.

    Args:
        path: FASTA, or a table of sequences, not pairs.
        window: bases of a window, at least 1.
        step: bases from one start to the next, at most a window; by default a window, so that they do not overlap.
        sequence_column: a table's column of sequences.
        name_column: a table's column of names.
        duplicate_names: as for :func:`dnabert2_jax.data.reading.read_sequences`.

    Raises:
        UserError: a window or step out of range, or the file cannot be used.
    """
    step = checked_step(window, step)
    letters, records, windows = LetterCounts(), 0, 0
    for _, sequence in stream_sequences(
        path, letters, sequence_column=sequence_column, name_column=name_column, duplicate_names=duplicate_names
    ):
        records += 1
        windows += len(starts_of_windows(len(sequence), window, step))
    return Scan(as_path(path), window, step, sequence_column, name_column, duplicate_names, records, windows, letters)


def checked_step(window: int, step: int | None) -> int:
    """Bases from one window to the next, by default a window.

    Raises:
        UserError: a window or step out of range.
    """
    step = window if step is None else step
    if window < 1 or not 1 <= step <= window:
        raise UserError(
            f"--window {window} --step {step}: a window needs at least 1 base, and a step 1 to {max(1, window)}, so that no "
            "base is left out"
        )
    return step


def predict_windows(
    model: InferenceModel,
    scan: Windows,
    *,
    max_tokens: int | None = None,
    long: LongSequences = "windows",
    overlap: float = 0.5,
    reverse_complement: bool = False,
    batch_tokens: int | None = None,
    title: str | None = None,
) -> Iterator[dict[str, Any]]:
    """What a classifier says about every window, some at a time.

    Options are those of :func:`~dnabert2_jax.inference.prediction.predict`.

    Yields:
        Columns of a table: name, start, end, and what :meth:`~dnabert2_jax.inference.prediction.Predictions.columns` has.

    Raises:
        UserError: as :func:`~dnabert2_jax.inference.prediction.predict`.
    """
    for chunk in _with_progress(scan, batch_tokens, title):
        predictions = predict(
            model,
            chunk.sequences,
            max_tokens=max_tokens,
            long=long,
            overlap=overlap,
            reverse_complement=reverse_complement,
            batch_tokens=batch_tokens,
        )
        yield chunk.coordinates() | predictions.columns()


def embed_windows(
    model: InferenceModel,
    scan: Windows,
    pooling: Pooling = "mean",
    *,
    batch_tokens: int | None = None,
    title: str | None = None,
) -> Iterator[dict[str, Any]]:
    """One vector for every window, some at a time.

    Args:
        model: any model.
        scan: the windows.
        pooling: ``mean``, ``cls`` or ``max``.
        batch_tokens: tokens of a batch; by default 4,096 on a CPU, 65,536 elsewhere.
        title: shows progress.

    Yields:
        Columns of a table: name, start, end, and embedding, float32 [windows, D].

    Raises:
        UserError: out of memory.
        ValueError: a pooling that gives many vectors per window.
    """
    if pooling in PER_TOKEN:
        raise ValueError(f"pooling {pooling!r} gives many vectors per window")
    for chunk in _with_progress(scan, batch_tokens, title):
        vectors = embed(model, chunk.sequences, pooling, batch_tokens=batch_tokens).vectors
        yield chunk.coordinates() | {"embedding": vectors}


def bases_of_a_chunk(batch_tokens: int | None) -> int:
    """Bases to have in memory at a time: what fills a few batches of ``batch_tokens`` tokens."""
    return _BATCHES_A_CHUNK * _BASES_A_TOKEN * (batch_tokens or default_batch_tokens())


def _with_progress(scan: Windows, batch_tokens: int | None, title: str | None) -> Iterator[Chunk]:
    bases = bases_of_a_chunk(batch_tokens)
    if title is None:
        yield from scan.chunks(bases)
        return
    with ProgressBar(title, scan.windows) as bar:
        for chunk in scan.chunks(bases):
            yield chunk
            bar.advance(len(chunk.sequences))
