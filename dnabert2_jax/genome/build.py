"""FASTA files to a corpus directory, one contig in memory at a time; whatever is changed or left out is counted."""

import math
import shutil
import tempfile
import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.bits import pack
from dnabert2_jax.genome.corpus import Corpus, Settings, Source, Species, write_manifest
from dnabert2_jax.genome.fasta import FastaRecord, read_fasta
from dnabert2_jax.genome.segments import Table, cut_at_runs, merge_blocks, validation_blocks
from dnabert2_jax.genome.windows import PATTERN
from dnabert2_jax.hashing import file_sha256
from dnabert2_jax.tokenizer.letters import Ambiguous, LetterCounts, clean_letters
from dnabert2_jax.tokenizer.special import BASES

Progress = Callable[[str, int], None]
"""Called after every contig with the species and the bases kept so far."""

_SLICE = 1 << 22
"""Bases handled at once: a multiple of four, because a slice starts at a byte of bases.bin."""

_IS_BASE = bytes(chr(letter) in BASES for letter in range(256))


@dataclass(frozen=True)
class SpeciesSource:
    """A species to put into a corpus.

    Attributes:
        name: any name without line breaks; contig names need to differ within a species only.
        files: its FASTA files, in order.
        weight: share of the training windows, relative to the other species; None for its training bases. Give weights to
            all species or to none.
    """

    name: str
    files: Sequence[Path]
    weight: float | None = None


def build_corpus(
    species: Sequence[SpeciesSource],
    out: Path,
    *,
    ambiguous: Ambiguous = "split",
    validation_fraction: float = 0.02,
    validation_block: int = 10_000,
    min_contig: int = 100,
    progress: Progress | None = None,
) -> Corpus:
    """Build a corpus directory; it appears under its name only when it is complete.

    Args:
        species: what to read; the order gives the species numbers.
        out: the directory to make.
        ambiguous: keep IUPAC codes inside windows ("unk"), or cut the contigs there ("split").
        validation_fraction: share of the bases of each species set aside, in blocks; 0 for none. A species of two blocks or
            more gives at least one.
        validation_block: bases of such a block, at least.
        min_contig: contigs shorter than this are skipped, and so are pieces of contigs between IUPAC codes.
        progress: called after every contig.

    Raises:
        UserError: ``out`` exists or cannot be written; an option or a weight is out of range; two species, or two contigs of
            one, have the same name; a species keeps nothing; or a file cannot be read (see ``read_fasta`` and
            ``clean_letters``).
    """
    try:
        settings = Settings(
            ambiguous=ambiguous,
            validation_fraction=validation_fraction,
            validation_block=validation_block,
            min_contig=min_contig,
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"corpus option {first['loc'][0]} is {first['input']!r}: {first['msg']}") from error
    _check(species)
    out = Path(out)
    with _appearing(out) as directory:
        with _Writer(directory, settings, progress) as writer:
            built = [writer.add_species(number, source) for number, source in enumerate(species)]
        write_manifest(directory, settings, built)
    return Corpus.open(out)


