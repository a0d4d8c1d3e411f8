"""Local copies of what lies in a bucket: models, corpora, tokenizers and tables, fetched once per host and verified.

Copies are kept below ``~/.cache/dnabert2_jax/buckets`` (or :data:`VARIABLE`) under the names they have in the bucket::

    gs/BUCKET/NAME             a file, or a directory of files
    gs/BUCKET/.NAME.origin     the store's version of each object when it was copied, and the SHA-256 of each copy

A directory with a manifest of hashes (models, adapters, corpora) is compared with it; anything else is copied again when the
store names another version of it.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from filelock import FileLock

from dnabert2_jax.errors import UserError
from dnabert2_jax.storage import buckets
from dnabert2_jax.storage.atomic import write_json
from dnabert2_jax.storage.hashes import file_sha256
from dnabert2_jax.storage.manifest import MANIFEST
from dnabert2_jax.storage.paths import StrPath, as_path, in_bucket

VARIABLE = "DNABERT2_BUCKET_CACHE"
"""Environment variable: another directory for copies."""


def local_copy(path: StrPath) -> Path:
    """Where to read what a user named: the path itself, or for a bucket a verified copy on this machine.

    Raises:
        UserError: there is nothing of that name, or a copy does not match the hash that its manifest states.
        BucketError: the bucket cannot be read.
        OSError: the copy cannot be written.
    """
    path = as_path(path)
    if not in_bucket(path):
        return path
    source = buckets.whole(path)
    copy = cache_directory() / os.fspath(path).replace("://", "/", 1)
    origin = copy.with_name(f".{copy.name}.origin")
    copy.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(copy.with_name(f".{copy.name}.lock")):
        versions = _versions(source)
        if _state(origin, copy) != versions:
            _fetch(source, path, copy, versions)
            hashes = {name: file_sha256(copy / name if copy.is_dir() else copy) for name in versions}
            write_json(origin, {"versions": versions, "sha256": hashes, "sizes": _sizes(copy, versions)})
    return copy


def cache_directory() -> Path:
    """Where copies are kept, and what a run in a bucket writes before it uploads it."""
    if chosen := os.environ.get(VARIABLE):
        return Path(chosen)
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "dnabert2_jax" / "buckets"


def _versions(source: Path) -> dict[str, str]:
    """The version that the store names for each object to copy, by name; of a directory, only the files right in it."""
    found = {name: about for name, about in buckets.names(source).items() if "/" not in name}
    if not found and (about := buckets.about(source)) is not None:
        found = {source.name: about}
    if not found:
        raise UserError(f"{source} does not exist; check the name (gcloud storage ls, aws s3 ls)")
    return {name: _version(about) for name, about in sorted(found.items())}


def _version(about: dict[str, Any]) -> str:
    return f"{about.get('etag') or about.get('ETag')} {about.get('generation', '')} {about['size']}"


def _sizes(copy: Path, names: dict[str, str]) -> dict[str, int]:
    return {name: (copy / name if copy.is_dir() else copy).stat().st_size for name in names}


def _state(origin: Path, copy: Path) -> dict[str, str] | None:
    """The versions that were copied, if the copy is still there in full."""
    try:
        noted = json.loads(origin.read_bytes())
        versions: dict[str, str] = noted["versions"]
        return versions if _sizes(copy, versions) == noted["sizes"] else None
    except (OSError, ValueError, LookupError):
        return None


def _fetch(source: Path, path: Path, copy: Path, versions: dict[str, str]) -> None:
    """Copy a file or a directory, and compare it with its manifest, if it has one."""
    partial = copy.with_name(f".{copy.name}.partial")
    for old in (partial, copy):
        if old.is_dir():
            shutil.rmtree(old)
        else:
            old.unlink(missing_ok=True)
    single = list(versions) == [source.name] and buckets.about(source) is not None
    partial.mkdir()
    buckets.download(source.parent if single else source, versions, partial)
    _verify(partial, path)
    if single:
        (partial / source.name).rename(copy)
        partial.rmdir()
    else:
        partial.rename(copy)


def _verify(folder: Path, path: Path) -> None:
    """Compare files with their manifest; those of models and of corpora both state a SHA-256 by name."""
    if not (folder / MANIFEST).is_file():
        return
    try:
        stated = {name: entry["sha256"] for name, entry in json.loads((folder / MANIFEST).read_bytes())["files"].items()}
    except (ValueError, LookupError, TypeError, AttributeError):
        return  # the code that reads it reports what is wrong with it
    for name, sha256 in stated.items():
        file = folder / name
        if file.is_file() and file_sha256(file) != sha256:
            raise UserError(f"{path / name} is damaged: its sha256 is not the one in {MANIFEST}; copy {path} there again")
