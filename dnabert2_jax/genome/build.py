"""Build a corpus directory from FASTA files, with one contig per file in memory; every change and omission is counted."""

import hashlib
import math
import shutil
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import numpy as np
from pydantic import Field, ValidationError

from dnabert2_jax.config.corpus import CorpusConfig
from dnabert2_jax.config.model import STRICT
from dnabert2_jax.errors import UserError, nearest
from dnabert2_jax.genome.corpus import Corpus, Source, Species, write_manifest
from dnabert2_jax.genome.letters import LetterCounts
from dnabert2_jax.genome.packed_fasta import PackedFasta, pack_fasta
from dnabert2_jax.genome.segments import IntRows, cut_at_runs, merge_blocks, validation_blocks
from dnabert2_jax.genome.windows import PATTERN
from dnabert2_jax.storage.copies import local_copy
from dnabert2_jax.storage.directories import atomic_directory
from dnabert2_jax.storage.overwriting import replacing
from dnabert2_jax.storage.paths import as_path

Progress = Callable[[str, int], None]
"""Called after every file with the name of its species and the bases kept so far."""


@dataclass(frozen=True)
class SpeciesSource:
    """A species to put into a corpus.

    Attributes:
        name: any name without line breaks; contig names need to be unique only within a species.
        files: its FASTA files, in order.
        weight: share of the training windows, relative to the other species; None to use its number of training bases. Give
            weights to all species or to none.
        held_out: names of contigs held out whole for validation, instead of blocks of this species.
    """

    __pydantic_config__ = STRICT  # for reading it from a TOML file

    name: str
    files: list[Path]
    weight: Annotated[float, Field(gt=0)] | None = None
    held_out: list[str] = field(default_factory=list)


def build_corpus(
    species: Sequence[SpeciesSource],
    out: Path,
    *,
    processes: int = 1,
    progress: Progress | None = None,
    force: bool = False,
    **options: Any,
) -> Corpus:
    """Build a corpus directory; it appears under its name only when it is complete.

    Files are read one by one into ``.NAME.parts`` next to it, which needs the same amount of space again. If the build is
    killed or a file has an error, the same call resumes with the files not yet packed. The result does not depend on
    ``processes``.

    Args:
        species: what to read; the order determines the species numbers.
        out: the directory to create.
        processes: files read in parallel; each holds one contig in memory.
        progress: called after every file.
        force: replace the corpus at ``out``, if there is one.
        options: the fields of :class:`~dnabert2_jax.config.corpus.CorpusConfig`.

    Raises:
        UserError: ``out`` exists or cannot be written; an option or a weight is out of range; two species, or two contigs of
            one, have the same name; no contig of a species is kept; or a file cannot be read (see ``read_fasta`` and
            ``clean_letters``).
    """
    try:
        settings = CorpusConfig(**options)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"corpus option {first['loc'][0]} is {first['input']!r}: {first['msg']}") from error
    _check(species)
    out = as_path(out)
    with atomic_directory(out, may_replace=replacing("bases.bin", "a corpus", force=force)) as directory:
        shelf = out.parent / f".{out.name}.parts"
        try:
            parts = _make_parts(species, shelf, settings.min_contig, processes, progress)
            with _Writer(directory, settings) as writer:
                built = [
                    writer.add_species(number, source, own)
                    for number, (source, own) in enumerate(zip(species, parts, strict=True))
                ]
        except BaseException as error:
            with suppress(OSError):
                shelf.rmdir()  # nothing to resume from
            if isinstance(error, UserError) and shelf.exists():
                raise UserError(
                    f"{error}; the files read so far are kept in {shelf} for the next build of {out}, which removes them"
                ) from error
            raise
        write_manifest(directory, settings, built)
    shutil.rmtree(shelf, ignore_errors=True)
    return Corpus.open(out)


