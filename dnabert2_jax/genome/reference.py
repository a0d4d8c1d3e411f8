"""Random access to a FASTA file by coordinates, through htslib (pysam) and the file's index.

Coordinates are 0-based and half-open, as in BED.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

from dnabert2_jax.errors import UserError, listed
from dnabert2_jax.genome.htslib import quiet_pysam

_GZIP, _BLOCKED = b"\x1f\x8b", b"BC"
_SHOWN_CONTIGS = 5


class Reference:
    """A FASTA file, plain or bgzip, opened for random access; close it, or use it in a ``with`` block.

    The index ``NAME.fai`` (and ``NAME.gzi`` for bgzip) is used if it is next to the file, and created there otherwise; if
    that directory is not writable, the index is temporary.

    Args:
        path: the FASTA file.

    Attributes:
        path: the FASTA file.
        lengths: bases of each contig, in the order of the file.

    Raises:
        UserError: pysam is not installed, or the file is missing, not FASTA, compressed by gzip rather than bgzip, has lines
            of unequal lengths, or is newer than its index.
    """

    path: Path
    lengths: dict[str, int]

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        with quiet_pysam() as package:
            _check_readable(self.path)
            _check_indexes(self.path)
            try:
                self._file = self._open(package)
            except (OSError, ValueError, package.SamtoolsError) as error:
                self.close()
                raise UserError(f"{self.path}: {_what_is_wrong(self.path)}") from error
            self._pysam = package
        self.lengths = dict(zip(self._file.references, self._file.lengths, strict=True))

    def _open(self, package: Any) -> Any:
        indexed = Path(f"{self.path}.fai").is_file()
        if indexed or os.access(self.path.resolve().parent, os.W_OK):
            return package.FastaFile(str(self.path))
        self._temporary = tempfile.TemporaryDirectory()
        index, blocks = (Path(self._temporary.name) / name for name in ("index.fai", "index.gzi"))
        package.faidx(str(self.path), "--fai-idx", str(index), "--gzi-idx", str(blocks))
        compressed = str(blocks) if blocks.is_file() else None
        return package.FastaFile(str(self.path), filepath_index=str(index), filepath_index_compressed=compressed)

    def __enter__(self) -> "Reference":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, and remove a temporary index."""
        if hasattr(self, "_file"):
            self._file.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    def fetch(self, contig: str, start: int, end: int) -> str:
        """The letters of an interval, as in the file but without line breaks; see ``genome.letters`` for cleaning.

        Args:
            contig: one of ``lengths``.
            start: first base, from 0.
            end: base after the last, at most the contig's length.

        Raises:
            UserError: the file is shorter than its index says.
        """
        try:
            with quiet_pysam(self._pysam):
                letters: str = self._file.fetch(contig, start, end)
        except (OSError, ValueError):
            letters = ""
        if len(letters) != end - start:
            raise UserError(
                f"{self.path}, {contig}:{start + 1}-{end}: not the {end - start:,} bases that its index promises; the "
                f"file is cut short, or {self.path}.fai belongs to another file: delete the index, and it will be rebuilt"
            )
        return letters

    def contig(self, name: str) -> str | None:
        """The file's name for a contig: ``chr1`` is also called ``1``, and ``chrM`` also ``M`` or ``MT``; None if absent."""
        bare = name.removeprefix("chr")
        names = [bare, f"chr{bare}"]
        if bare in ("M", "MT"):
            names += ["M", "MT", "chrM", "chrMT"]
        return next((each for each in (name, *names) if each in self.lengths), None)

    def describe_contigs(self) -> str:
        """The first few contigs, for messages about a missing contig."""
        return listed(list(self.lengths), _SHOWN_CONTIGS)


def _check_readable(path: Path) -> None:
    if not path.is_file():
        state = "is a directory" if path.is_dir() else "does not exist"
        raise UserError(f"{path} {state}; give a FASTA file, plain or bgzip")
    with path.open("rb") as file:
        head = file.read(16)
    if head[:2] == _GZIP and head[12:14] != _BLOCKED:
        raise UserError(
            f"{path} is compressed by gzip, which allows no random access; run gunzip, and compress it again with bgzip"
        )
    if head[:2] != _GZIP and not head.lstrip().startswith(b">"):
        raise UserError(f"{path} is not FASTA: it begins with {head[:8]!r}, and a record begins with '>name'")


def _check_indexes(path: Path) -> None:
    for index in (Path(f"{path}.fai"), Path(f"{path}.gzi")):
        if index.is_file() and index.stat().st_mtime < path.stat().st_mtime:
            raise UserError(
                f"{index} is older than {path.name}, so it may be of another file; delete it, and it will be rebuilt"
            )


def _what_is_wrong(path: Path) -> str:
    """Why htslib could not index a file, in one line."""
    with path.open("rb") as file:
        if file.read(2) == _GZIP:
            return "cannot be indexed; check that it is complete (`bgzip -t`), or compress it again from plain text"
        file.seek(0)
        longest, ended = 0, False  # of this record: longest line; whether a shorter line, its last, was read
        for number, raw in enumerate(file, start=1):
            line = raw.rstrip(b"\r\n")
            if line.startswith(b">"):
                longest, ended = 0, False
            elif line and (ended or (longest and len(line) > longest)):
                return (
                    f"line {number} follows a line of another length, and random access needs lines of one length in each "
                    "record (except its last); rewrite the file, for instance with `seqkit seq -w 60`"
                )
            else:
                longest = longest or len(line)
                ended = len(line) < longest or not line
    return "cannot be indexed; check that its names are unique and that each is followed by a sequence"
