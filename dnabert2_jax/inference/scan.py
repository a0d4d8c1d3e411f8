"""Inputs in chunks: whole sequences of a file, or windows over its records.

Only one record and one chunk are in memory at a time, regardless of the size of the file. Chunks depend only on the input
and the batch size, so a job that resumes, or does a share of the work, computes the same numbers. Coordinates are those of
the file: from 0, end excluded, as in BED.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.config.inference import DuplicateNames, LongSequences, Pooling, Shard
from dnabert2_jax.data.reading import stream_sequences
from dnabert2_jax.data.sequences import Sequences
from dnabert2_jax.data.streaming import SequenceFile
from dnabert2_jax.errors import UserError, counted
from dnabert2_jax.genome.letters import LetterCounts
from dnabert2_jax.inference.embedding import Embeddings, embed
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.inference.prediction import Predictions, predict
from dnabert2_jax.inference.predictor import default_batch_tokens
from dnabert2_jax.storage.paths import as_path

_BATCHES_A_CHUNK = 8
_BASES_A_TOKEN = 5
_MOST_NUMBERS = 2**26
"""Maximum numbers in a chunk of embeddings by token or base: 256 MiB."""


class Chunk(NamedTuple):
    """Some consecutive sequences, or windows.

    Attributes:
        sequences: the sequences; windows have the names of their records.
        starts: first base of each window within its record, from 0; None for whole sequences. [windows].
        ends: one past its last base; None for whole sequences. [windows].
        origins: further columns on the origin of each window. [windows] each.
    """

    sequences: Sequences
    starts: NDArray[np.int64] | None = None
    ends: NDArray[np.int64] | None = None
    origins: Mapping[str, list[str]] = MappingProxyType({})

    def coordinates(self) -> dict[str, Any]:
        """The leading columns of a table of windows; empty for whole sequences."""
        if self.starts is None:
            return {}
        return {"name": self.sequences.names, "start": self.starts, "end": self.ends, **self.origins}


class Source(Protocol):
    """Inputs in chunks that fit in memory."""

    @property
    def rows(self) -> int:
        """Number of sequences, windows or intervals."""
        ...

    @property
    def bases(self) -> int:
        """Total bases of the file or intervals."""
        ...

    def summary(self) -> str:
        """One line about the inputs, for the terminal."""
        ...

    def chunks(self, bases: int) -> Iterator[Chunk]:
        """All inputs in order, in chunks of at least ``bases`` bases (the last one may have fewer)."""
        ...


@dataclass(frozen=True)
class WholeSequences:
    """The sequences of a file, or pairs.

    Attributes:
        file: the file.
    """

    file: SequenceFile

    @property
    def rows(self) -> int:
        """Number of sequences or pairs."""
        return self.file.rows

    @property
    def bases(self) -> int:
        """Total bases."""
        return self.file.letters.bases

    def summary(self) -> str:
        """One line about the inputs, for the terminal."""
        return self.file.summary()

    def chunks(self, bases: int) -> Iterator[Chunk]:
        """All sequences in file order, in chunks of at least ``bases`` bases (the last one may have fewer)."""
        return map(Chunk, self.file.chunks(bases))


@dataclass(frozen=True)
class Share:
    """The chunks of a source that a job computes.

    Attributes:
        source: the source.
        bases: minimum bases per chunk.
        first: number of the first chunk, from 0.
        end: one past the number of the last chunk; None for all that follow.
        rows: total rows of these chunks.
    """

    source: Source
    bases: int
    first: int
    end: int | None
    rows: int

    @property
    def few_shapes(self) -> bool:
        """Whether the source has several chunks, which should then share batch shapes."""
        return self.source.bases > self.bases

    def chunks(self, skip: int = 0) -> Iterator[Chunk]:
        """The chunks after the first ``skip``."""
        return islice(self.source.chunks(self.bases), self.first + skip, self.end)


def share_of(source: Source, bases: int, shard: Shard | None) -> Share:
    """All chunks, or one of several nearly equal shares of consecutive chunks, whose results can be concatenated.

    Args:
        source: the source.
        bases: minimum bases per chunk.
        shard: the share and the number of shares; None for all chunks.

    Raises:
        UserError: there are fewer chunks than shares.
    """
    if shard is None:
        return Share(source, bases, 0, None, source.rows)
    sizes = [len(chunk.sequences) for chunk in source.chunks(bases)]
    if len(sizes) < shard.count:
        raise UserError(
            f"--shard {shard}: {source.summary().partition(';')[0]} make {counted(len(sizes), 'part')} of several batches, "
            f"fewer than {shard.count} shares; use at most {counted(len(sizes), 'share')}, or smaller --batch-tokens"
        )
    first, end = ((len(sizes) * number) // shard.count for number in (shard.number - 1, shard.number))
    return Share(source, bases, first, end, sum(sizes[first:end]))


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
        duplicate_names: what to do with records that share a name.
        records: number of sequences in the file.
        windows: number of windows over all sequences.
        letters: letter counts and changes of the letters policy.
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

    @property
    def rows(self) -> int:
        """Number of windows over all records."""
        return self.windows

    @property
    def bases(self) -> int:
        """Total bases of the file."""
        return self.letters.bases

    def summary(self) -> str:
        """One line about the file and its windows, for the terminal."""
        counts = f"{self.path}: {counted(self.records, 'sequence')}, {self.letters.bases:,} bases"
        windows = f"{counted(self.windows, 'window')} of {self.window:,} bases, one every {self.step:,}"
        return "; ".join([counts, *self.letters.changes(), windows])

    def chunks(self, bases: int) -> Iterator[Chunk]:
        """All windows in file order, in chunks of at least ``bases`` bases (the last one may have fewer)."""
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
    """Start positions of the windows of a sequence, up to the first window that reaches its end."""
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
        step: bases from one start to the next, at most ``window``, the default, so that windows do not overlap.
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
    """Bases from one window to the next, after checks; by default ``window``.

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


