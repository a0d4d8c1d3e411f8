"""The corpus directory: memory-mapped genomes at two bits per base, with a manifest of its content and how it was built.

=================  ==========================================================================================
manifest.json      species, counts, settings, sources, and the size and SHA-256 of every other file
bases.bin          two bits per base (see ``bits``); every contig starts at a byte
contigs.bin        one row per contig: offset in bases.bin (bases), length (bases), species number
ambiguous.bin      one row per run of one IUPAC code: start, stop (bases of bases.bin), ASCII code
train.bin          one row per segment that training windows may lie in: contig number, start, stop (bases)
validation.bin     the same for validation windows
names.txt          one line per contig: its name
=================  ==========================================================================================

Tables are little-endian 64-bit integers, so that a corpus of millions of contigs opens instantly.
"""

import hashlib
from dataclasses import field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from dnabert2_jax.config.corpus import CorpusConfig
from dnabert2_jax.config.model import STRICT
from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.bits import unpack_bases, unpack_rows
from dnabert2_jax.genome.segments import IntRows
from dnabert2_jax.storage.copies import local_copy
from dnabert2_jax.storage.hashes import file_sha256
from dnabert2_jax.storage.paths import StrPath

FORMAT = 1
MANIFEST = "manifest.json"
Split = Literal["train", "validation"]


@dataclass(frozen=True, config=STRICT)
class Source:
    """A FASTA file that a corpus was built from: its path as given, and the SHA-256 of its bytes."""

    path: str
    sha256: str


@dataclass(kw_only=True, config=STRICT)
class Species:
    """A species of a corpus, with all counts from reading it.

    Attributes:
        name: as given.
        weight: share of the training windows, relative to the other species.
        sources: its FASTA files.
        held_out: contigs held out whole for validation.
        contigs: contigs kept.
        bases: their letters.
        lower_case: letters that were upper-cased (soft-masking).
        ambiguous: IUPAC codes kept, by letter.
        empty_records: FASTA records without a sequence, skipped.
        short_contigs, short_bases: contigs below the stated minimum, skipped, and their letters.
        train_bases, validation_bases: letters of the two splits.
        split_out_bases: letters of kept contigs in neither split: IUPAC codes, and pieces between them below the minimum.
    """

    name: str
    weight: float
    sources: list[Source] = field(default_factory=list)
    held_out: list[str] = field(default_factory=list)
    contigs: int = 0
    bases: int = 0
    lower_case: int = 0
    ambiguous: dict[str, int] = field(default_factory=dict)
    empty_records: int = 0
    short_contigs: int = 0
    short_bases: int = 0
    train_bases: int = 0
    validation_bases: int = 0
    split_out_bases: int = 0


