"""Files that may be compressed by gzip (or bgzip), which their first two bytes tell."""

import gzip
import zlib
from pathlib import Path
from typing import BinaryIO, cast

DAMAGED_GZIP = (EOFError, gzip.BadGzipFile, zlib.error)
"""What reading a damaged or truncated gzip file raises."""


def open_plain_or_gzip(path: Path) -> BinaryIO:
    """A file as the bytes that it holds, decompressed if it is gzip.

    Raises:
        OSError: it cannot be opened.
    """
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    return cast(BinaryIO, gzip.open(path)) if compressed else path.open("rb")