def predict_chunks(
    model: InferenceModel,
    chunks: Iterable[Chunk],
    *,
    ensemble: Sequence[InferenceModel] = (),
    max_tokens: int | None = None,
    long: LongSequences = "windows",
    overlap: float = 0.5,
    reverse_complement: bool = False,
    views: int = 1,
    batch_tokens: int | None = None,
    few_shapes: bool = True,
) -> Iterator[tuple[Chunk, Predictions]]:
    """Predictions of a classifier for each chunk.

    Options are those of :func:`~dnabert2_jax.inference.prediction.predict`.

    Raises:
        UserError: as for :func:`~dnabert2_jax.inference.prediction.predict`.
    """
    for chunk in chunks:
        predictions = predict(
            model,
            chunk.sequences,
            ensemble=ensemble,
            max_tokens=max_tokens,
            long=long,
            overlap=overlap,
            reverse_complement=reverse_complement,
            views=views,
            batch_tokens=batch_tokens,
            few_shapes=few_shapes,
        )
        yield chunk, predictions


def embed_chunks(
    model: InferenceModel,
    chunks: Iterable[Chunk],
    pooling: Pooling = "mean",
    *,
    batch_tokens: int | None = None,
    few_shapes: bool = True,
) -> Iterator[tuple[Chunk, Embeddings]]:
    """Embeddings of each chunk.

    Args:
        model: any model.
        chunks: the chunks.
        pooling: as for :func:`~dnabert2_jax.inference.embedding.embed`.
        batch_tokens: tokens per batch; by default 4,096 on a CPU, 65,536 per device elsewhere.
        few_shapes: whether there are many chunks, see :func:`~dnabert2_jax.data.packing.pack`.

    Raises:
        UserError: pairs, or out of memory.
    """
    for chunk in chunks:
        yield chunk, embed(model, chunk.sequences, pooling, batch_tokens=batch_tokens, few_shapes=few_shapes)


def bases_of_a_chunk(batch_tokens: int | None, numbers_a_base: int = 0) -> int:
    """Bases to keep in memory at a time: enough for a few batches of ``batch_tokens`` tokens.

    Args:
        batch_tokens: tokens per batch.
        numbers_a_base: numbers computed for each base and kept until they are written.
    """
    bases = _BATCHES_A_CHUNK * _BASES_A_TOKEN * (batch_tokens or default_batch_tokens())
    return min(bases, max(1, _MOST_NUMBERS // numbers_a_base)) if numbers_a_base else bases
