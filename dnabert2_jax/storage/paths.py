"""Paths that users name: on this machine, or in a bucket (``gs://bucket/name``, ``s3://bucket/name``).

``pathlib.Path("gs://bucket/run")`` is a local folder called ``gs:``. Whatever a user may name therefore goes through
:func:`as_path`, which gives a ``pathlib.Path`` for a place on this machine and an ``epath.Path`` for one in a bucket. Both
have the same methods for reading (``exists``, ``read_bytes``, ``/``); everything is written through this package.
"""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import PlainSerializer, PlainValidator

from dnabert2_jax.errors import UserError

StrPath = str | os.PathLike[str]

_URL = re.compile(r"(\w[\w+.-]+)://.*")
_IN_BUCKET = re.compile(r"(gs|s3):/+(.+)")  # with one slash where pathlib had it before
_EXTRAS = {"gs": ("gcs", "gcsfs"), "s3": ("s3", "s3fs")}
_SECONDS = {"total": 600, "sock_connect": 30, "sock_read": 60}
"""Timeouts of one request to gs://; s3fs has such limits already."""


def as_path(path: StrPath) -> Path:
    """A path as a user wrote it.

    Returns:
        ``pathlib.Path``, or for a bucket an ``epath.Path``, which is typed as one because it is used like one.

    Raises:
        UserError: a URL of another kind, or the library for this kind of bucket is not installed.
    """
    text = os.fspath(path)
    if found := _IN_BUCKET.fullmatch(text):
        from etils import epath

        scheme, name = found.groups()
        file_system(scheme)
        return cast(Path, epath.Path(f"{scheme}://{name}"))
    if found := _URL.fullmatch(text):
        raise UserError(
            f"{text}: {found[1]}:// is not read or written; name a local path, gs://BUCKET/... or s3://BUCKET/..."
        )
    return Path(path)


def _validated(path: Any) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise ValueError("Input is not a valid path")
    return as_path(path)


Location = Annotated[Path, PlainValidator(_validated), PlainSerializer(str, return_type=str)]
"""A path among the settings of a run; may lie in a bucket."""


def in_bucket(path: StrPath) -> bool:
    """Whether a path lies in a bucket."""
    return _IN_BUCKET.fullmatch(os.fspath(path)) is not None


def absolute(path: StrPath) -> Path:
    """A path that does not depend on the current directory, without symbolic links."""
    path = as_path(path)
    return path if in_bucket(path) else path.resolve()


def make_directory(path: Path) -> None:
    """Create a directory and its parents; in a bucket, directories exist as soon as something is in them.

    Raises:
        OSError: it cannot be created.
    """
    if not in_bucket(path):
        path.mkdir(parents=True, exist_ok=True)


@cache
def file_system(scheme: str) -> Any:
    """The fsspec file system for ``gs`` or ``s3``: the same object that ``epath`` uses.

    Raises:
        UserError: its library is not installed.
    """
    import fsspec

    # Two hosts share a run, so a cached listing may be stale.
    options: dict[str, Any] = {"use_listings_cache": False}
    if scheme == "gs":
        import aiohttp

        options["session_kwargs"] = {"timeout": aiohttp.ClientTimeout(**_SECONDS)}
        if os.environ.get("STORAGE_EMULATOR_HOST"):
            options["token"] = "anon"
            # Asks Google what kind of bucket it is, over gRPC, which emulators do not speak.
            os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    for protocol in {"gs": ("gs", "gcs"), "s3": ("s3",)}[scheme]:
        fsspec.config.conf[protocol] = {**options, **fsspec.config.conf.get(protocol, {})}
    try:
        return fsspec.filesystem("gcs", finalize_on_close=True) if scheme == "gs" else fsspec.filesystem("s3")
    except ImportError as error:
        extra, library = _EXTRAS[scheme]
        raise UserError(
            f"{scheme}:// needs {library}, which cannot be imported ({error}); pip install 'dnabert2_jax[{extra}]'"
        ) from error


class BucketError(OSError):
    """A request to a bucket failed; ``strerror`` says why and what to do, ``filename`` is the place."""

    def __str__(self) -> str:
        return f"{self.filename} could not be used ({self.strerror})"


@contextmanager
def asking(path: Path) -> Iterator[Any]:
    """The file system for requests about a place in a bucket; what a client library raises becomes one kind of error.

    Raises:
        FileExistsError: there is such an object already.
        BucketError: anything else that went wrong with the bucket.
    """
    try:
        yield file_system(os.fspath(path).partition(":")[0])
    except (BucketError, FileExistsError):
        raise
    except Exception as error:
        if (reason := explain(error)) is not None:
            raise BucketError(None, reason, os.fspath(path)) from error
        raise


def explain(error: BaseException) -> str | None:
    """What went wrong with a bucket, and what to do, in a few words; None if the error came from elsewhere."""
    if isinstance(error, BucketError):
        return str(error.strerror)
    if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
        return None
    chain = [error, *([error.__cause__] if error.__cause__ else [])]
    if not any(type(link).__module__.partition(".")[0] in _LIBRARIES for link in chain) and not _from_library(error):
        return None
    messages = " ".join(str(link) for link in chain)
    kinds = " ".join(type(link).__name__ for link in chain)
    for pattern, advice in _ADVICE:
        if re.search(pattern, f"{kinds} {messages}", re.IGNORECASE):
            return f"{advice}; it said: {_first_line(error)}"
    return f"the request failed: {_first_line(error)}"


_OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
_LIBRARIES = {"fsspec", "gcsfs", "s3fs", "botocore", "aiobotocore", "aiohttp", "google", "requests", "urllib3"}


def _status(*codes: int) -> str:
    """A pattern for codes of HTTP that are not part of a name, an address or another number."""
    return rf"(?<![\w./:-])(?:{'|'.join(map(str, codes))})(?![\w/-]|\.\d)"


_ADVICE = (
    (
        "PermanentRedirect|Moved Permanently|AuthorizationHeaderMalformed|IllegalLocationConstraint|wrong region|"
        "'[a-z]+-[a-z]+-\\d' is wrong",
        "the bucket is in another region; set AWS_DEFAULT_REGION to the bucket's",
    ),
    (  # the answer to a HEAD request has no body that could say more
        r"\[Errno 22\] Bad Request",
        "probably the bucket is in another region, or the credentials have expired; set AWS_DEFAULT_REGION to the bucket's",
    ),
    (
        "NoCredentials|Anonymous caller|DefaultCredentials|RefreshError|" + _status(401),
        "no credentials; log in on this machine",
    ),
    (
        "PermissionError|Forbidden|AccessDenied|" + _status(403),
        "no permission; grant this account reading and writing of its objects",
    ),
    (
        "bucket does not exist|NoSuchBucket|b/[^/ ]+/o$",
        "there is no such bucket; create it",
    ),
    ("FileNotFound|" + _status(404), "there is no such object; check the name"),
    (
        "SlowDown|InternalError|" + _status(429, 500, 502, 503, 504),
        "the store is not serving requests; rerun later",
    ),
    ("Timeout|timed out|Connect|Connection|Disconnected|Payload", "the store does not answer; check the network and rerun"),
)


def _from_library(error: BaseException) -> bool:
    """Whether a builtin exception was raised by a client library: gcsfs says Forbidden with an OSError of its own making."""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] in _LIBRARIES:
            return True
        trace = trace.tb_next
    return False


def _first_line(error: BaseException) -> str:
    return " ".join((str(error).strip() or type(error).__name__).split())[:200]
