"""A single packed FASTA file: corpora are assembled from these, so files can be read in parallel.

A packed file is a directory: ``bases.bin`` (see ``bits``; every contig starts on a byte boundary), ``contigs.bin`` (one row
per record: its number in the file and the bases kept, 0 if it was skipped), ``ambiguous.bin`` (as in a corpus, but counted
from the start of this file), ``names.txt`` (one line per record) and ``part.json``, written last, which records the source
file and the counts.
"""

import json
import shutil
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.bits import pack_bases
from dnabert2_jax.genome.fasta import FastaRecord, read_fasta
from dnabert2_jax.genome.letters import BASES, LetterCounts, clean_letters
from dnabert2_jax.genome.segments import IntRows
from dnabert2_jax.storage.atomic import write_json
from dnabert2_jax.storage.copies import local_copy
from dnabert2_jax.storage.hashes import file_sha256

_SLICE = 1 << 22
"""Bases processed at once: a multiple of four, because a slice starts on a byte boundary of bases.bin."""

_DESCRIPTION = "part.json"
_IS_BASE = bytes(chr(letter) in BASES for letter in range(256))


@dataclass(frozen=True)
class PackedFasta:
    """The packed content of one FASTA file.

    Attributes:
        directory: the directory.
        sha256: SHA-256 of the FASTA file.
        letters: counts over the contigs kept.
        empty_records: FASTA records without a sequence, skipped.
        short_contigs, short_bases: contigs below the minimum, skipped, and their letters.
    """

    directory: Path
    sha256: str
    letters: LetterCounts
    empty_records: int
    short_contigs: int
    short_bases: int

    @cached_property
    def records(self) -> IntRows:
        """Rows (record number, bases kept), [records, 2]."""
        return _read(self.directory / "contigs.bin", 2)

    @cached_property
    def runs(self) -> IntRows:
        """Runs of IUPAC codes, rows (start, stop, ASCII code) counted from the start of this file, [runs, 3]."""
        return _read(self.directory / "ambiguous.bin", 3)

    @cached_property
    def names(self) -> list[str]:
        """The name of each record."""
        return (self.directory / "names.txt").read_text("ascii").split("\n")[:-1]


def pack_fasta(path: Path, directory: Path, min_contig: int) -> PackedFasta:
    """Pack a FASTA file, one contig in memory at a time; a complete result for the same file is reused.

    "The same file" means the same path, size and modification time.

    Raises:
        UserError: see ``read_fasta`` and ``clean_letters``.
    """
    path = local_copy(path)
    if path.is_file() and (earlier := _open(path, directory, min_contig)) is not None:
        return earlier
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    try:
        letters, empty, short, short_bases = LetterCounts(), 0, 0, 0
        table, offset = array("q"), 0
        with (
            (directory / "bases.bin").open("wb") as bases,
            (directory / "ambiguous.bin").open("wb") as runs,
            (directory / "names.txt").open("wb") as names,
        ):
            for record in read_fasta(path):
                length = len(record.sequence)
                kept = length if length >= min_contig else 0
                names.write(record.name.encode("ascii") + b"\n")
                table.extend((record.number, kept))
                if not length:
                    empty += 1
                elif not kept:
                    short, short_bases = short + 1, short_bases + length
                for clean, counts in _clean_slices(record, path) if kept else ():
                    letters.add(counts)
                    runs.write(np.add(_runs(clean), (offset, offset, 0)).astype("<i8").tobytes())
                    packed = pack_bases(clean)
                    bases.write(packed.data)
                    offset += 4 * len(packed)
        (directory / "contigs.bin").write_bytes(np.array(table, "<i8").tobytes())
        packed_file = PackedFasta(directory, file_sha256(path), letters, empty, short, short_bases)
        content = {name: value for name, value in vars(packed_file).items() if name != "directory"}
        write_json(directory / _DESCRIPTION, {"source": _source(path, min_contig), **content, "letters": vars(letters)})
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    return packed_file


def _open(path: Path, directory: Path, min_contig: int) -> PackedFasta | None:
    description = directory / _DESCRIPTION
    if not description.exists():
        return None
    content = json.loads(description.read_bytes())
    if content.pop("source") != _source(path, min_contig):
        return None
    counts = content.pop("letters")
    letters = LetterCounts(counts["bases"], counts["lower_case"], Counter(counts["ambiguous"]))
    return PackedFasta(directory=directory, letters=letters, **content)


def _source(path: Path, min_contig: int) -> dict[str, str | int]:
    state = path.stat()
    return {"path": str(path.resolve()), "size": state.st_size, "changed": state.st_mtime_ns, "min_contig": min_contig}


def _read(file: Path, columns: int) -> IntRows:
    return np.fromfile(file, "<i8").astype(np.int64).reshape(-1, columns)


def _clean_slices(record: FastaRecord, path: Path) -> Iterator[tuple[NDArray[np.uint8], LetterCounts]]:
    """Apply the letters policy to one slice at a time, to save memory."""
    what = {"source": str(path), "record": f"record {record.number} ({record.name})"}
    for start in range(0, len(record.sequence), _SLICE):
        try:
            yield clean_letters(record.sequence[start : start + _SLICE], **what)
        except UserError:
            clean_letters(record.sequence, **what)  # the same error, with the position in the whole record
            raise


def _runs(clean: NDArray[np.uint8]) -> IntRows:
    """Runs of one IUPAC code each, rows (start, stop, ASCII code) in order."""
    is_base = np.frombuffer(clean.tobytes().translate(_IS_BASE), np.uint8)
    if is_base.all():
        return np.empty((0, 3), np.int64)
    codes = np.where(is_base, np.uint8(0), clean)
    edges = np.flatnonzero(np.diff(codes, prepend=np.uint8(0), append=np.uint8(0)))
    letters = codes[edges[:-1]]
    return np.stack([edges[:-1], edges[1:], letters], axis=1)[letters > 0]
