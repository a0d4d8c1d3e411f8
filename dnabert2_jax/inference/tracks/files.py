"""A track as a directory: a bigWig, bedGraph or BED file per channel and strand, and a record of how they were made.

Files are called ``CHANNEL.plus.bw`` and ``CHANNEL.minus.bw``. Stretches without a value are omitted, not written as 0.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np

from dnabert2_jax.config.inference import TrackFormat
from dnabert2_jax.data.labels import with_signs_spelled
from dnabert2_jax.errors import UserError
from dnabert2_jax.extras import optional_package
from dnabert2_jax.inference.record import RECORD, Record
from dnabert2_jax.inference.tracks.hub import write_hub
from dnabert2_jax.inference.tracks.segments import SegmentRules, Segments
from dnabert2_jax.inference.tracks.stretches import Piece, Stretches
from dnabert2_jax.storage.atomic import write_json
from dnabert2_jax.storage.directories import atomic_directory
from dnabert2_jax.storage.overwriting import replacing

TRACK = "track.json"
"""The record in every directory of tracks, by which ``--force`` recognizes one."""

STRANDS = {"+": "plus", "-": "minus"}

_SUFFIXES: dict[TrackFormat, str] = {"bigwig": ".bw", "bedgraph": ".bedgraph", "bed": ".bed"}


class Track(Protocol):
    """Values along a genome, computed on iteration."""

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the values at each position."""
        ...

    @property
    def stretches(self) -> Stretches:
        """The stretches that are covered."""
        ...

    def __iter__(self) -> Iterator[Piece]: ...


def check_format(file_format: TrackFormat, threshold: float | None, *, probabilities: bool) -> None:
    """Check in advance that a track can be written.

    Args:
        file_format: the format of the files.
        threshold: minimum probability of a bin in a BED file.
        probabilities: whether the values are probabilities of classes.

    Raises:
        UserError: a threshold that is out of range or not for this format, a format that cannot hold the values, or
            pybigtools is not installed.
    """
    if file_format == "bed" and not probabilities:
        raise UserError(
            "--format bed lists bins whose probability is high, but these values are no probabilities of classes"
        )
    if file_format != "bed" and threshold is not None:
        raise UserError("--threshold is for --format bed; bigwig and bedgraph hold every value")
    if threshold is not None and not 0 <= threshold <= 1:
        raise UserError(f"--threshold {threshold:g} is no probability; accepted are 0 to 1")
    if file_format == "bigwig":
        _pybigtools()


def save_track(
    path: Path,
    track: Track,
    file_format: TrackFormat,
    record: Record,
    *,
    threshold: float = 0.5,
    segments: SegmentRules | None = None,
    logo_genome: str | None = None,
    force: bool = False,
) -> list[Path]:
    """Compute a track and write its directory atomically.

    Args:
        path: the directory.
        track: the values.
        file_format: the format of the files.
        record: how they were made, see :mod:`dnabert2_jax.inference.record`.
        threshold: minimum probability in a BED file.
        segments: in a BED file, join bases into segments by these rules instead of listing bins.
        logo_genome: also write a UCSC hub (``hub.txt``) that draws four channels as letters, over this assembly.
        force: replace an existing directory of tracks.

    Returns:
        The files in ``path``.

    Raises:
        UserError: it cannot be written, no base had a value, or as for the track.
    """
    with atomic_directory(path, may_replace=replacing(TRACK, "a directory of tracks", force=force)) as new:
        texts = _write_texts(new, track, file_format, threshold, segments)
        if not texts:
            raise UserError(f"{track.stretches.source}: no value to write; is there any A, C, G or T in these intervals?")
        if file_format == "bigwig":
            texts = [_to_bigwig(file, track.stretches.reference.lengths) for file in texts]
        files = sorted(file.name for file in texts)
        if logo_genome is not None:
            files.append(write_hub(new, files, logo_genome).name)
        write_json(new / TRACK, {RECORD: dict(record), "files": files})
    return [path / name for name in files]


def file_stem(channel: str) -> str:
    """A class name as part of a file name; characters other than letters, digits, ``.``, ``-`` and ``_`` become ``_``."""
    return re.sub(r"[^\w.-]", "_", channel)


def _write_texts(
    folder: Path, track: Track, file_format: TrackFormat, threshold: float, rules: SegmentRules | None
) -> list[Path]:
    """Write the values as text, a file for each channel and strand that has any; bigWig files are made from bedGraph."""
    stems = [file_stem(with_signs_spelled(name)) for name in track.channels]
    stems = [f"{stem}_{n}" if stems.count(stem) > 1 else stem for n, stem in enumerate(stems)]
    suffix = ".bedgraph" if file_format == "bigwig" else _SUFFIXES[file_format]
    files: dict[tuple[int, str], TextIO] = {}
    segments: dict[tuple[int, str], Segments] = {}
    with ExitStack() as opened:
        for piece in track:
            for channel, stem in enumerate(stems):
                key = (channel, piece.strand)
                if key not in files:
                    place = folder / f"{stem}.{STRANDS[piece.strand]}{suffix}"
                    files[key] = opened.enter_context(place.open("w", encoding="utf-8"))
                if file_format != "bed":
                    lines = _bedgraph(piece, channel)
                elif rules is None:
                    lines = _bed(piece, channel, track.channels[channel], threshold)
                else:
                    lines = segments.setdefault(key, Segments(channel, track.channels[channel], rules)).add(piece)
                files[key].writelines(lines)
        for key, found in segments.items():
            files[key].writelines(found.finish())
        return [Path(file.name) for file in files.values()]


def _bedgraph(piece: Piece, channel: int) -> Iterator[str]:
    values = piece.values[:, channel].astype(str)  # the shortest text that is this float32
    for start, end, value in zip(piece.starts.tolist(), piece.ends.tolist(), values.tolist(), strict=True):
        yield f"{piece.contig}\t{start}\t{end}\t{value}\n"


def _bed(piece: Piece, channel: int, name: str, threshold: float) -> Iterator[str]:
    name = re.sub(r"\s", "_", name)
    chosen = np.flatnonzero(piece.values[:, channel] >= threshold)
    for n in chosen.tolist():
        score = round(1000 * float(piece.values[n, channel]))
        yield f"{piece.contig}\t{piece.starts[n]}\t{piece.ends[n]}\t{name}\t{score}\t{piece.strand}\n"


def _to_bigwig(bedgraph: Path, lengths: Mapping[str, int]) -> Path:
    """Replace a bedGraph file with a bigWig file of the same values."""
    path = bedgraph.with_suffix(".bw")
    covered = 0

    def values() -> Iterator[tuple[str, int, int, float]]:
        nonlocal covered
        with bedgraph.open(encoding="utf-8") as lines:
            for line in lines:
                contig, start, end, value = line.split("\t")
                covered += int(end) - int(start)
                yield contig, int(start), int(end), float(value)

    library = _pybigtools()
    library.open(str(path), "w").write(dict(lengths), values())
    # The library reports failures (such as a full disk) only on standard error, so the bases it wrote are counted.
    if not path.is_file() or _bases_of(library, path) != covered:
        raise OSError(f"the bigWig file {path.name} is incomplete; is the disk full?")
    bedgraph.unlink()
    return path


def _bases_of(library: Any, path: Path) -> int:
    try:
        with library.open(str(path)) as file:
            covered: int = file.info()["summary"]["basesCovered"]
            return covered
    except library.BBIReadError:
        return -1


def _pybigtools() -> Any:
    return optional_package("pybigtools", "bigWig files need", "dnabert2_jax[genome]", otherwise="choose --format bedgraph")