class _Writer:
    """The open files of a corpus in the making."""

    def __init__(self, directory: Path, settings: Settings, progress: Progress | None) -> None:
        self.settings = settings
        self.progress = progress
        self.files: dict[str, BinaryIO] = {
            name: (directory / name).open("wb")
            for name in ("bases.bin", "contigs.bin", "ambiguous.bin", "train.bin", "validation.bin", "names.txt")
        }
        self.offset = 0
        self.contigs = 0
        self.bases = 0

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *exception: object) -> None:
        for file in self.files.values():
            file.close()

    def add_species(self, number: int, source: SpeciesSource) -> Species:
        """Append the contigs of a species, then decide on its segments."""
        info = Species(name=source.name, weight=0.0)
        letters = LetterCounts()
        offsets, lengths, runs = array("q"), array("q"), array("q")
        names: dict[str, Path] = {}
        for path in source.files:
            for record in read_fasta(path):
                if record.name in names:
                    raise UserError(
                        f"{path}, record {record.number}: species {source.name!r} has a contig {record.name!r} from "
                        f"{names[record.name]} too; rename one, or list the file once"
                    )
                names[record.name] = path
                if not record.sequence:
                    info.empty_records += 1
                elif len(record.sequence) < self.settings.min_contig:
                    info.short_contigs += 1
                    info.short_bases += len(record.sequence)
                else:
                    offsets.append(self.offset)
                    lengths.append(len(record.sequence))
                    self._write_contig(number, record, path, letters, runs)
                    if self.progress:
                        self.progress(source.name, self.bases)
            info.sources.append(Source(str(path), file_sha256(Path(path))))
        if not lengths:
            raise UserError(
                f"species {source.name!r}: no contig has min_contig = {self.settings.min_contig} bases "
                f"({info.short_contigs} are shorter, {info.empty_records} records are empty); "
                "lower min_contig, or leave the species out"
            )
        info.contigs, info.bases, info.lower_case = len(lengths), letters.bases, letters.lower_case
        info.ambiguous = dict(sorted(letters.ambiguous.items()))
        self._add_segments(info, source, _column(offsets), _column(lengths), _column(runs).reshape(-1, 3))
        return info

    def _write_contig(
        self, species: int, record: FastaRecord, path: Path, letters: LetterCounts, runs: "array[int]"
    ) -> None:
        bases = len(record.sequence)
        self.files["contigs.bin"].write(np.array([self.offset, bases, species], "<i8").tobytes())
        self.files["names.txt"].write(record.name.encode("ascii") + b"\n")
        for clean, counts in _clean_slices(record, path):
            letters.add(counts)
            runs.frombytes(np.add(_runs(clean), (self.offset, self.offset, 0)).tobytes())
            packed = pack(clean)
            self.files["bases.bin"].write(packed.data)
            self.offset += 4 * len(packed)
        self.contigs += 1
        self.bases += bases

    def _add_segments(self, info: Species, source: SpeciesSource, offsets: Table, lengths: Table, runs: Table) -> None:
        settings = self.settings
        blocks, chosen = validation_blocks(
            lengths,
            zlib.crc32(source.name.encode()),
            fraction=settings.validation_fraction,
            block=settings.validation_block,
        )
        train, validation = merge_blocks(blocks, chosen)
        if settings.ambiguous == "split":
            train, validation = cut_at_runs(train, offsets, runs), cut_at_runs(validation, offsets, runs)
            train = train[train[:, 2] - train[:, 1] >= settings.min_contig]
            validation = validation[validation[:, 2] - validation[:, 1] >= settings.min_contig]
        info.train_bases, info.validation_bases = (int((rows[:, 2] - rows[:, 1]).sum()) for rows in (train, validation))
        info.split_out_bases = info.bases - info.train_bases - info.validation_bases
        if not info.train_bases:
            raise UserError(
                f"species {source.name!r}: IUPAC codes leave no stretch of {settings.min_contig} bases for training "
                f"({sum(info.ambiguous.values())} of {info.bases} letters are codes); lower min_contig, or keep the codes "
                "with ambiguous = 'unk'"
            )
        info.weight = float(info.train_bases) if source.weight is None else float(source.weight)
        first = [self.contigs - len(lengths), 0, 0]
        for name, rows in (("train.bin", train), ("validation.bin", validation)):
            self.files[name].write((rows + first).astype("<i8").tobytes())
        self.files["ambiguous.bin"].write(runs.astype("<i8").tobytes())


def _clean_slices(record: FastaRecord, path: Path) -> Iterator[tuple[NDArray[np.uint8], LetterCounts]]:
    """The letters policy on a slice at a time, for the sake of memory."""
    what = {"source": str(path), "record": f"record {record.number} ({record.name})"}
    for start in range(0, len(record.sequence), _SLICE):
        try:
            yield clean_letters(record.sequence[start : start + _SLICE], **what)
        except UserError:
            clean_letters(record.sequence, **what)  # the same error, with the position in the whole record
            raise


def _runs(clean: NDArray[np.uint8]) -> Table:
    """Runs of one IUPAC code each, rows (start, stop, ASCII code) in order."""
    is_base = np.frombuffer(clean.tobytes().translate(_IS_BASE), np.uint8)
    if is_base.all():
        return np.empty((0, 3), np.int64)
    codes = np.where(is_base, np.uint8(0), clean)
    edges = np.flatnonzero(np.diff(codes, prepend=np.uint8(0), append=np.uint8(0)))
    letters = codes[edges[:-1]]
    return np.stack([edges[:-1], edges[1:], letters], axis=1)[letters > 0]


def _column(values: "array[int]") -> Table:
    return np.frombuffer(values, np.int64) if len(values) else np.empty(0, np.int64)


def _check(species: Sequence[SpeciesSource]) -> None:
    if not 0 < len(species) <= PATTERN:
        raise UserError(f"{len(species)} species given; accepted are 1 to {PATTERN}, each with at least one FASTA file")
    seen: set[str] = set()
    for source in species:
        if not source.name or "\n" in source.name:
            raise UserError(f"species name {source.name!r}: accepted is any text of one line")
        if source.name in seen:
            raise UserError(f"species {source.name!r} is given twice; list all its files in one entry")
        if not source.files:
            raise UserError(f"species {source.name!r} has no files; name at least one FASTA file")
        if source.weight is not None and not (math.isfinite(source.weight) and source.weight > 0):
            raise UserError(f"species {source.name!r} has weight {source.weight}; accepted is a number above 0")
        seen.add(source.name)
    without = [source.name for source in species if source.weight is None]
    if 0 < len(without) < len(species):
        raise UserError(f"species {without[0]!r} has no weight, others have; give weights to all species, or to none")


@contextmanager
def _appearing(out: Path) -> Iterator[Path]:
    """A temporary directory beside ``out`` that takes its name at the end, so that no half-built corpus is ever found."""
    if out.exists():
        raise UserError(f"{out} exists; a corpus is never overwritten: choose another directory or remove it first")
    temporary = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.unfinished-", dir=out.parent))
        yield temporary
        temporary.chmod(0o755)  # mkdtemp's is private to the user
        temporary.rename(out)
    except OSError as error:
        raise UserError(
            f"{out} cannot be written: {error}; choose a directory with the right to write and enough space"
        ) from error
    finally:
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)