@dataclass(frozen=True, config=STRICT)
class StoredFile:
    """Size and SHA-256 of a file of the corpus."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Manifest:
    """The content of manifest.json."""

    format: int
    settings: CorpusConfig
    species: list[Species]
    files: dict[str, StoredFile]

    @property
    def hash(self) -> str:
        """SHA-256 of everything that determines the windows: corpora with the same hash give the same windows."""
        parts = [f"{self.format}", *(f"{name} {file.sha256}" for name, file in sorted(self.files.items()))]
        parts += [f"{species.name} {species.weight!r}" for species in self.species]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


_MANIFEST = TypeAdapter(Manifest)
_FILES = ("bases.bin", "contigs.bin", "ambiguous.bin", "train.bin", "validation.bin", "names.txt")


def write_manifest(directory: Path, settings: CorpusConfig, species: list[Species]) -> None:
    """Describe the finished files of a corpus; a directory without a manifest is not a corpus."""
    files = {name: StoredFile((directory / name).stat().st_size, file_sha256(directory / name)) for name in _FILES}
    manifest = Manifest(format=FORMAT, settings=settings, species=species, files=files)
    (directory / MANIFEST).write_bytes(_MANIFEST.dump_json(manifest, indent=1))


class Corpus:
    """Genomes on disk, read by contig number and position.

    Attributes:
        path: the directory.
        manifest: description of its content.
        contig_offsets, contig_lengths, contig_species: columns of the contig table, each [contigs].
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        # Plain arrays over the maps: slicing a np.memmap is several times slower.
        self._bases = np.asarray(np.memmap(path / "bases.bin", np.uint8, "r"))
        contigs = self._table("contigs.bin")
        self.contig_offsets, self.contig_lengths, self.contig_species = (
            np.ascontiguousarray(column) for column in contigs.T
        )
        self._run_starts, self._run_stops, self._run_letters = (
            np.ascontiguousarray(column) for column in self._table("ambiguous.bin").T
        )

    @classmethod
    def open(cls, path: StrPath) -> "Corpus":
        """Open a corpus directory; checks every file's size against the manifest (``verify`` also checks the content).

        Raises:
            UserError: not a corpus, another format, or damaged; the message names the file.
        """
        path = local_copy(path)
        try:
            text = (path / MANIFEST).read_bytes()
        except OSError as error:
            raise UserError(
                f"{path} is not a corpus: {MANIFEST} cannot be read ({error.strerror}); build one with "
                "`dnabert2 corpus build`"
            ) from error
        try:
            manifest = _MANIFEST.validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            raise UserError(
                f"{path / MANIFEST} is damaged, or written by another version: {key or 'the file'}: {first['msg']}; "
                "build the corpus again"
            ) from error
        if manifest.format != FORMAT:
            raise UserError(
                f"{path} has corpus format {manifest.format}; this version reads {FORMAT}: build the corpus again"
            )
        for name in _FILES:
            stated = manifest.files[name].bytes if name in manifest.files else None
            found = (path / name).stat().st_size if (path / name).is_file() else None
            if stated is None or found != stated:
                state = "is missing" if found is None else f"has {found} bytes"
                raise UserError(
                    f"{path} is damaged: {name} {state}, but its manifest says {stated}; copy it again, or rebuild it"
                )
        return cls(path, manifest)

    def verify(self) -> None:
        """Read every file and compare its SHA-256 with the manifest.

        Raises:
            UserError: a file's content changed; the message names the first such file.
        """
        for name, stored in self.manifest.files.items():
            found = file_sha256(self.path / name)
            if found != stored.sha256:
                raise UserError(
                    f"{self.path / name} changed: sha256 {found}, but its manifest says {stored.sha256}; "
                    "copy the directory again, or rebuild it"
                )

    def read(self, contig: int, start: int, stop: int) -> NDArray[np.uint8]:
        """Letters of a contig in ASCII, upper case, IUPAC codes included.

        Args:
            contig: contig number.
            start: first base, from 0.
            stop: base after the last.

        Returns:
            Shape [stop - start].

        Raises:
            IndexError: the interval is not within the contig.
        """
        length = int(self.contig_lengths[contig])
        if not 0 <= start <= stop <= length:
            raise IndexError(f"bases {start} to {stop} of contig {contig}, which has {length}")
        offset = int(self.contig_offsets[contig])
        start, stop = start + offset, stop + offset
        letters = unpack_bases(self._bases, start, stop)
        if len(self._run_starts):
            first = self._run_stops.searchsorted(start, "right")
            last = self._run_starts.searchsorted(stop, "left")
            for run in range(first, last):
                letters[max(0, self._run_starts[run] - start) : self._run_stops[run] - start] = self._run_letters[run]
        return letters

    def read_rows(
        self, contigs: NDArray[np.int64], starts: NDArray[np.int64], stops: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Letters of several intervals at once, much faster than one by one, and mostly without the GIL.

        Args:
            contigs: contig number of each interval, [intervals], at least one; all intervals lie within their contigs.
            starts: first base, from 0.
            stops: base after the last.

        Returns:
            Letters in ASCII, upper case, IUPAC codes included, [intervals, letters]; and the column where each interval
            begins in its row, [intervals]. Letters before and after an interval are arbitrary.
        """
        offsets = self.contig_offsets[contigs]
        starts, stops = starts + offsets, stops + offsets
        letters, shifts = unpack_rows(self._bases, starts, int((stops - starts).max())), starts % 4
        if len(self._run_starts):
            first, last = self._run_stops.searchsorted(starts, "right"), self._run_starts.searchsorted(stops, "left")
            for row in np.flatnonzero(first < last):
                for run in range(first[row], last[row]):
                    begin, end = np.array([self._run_starts[run], self._run_stops[run]]) - starts[row] + shifts[row]
                    letters[row, max(0, begin) : end] = self._run_letters[run]
        return letters, shifts

    @property
    def hash(self) -> str:
        """Identity of the content; see ``Manifest.hash``."""
        return self.manifest.hash

    @property
    def species(self) -> list[Species]:
        """Species in order; a window's species number indexes this list."""
        return self.manifest.species

    @cached_property
    def contig_names(self) -> list[str]:
        """Names of all contigs, in order."""
        return (self.path / "names.txt").read_text("ascii").split("\n")[:-1]

    def segments(self, split: Split) -> IntRows:
        """Rows (contig number, start, stop in bases) that windows of a split lie in, in order. Shape [segments, 3]."""
        return self._table(f"{split}.bin")

    def _table(self, name: str) -> IntRows:
        if self.manifest.files[name].bytes == 0:  # an empty file cannot be mapped
            return np.empty((0, 3), np.int64)
        return np.asarray(np.memmap(self.path / name, "<i8", "r")).reshape(-1, 3)
