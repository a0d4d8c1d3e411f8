"""The reference genome: an indexed FASTA file, read by position."""

import os
import re
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.fasta import read_fasta
from dnabert2_jax.variants.alleles import known_letters
from dnabert2_jax.variants.htslib import pysam

_GZIP = b"\x1f\x8b"
_MITOCHONDRION = ("MT", "M", "chrM", "chrMT")


class Reference:
    """A FASTA file, plain or bgzip, opened for reading by position, as a context manager.

    An index (``.fai``, and ``.gzi`` for bgzip) beside the file is used; if there is none it is made, in a temporary place
    where the file's own directory cannot be written to.

    Args:
        path: the file.

    Raises:
        UserError: it is missing, compressed with plain gzip, not FASTA, or its index is stale.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._clean_up = ExitStack()
        self._file: Any = self._opened()
        self._lengths: dict[str, int] = dict(zip(self._file.references, self._file.lengths, strict=True))

    def __enter__(self) -> "Reference":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()
        self._clean_up.close()

    @property
    def contigs(self) -> list[str]:
        """Names in the order of the file."""
        return list(self._lengths)

    def length(self, contig: str) -> int:
        """Bases of a contig."""
        return self._lengths[contig]

    def fetch(self, contig: str, start: int, end: int) -> str:
        """Bases ``start`` to ``end`` (not included), from 0: upper-case A, C, G, T, and N for any other letter."""
        try:
            found = self._file.fetch(contig, start, end)
        except (OSError, ValueError):  # beyond the end of the file
            found = ""
        if len(found) != end - start:
            raise UserError(
                f"{self.path}: {contig} has {len(found):,} bases at {start + 1:,}-{end:,}, where the index promises "
                f"{end - start:,}; the index is of another file: delete {self.path}.fai (and .gzi) and rerun"
            )
        return known_letters(found)

    def name_of(self, contig: str) -> str | None:
        """What this file calls a contig: the same, with or without ``chr``, or another name of the mitochondrion."""
        bare = contig.removeprefix("chr")
        others = _MITOCHONDRION if contig in _MITOCHONDRION else (bare, f"chr{bare}")
        return next((name for name in (contig, *others) if name in self._lengths), None)

    def _opened(self) -> Any:
        path = self.path
        if not path.is_file():
            raise UserError(f"{path} is not a file; give the reference genome as FASTA, plain or bgzip: check the path")
        with path.open("rb") as file:
            head = file.read(18)
        if head[:2] == _GZIP and head[12:14] != b"BC":
            raise UserError(
                f"{path} is compressed with gzip, which cannot be read by position; recompress it with "
                f"`gunzip {path} && bgzip {path.with_suffix('')}`"
            )
        indexes = [Path(f"{path}.fai"), *([Path(f"{path}.gzi")] if head[:2] == _GZIP else [])]
        for index in indexes:
            if index.is_file() and index.stat().st_mtime < path.stat().st_mtime:
                raise UserError(f"{index} is older than {path}; delete the index, and it is made again")
        library = pysam()
        quiet = library.set_verbosity(0)  # the message below says it in one line
        try:
            if not all(map(Path.is_file, indexes)):
                next(iter(read_fasta(path)))  # says what is wrong with a file that is not FASTA
                if not os.access(path.parent, os.W_OK):
                    there = self._clean_up.enter_context(tempfile.TemporaryDirectory())
                    indexes = [Path(there) / index.name for index in indexes]
                places = zip(("--fai-idx", "--gzi-idx"), map(str, indexes), strict=False)
                library.faidx(str(path), *(word for option in places for word in option))
            return library.FastaFile(
                str(path),
                filepath_index=str(indexes[0]),
                filepath_index_compressed=str(indexes[-1]) if len(indexes) > 1 else None,
            )
        except (OSError, ValueError, library.SamtoolsError) as error:
            raise UserError(
                f"{path} cannot be indexed ({_irregular_line(path) or error}); all lines of a contig but its last need the "
                "same length: rewrite the file, for example with `seqtk seq -l 60`"
            ) from error
        finally:
            library.set_verbosity(quiet)


def _irregular_line(path: Path) -> str | None:
    """The first line of a plain file that is shorter or longer than those around it allow."""
    with path.open("rb") as file:
        width, short = 0, 0
        for number, line in enumerate(file, start=1):
            if line.startswith(b">"):
                width = short = 0
            elif short or (width and len(line) > width):
                at = short or number
                return f"line {at:,} has another length than the lines of its contig"
            else:
                short = number if width and len(line.rstrip()) < len(b"x" * width) - 1 else 0
                width = width or len(line)
    return None


def no_common_contig(source: str, names: Iterable[str], reference: Reference) -> UserError:
    """The error for a file that speaks of other contigs than the reference."""
    return UserError(
        f"{source} and {reference.path} share no contig: the one has {_some(names)}, the other {_some(reference.contigs)}; "
        "give the FASTA file that the variants were called on"
    )


def _some(names: Iterable[str]) -> str:
    listed = sorted(names, key=lambda name: re.sub("[0-9]+", lambda number: number[0].zfill(9), name))
    return ", ".join(listed[:5]) + (f", ... ({len(listed):,})" if len(listed) > 5 else "")