class _Writer:
    """The open files of a corpus being written."""

    def __init__(self, directory: Path, settings: CorpusConfig) -> None:
        self.settings = settings
        self.files: dict[str, BinaryIO] = {
            name: (directory / name).open("wb")
            for name in ("bases.bin", "contigs.bin", "ambiguous.bin", "train.bin", "validation.bin", "names.txt")
        }
        self.offset = 0
        self.contigs = 0

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *exception: object) -> None:
        for file in self.files.values():
            file.close()

    def add_species(self, number: int, source: SpeciesSource, parts: Sequence[PackedFasta]) -> Species:
        """Append the contigs of a species, then choose its segments."""
        names = _contigs_by_name(source, parts)
        records = np.concatenate([part.records[:, 1] for part in parts])
        lengths = records[records > 0]
        whole = -(-lengths // 4) * 4  # every contig starts at a byte
        starts = self.offset + np.cumsum(whole) - whole
        letters = LetterCounts()
        runs: list[IntRows] = []
        for part in parts:
            letters.add(part.letters)
            runs.append(np.add(part.runs, (self.offset, self.offset, 0)))
            self.offset += 4 * (part.directory / "bases.bin").stat().st_size
            with (part.directory / "bases.bin").open("rb") as packed:
                shutil.copyfileobj(packed, self.files["bases.bin"], 1 << 20)
        info = Species(
            name=source.name,
            weight=0.0,
            sources=[Source(str(path), part.sha256) for path, part in zip(source.files, parts, strict=True)],
            held_out=list(source.held_out),
            contigs=len(lengths),
            bases=letters.bases,
            lower_case=letters.lower_case,
            ambiguous=dict(sorted(letters.ambiguous.items())),
            empty_records=sum(part.empty_records for part in parts),
            short_contigs=sum(part.short_contigs for part in parts),
            short_bases=sum(part.short_bases for part in parts),
        )
        if not info.contigs:
            raise UserError(
                f"species {source.name!r}: no contig has min_contig = {self.settings.min_contig} bases "
                f"({info.short_contigs} are shorter, {info.empty_records} records are empty); "
                "lower min_contig, or leave the species out"
            )
        table = np.stack([starts, lengths, np.full_like(lengths, number)], 1)
        self.files["contigs.bin"].write(table.astype("<i8").tobytes())
        self.files["names.txt"].write(
            "".join(f"{name}\n" for name, (_, n) in names.items() if n is not None).encode("ascii")
        )
        held_out = [_held_out_contig(source, name, names) for name in source.held_out]
        self._add_segments(info, source, held_out, starts, lengths, np.concatenate(runs))
        self.contigs += info.contigs
        return info

    def _add_segments(
        self, info: Species, source: SpeciesSource, held_out: list[int], offsets: IntRows, lengths: IntRows, runs: IntRows
    ) -> None:
        settings = self.settings
        blocks, chosen = validation_blocks(
            lengths,
            zlib.crc32(source.name.encode()),
            fraction=0.0 if held_out else settings.validation_fraction,
            block=settings.validation_block,
            shortest=settings.min_contig,
        )
        chosen |= np.isin(blocks[:, 0], held_out)
        train, validation = merge_blocks(blocks, chosen)
        if settings.ambiguous == "split":
            train, validation = cut_at_runs(train, offsets, runs), cut_at_runs(validation, offsets, runs)
            train = train[train[:, 2] - train[:, 1] >= settings.min_contig]
            validation = validation[validation[:, 2] - validation[:, 1] >= settings.min_contig]
        info.train_bases, info.validation_bases = (int((rows[:, 2] - rows[:, 1]).sum()) for rows in (train, validation))
        info.split_out_bases = info.bases - info.train_bases - info.validation_bases
        if not info.train_bases and len(set(held_out)) == len(lengths):
            raise UserError(f"species {source.name!r}: all contigs are held out, none is left for training; hold out fewer")
        if not info.train_bases:
            raise UserError(
                f"species {source.name!r}: IUPAC codes leave no stretch of {settings.min_contig} bases for training "
                f"({sum(info.ambiguous.values())} of {info.bases} letters are codes); lower min_contig, or keep the codes "
                "with ambiguous = 'unk'"
            )
        info.weight = float(info.train_bases) if source.weight is None else float(source.weight)
        first = [self.contigs, 0, 0]
        for name, rows in (("train.bin", train), ("validation.bin", validation)):
            self.files[name].write((rows + first).astype("<i8").tobytes())
        self.files["ambiguous.bin"].write(runs.astype("<i8").tobytes())


def _contigs_by_name(source: SpeciesSource, parts: Sequence[PackedFasta]) -> dict[str, tuple[Path, int | None]]:
    """The file of each record of a species by name, and the contig's index within the species; None if it was skipped."""
    names: dict[str, tuple[Path, int | None]] = {}
    contigs = 0
    for path, part in zip(source.files, parts, strict=True):
        for name, (record, bases) in zip(part.names, part.records.tolist(), strict=True):
            if name in names:
                raise UserError(
                    f"{path}, record {record}: species {source.name!r} already has a contig {name!r} "
                    f"from {names[name][0]}; rename one, or list the file once"
                )
            names[name] = path, contigs if bases else None
            contigs += bases > 0
    return names


def _held_out_contig(source: SpeciesSource, name: str, names: dict[str, tuple[Path, int | None]]) -> int:
    """Index of a contig within its species."""
    if name not in names:
        raise UserError(f"species {source.name!r} has no contig {name!r} to hold out{nearest(name, list(names))}")
    if (number := names[name][1]) is None:
        raise UserError(f"species {source.name!r}: contig {name!r}, to be held out, is shorter than min_contig")
    return number


def _make_parts(
    species: Sequence[SpeciesSource], directory: Path, min_contig: int, processes: int, progress: Progress | None
) -> list[list[PackedFasta]]:
    """Pack the files of each species in parallel, reusing those of an earlier attempt."""
    files = [(source.name, local_copy(path)) for source in species for path in source.files]
    places = [directory / hashlib.sha256(f"{name}\n{path.resolve()}".encode()).hexdigest()[:24] for name, path in files]
    paths, minima = [path for _, path in files], [min_contig] * len(files)
    bases, parts = 0, []
    with ProcessPoolExecutor(processes, get_context("spawn")) if processes > 1 else nullcontext() as pool:
        made = (map if pool is None else pool.map)(pack_fasta, paths, places, minima)
        try:
            for (name, _), part in zip(files, made, strict=True):
                parts.append(part)
                bases += part.letters.bases
                if progress:
                    progress(name, bases)
        except BaseException:
            if pool is not None:
                pool.shutdown(cancel_futures=True)
            raise
    remaining = iter(parts)
    return [[next(remaining) for _ in source.files] for source in species]


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
        if len(set(source.files)) < len(source.files):
            raise UserError(f"species {source.name!r} lists a file twice; list it once")
        if source.weight is not None and not (math.isfinite(source.weight) and source.weight > 0):
            raise UserError(f"species {source.name!r} has weight {source.weight}; accepted is a number above 0")
        seen.add(source.name)
    without = [source.name for source in species if source.weight is None]
    if 0 < len(without) < len(species):
        raise UserError(f"species {without[0]!r} has no weight, but others do; give weights to all species, or to none")
