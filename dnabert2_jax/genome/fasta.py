"""FASTA and FASTQ records streamed by dnaio from plain or compressed files, with errors that explain what is wrong."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import dnaio

from dnabert2_jax.config.inference import DuplicateNames
from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.names import UniqueNames
from dnabert2_jax.storage.copies import local_copy

# The empty block that ends every complete bgzip file (SAM specification, section 4.1.2).
_BGZF_EOF = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")


Layout = Literal["fasta", "fastq"]

_STARTS: dict[Layout, str] = {"fasta": ">", "fastq": "@"}
"""The character at the start of a record, followed by its name."""


@dataclass(frozen=True, slots=True)
class FastaRecord:
    """One record of a FASTA or FASTQ file.

    Attributes:
        name: the first word of the header, with a number appended on request if an earlier record has the same name.
        sequence: letters exactly as in the file, without line breaks; may be empty.
        number: position in the file, from 1.
        numbered: whether a number was added to the name.
    """

    name: str
    sequence: bytes
    number: int
    numbered: bool = False


def read_fasta(
    path: Path, *, layout: Layout = "fasta", source: str | None = None, duplicate_names: DuplicateNames | None = None
) -> Iterator[FastaRecord]:
    """Read the records of a FASTA or FASTQ file, one in memory at a time; the qualities of FASTQ are ignored.

    Reads plain, gzip, bgzip, bzip2, xz and zstandard files with any line width and Unix, DOS or old Mac line endings. Blank
    lines, and comment lines that start with ``#``, are skipped. Letters are not checked here (see ``genome.letters``), and
    empty records are passed through.

    Args:
        path: the file; its compression is detected by suffix, or else by content.
        layout: ``fasta`` or ``fastq``.
        source: name of the file in messages; by default its path.
        duplicate_names: what to do with repeated names; None means ``error`` for callers that do not offer numbering.

    Yields:
        Records in file order.

    Raises:
        UserError: the file is missing, a directory, not FASTA, damaged or truncated, or has no records; or a record has no
            name, or the same name as an earlier one (with ``number``, if numbered names collide with others).
    """
    path = local_copy(path)
    source, start = source or str(path), _STARTS[layout]
    if not path.is_file():
        state = "is a directory" if path.is_dir() else "is not a regular file" if path.exists() else "does not exist"
        raise UserError(f"{source} {state}; give a {layout.upper()} file, plain or compressed: check the path")

    def first_of(name: str) -> int:
        with dnaio.open(path, fileformat=layout, open_threads=0) as records:
            return next(number for number, record in enumerate(records, start=1) if _words(record)[:1] == [name])

    names = UniqueNames(source, duplicate_names, first_of)
    number = 0
    try:
        check_bgzip_end(path, source)
        with dnaio.open(path, fileformat=layout, open_threads=0) as records:
            for number, record in enumerate(records, start=1):
                words = _words(record)
                if not words:
                    raise UserError(f"{source}, record {number}: no name after '{start}'; every record needs one")
                name = names.unique(words[0], number)
                yield FastaRecord(name, record.sequence.encode("ascii"), number, name != words[0])
    except dnaio.FileFormatError as error:
        # If the record itself is invalid, dnaio reports no line, or that of the next record.
        line = "" if error.line is None else f", line {error.line + 1}"
        raise UserError(
            f"{source}, record {number + 1}{line}: not {layout.upper()}: {error.message}; records start with '{start}name'"
        ) from error
    except UnicodeDecodeError as error:
        found = f"byte 0x{error.object[error.start]:02x}"
        raise UserError(f"{source}, record {number + 1}: not text ({found} found); give a {layout.upper()} file") from error
    except EOFError as error:
        raise UserError(
            f"{source}, record {number + 1}: the compressed file is cut short, or followed by something else; "
            "download or compress it again"
        ) from error
    except UserError:
        raise
    except Exception as error:  # each decompressor has its own exceptions
        raise UserError(
            f"{source}, record {number + 1}: cannot be read or decompressed ({error}); accepted are plain, .gz (gzip or "
            "bgzip), .bz2, .xz and .zst files whose suffix is right: check the suffix, or download the file again"
        ) from error
    if number == 0:
        raise UserError(f"{source}: no {layout.upper()} record; the file is empty or blank: check how it was made")


def _words(record: dnaio.SequenceRecord) -> list[str]:
    """The name of a record, and the rest of its header."""
    return record.name.split(maxsplit=1)


def check_bgzip_end(path: Path, source: str) -> None:
    """Check that a bgzip file has its end-of-file block; if truncated between two blocks, it is still valid gzip."""
    with path.open("rb") as file:
        head = file.read(16)
        if head[:4] != _BGZF_EOF[:4] or head[12:14] != b"BC":
            return
        size = file.seek(0, 2)
        file.seek(max(0, size - len(_BGZF_EOF)))
        if file.read() != _BGZF_EOF:
            raise UserError(
                f"{source}: this bgzip file is cut short (its end-of-file block is missing); download or compress it again"
            )
