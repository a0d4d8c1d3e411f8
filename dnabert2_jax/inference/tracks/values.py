"""The values of a track in memory, for Python."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.config.inference import TrackStrand, TrackValues
from dnabert2_jax.data.intervals import Intervals
from dnabert2_jax.errors import UserError
from dnabert2_jax.extras import optional_package
from dnabert2_jax.genome.reference import Reference
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.inference.tracks.bases import BaseTrack
from dnabert2_jax.inference.tracks.bins import ClassTrack
from dnabert2_jax.inference.tracks.labels import LabelTrack
from dnabert2_jax.inference.tracks.stretches import Piece, plan_stretches


@dataclass(frozen=True, repr=False)
class TrackScores:
    """Values along a genome, one row per scored bin or base, ordered by strand and then by position.

    ``track["promoter"]`` is a channel. What was not scored is omitted.

    Attributes:
        channels: classes; or ``logp``, ``entropy``, ``A``, ``C``, ``G``, ``T``.
        contigs: their names in the FASTA file. [rows].
        strands: ``+`` or ``-``. [rows].
        starts: first base of each row, from 0. [rows].
        ends: one past its last base. [rows].
        values: float32 [rows, channels].
    """

    channels: tuple[str, ...]
    contigs: list[str]
    strands: list[str]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    values: NDArray[np.float32]

    @classmethod
    def of(cls, channels: tuple[str, ...], piece: Piece) -> "TrackScores":
        """The values of a piece."""
        rows = len(piece.starts)
        return cls(channels, [piece.contig] * rows, [piece.strand] * rows, piece.starts, piece.ends, piece.values)

    def __len__(self) -> int:
        """Number of bins or bases."""
        return len(self.starts)

    def __getitem__(self, channel: str) -> NDArray[np.float32]:
        """The values of a channel. [rows].

        Raises:
            UserError: there is no such channel.
        """
        if channel not in self.channels:
            raise UserError(f"the track has no channel {channel!r}; it has {', '.join(self.channels)}")
        return self.values[:, self.channels.index(channel)]

    def __repr__(self) -> str:
        return f"TrackScores({len(self):,} rows, {int((self.ends - self.starts).sum()):,} bases: {', '.join(self.channels)})"

    def columns(self) -> dict[str, Any]:
        """The rows as columns of a table: contig, start, end, strand, and each channel."""
        places = {"contig": self.contigs, "start": self.starts, "end": self.ends, "strand": self.strands}
        return places | {channel: self.values[:, number] for number, channel in enumerate(self.channels)}

    def to_pandas(self) -> Any:
        """The columns of :meth:`columns` as a DataFrame.

        Raises:
            UserError: pandas is not installed.
        """
        return optional_package("pandas", "to_pandas needs", "pandas").DataFrame(self.columns())


DEFAULT_WINDOW = 512
"""Default bases per window, for models other than those that label every base."""


def iterate_track(
    model: InferenceModel,
    fasta: str | Path,
    regions: Sequence[str] = (),
    bed: str | Path | None = None,
    *,
    window: int | None = None,
    step: int = 128,
    strand: TrackStrand = "+",
    values: TrackValues = "auto",
    max_tokens: int | None = None,
    batch_tokens: int | None = None,
) -> Iterator[TrackScores]:
    """Values along a genome as they are computed: one stretch at a time for a classifier, otherwise one window.

    Args:
        model: any model; a masked language model needs byte pairs.
        fasta: the genome, plain or bgzip.
        regions: stretches as written in genome browsers.
        bed: or a BED file of intervals. If neither is given, the whole genome is covered.
        window: bases per window; by default 512, or for a model that labels every base, as in its training.
        step: for a classifier, bases per bin.
        strand: the strand to read.
        values: for a masked language model, what to compute.
        max_tokens: for a classifier, its longest input in tokens.
        batch_tokens: tokens per batch; by default 4,096 on a CPU, 65,536 per device elsewhere.

    Raises:
        UserError: pysam is not installed, an interval that cannot be used, an option out of range, or out of memory.
    """
    with Reference(fasta) as reference:
        intervals = Intervals(reference, None if bed is None else Path(bed), tuple(regions))
        stretches = plan_stretches(intervals, strand)
        track: ClassTrack | LabelTrack | BaseTrack
        if model.kind == "base_classifier":
            track = LabelTrack(model, stretches, window, batch_tokens)
        elif model.kind == "classifier":
            track = ClassTrack(model, stretches, window or DEFAULT_WINDOW, step, max_tokens, batch_tokens)
        else:
            track = BaseTrack(model, stretches, window or DEFAULT_WINDOW, values, batch_tokens)
        for piece in track:
            yield TrackScores.of(track.channels, piece)


def joined(parts: Sequence[TrackScores]) -> TrackScores:
    """Concatenate parts of a track.

    Raises:
        UserError: there are none, because nothing was scored.
    """
    if not parts:
        raise UserError("nothing was scored: the stretches hold unknown bases only; choose others")
    return TrackScores(
        parts[0].channels,
        [contig for part in parts for contig in part.contigs],
        [strand for part in parts for strand in part.strands],
        np.concatenate([part.starts for part in parts]),
        np.concatenate([part.ends for part in parts]),
        np.concatenate([part.values for part in parts]),
    )
