"""The manifest of hashes that seals a directory.

It is written last and checked on reading: a directory without one is unfinished, and damage is never passed over.
"""

import json
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dnabert2_jax.errors import UserError
from dnabert2_jax.storage.atomic import flush, write_json
from dnabert2_jax.storage.buckets import MANIFEST as MANIFEST
from dnabert2_jax.storage.hashes import file_sha256

FORMAT = 1

Entries = dict[str, dict[str, Any]]
"""``size`` in bytes and ``sha256`` of each file, by name."""


def write_manifest(directory: Path) -> None:
    """Write ``manifest.json``: size and SHA-256 of every file below ``directory``. Call it once all else is written.

    Every file is on the disk before the manifest is.

    Raises:
        OSError: a file cannot be read.
        NotWritten: the manifest cannot be written.
    """
    settle(directory)
    files = (path.relative_to(directory).as_posix() for path in sorted(directory.rglob("*")) if path.is_file())
    write_entries(directory, describe(directory, (name for name in files if name != MANIFEST)))


def describe(directory: Path, names: Iterable[str]) -> Entries:
    """Size and SHA-256 of files in a directory on this machine, by name.

    Raises:
        OSError: a file cannot be read.
    """
    return {name: {"size": (directory / name).stat().st_size, "sha256": file_sha256(directory / name)} for name in names}


def write_entries(directory: Path, files: Entries) -> None:
    """Write the manifest of files that were described before.

    Raises:
        NotWritten: it cannot be written.
    """
    write_json(directory / MANIFEST, {"format": FORMAT, "files": files})


def settle(directory: Path) -> None:
    """Flush everything below ``directory`` to the disk, and let the permissions of its files follow the umask.

    The directory was created under the umask, so its own permissions tell what that is; safetensors writes files that only
    their owner may read.
    """
    mode = stat.S_IMODE(directory.stat().st_mode) & 0o666
    for path in [*directory.rglob("*"), directory]:
        if path.is_file() and stat.S_IMODE(path.stat().st_mode) != mode:
            path.chmod(mode)
        flush(path)


def verify_manifest(directory: Path) -> None:
    """Compare every file with ``manifest.json``; files that it does not list are ignored.

    Raises:
        UserError: the manifest or a file that it lists is missing or damaged; the message names the file.
    """
    for name, expected in manifest_files(directory).items():
        path = directory / name
        if not path.is_file():
            raise UserError(f"{path} is missing, but its manifest lists it; {_remedy(directory)}")
        size = path.stat().st_size
        if size != expected["size"]:
            raise UserError(f"{path} is damaged: {size} bytes, but {expected['size']} were written; {_remedy(directory)}")
        found = file_sha256(path)
        if found != expected["sha256"]:
            raise UserError(f"{path} is damaged: sha256 {found}, but {expected['sha256']} was written; {_remedy(directory)}")


def manifest_files(directory: Path) -> Entries:
    """Size and SHA-256 by file, as the manifest lists them.

    Raises:
        UserError: the manifest is missing or damaged.
    """
    path = directory / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
        return {name: {"size": int(entry["size"]), "sha256": entry["sha256"]} for name, entry in manifest["files"].items()}
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {_remedy(directory)}") from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}); {_remedy(directory)}") from error


def _remedy(directory: Path) -> str:
    return f"restore {directory} from a copy or recreate it"
