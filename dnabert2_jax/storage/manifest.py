"""Files that are there whole or not at all: JSON, and the manifest of hashes that seals a directory.

A manifest is written last and checked on reading, so that a directory without one is unfinished and damage does not pass.
"""

import json
import os
from pathlib import Path
from typing import Any

from dnabert2_jax.errors import UserError
from dnabert2_jax.storage.atomic import write_json
from dnabert2_jax.storage.hashes import file_sha256

FORMAT = 1
MANIFEST = "manifest.json"


def write_manifest(directory: Path) -> None:
    """Write ``manifest.json``: size and SHA-256 of every file below ``directory``. Call it when all else is written.

    Every file is on the disk before the manifest is, and the manifest appears as a whole or not at all.

    Raises:
        OSError: a file cannot be read, or the manifest not written.
    """
    files = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path != directory / MANIFEST:
            with path.open("rb") as file:
                os.fsync(file.fileno())
            files[path.relative_to(directory).as_posix()] = {"size": path.stat().st_size, "sha256": file_sha256(path)}
    write_json(directory / MANIFEST, {"format": FORMAT, "files": files})


def verify_manifest(directory: Path) -> None:
    """Compare every file with ``manifest.json``; files that it does not list are no concern of it.

    Raises:
        UserError: the manifest or a file that it lists is missing or damaged; the message names the file.
    """
    for name, expected in manifest_files(directory).items():
        path = directory / name
        if not path.is_file():
            raise UserError(f"{path} is missing, its manifest lists it; restore {directory} from a copy or make it again")
        size = path.stat().st_size
        if size != expected["size"]:
            raise UserError(
                f"{path} is damaged: {size} bytes, {expected['size']} were written; "
                f"restore {directory} from a copy or make it again"
            )
        found = file_sha256(path)
        if found != expected["sha256"]:
            raise UserError(
                f"{path} is damaged: sha256 {found}, {expected['sha256']} was written; "
                f"restore {directory} from a copy or make it again"
            )


def manifest_files(directory: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 by file, as the manifest lists them.

    Raises:
        UserError: the manifest is missing or damaged.
    """
    path = directory / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
        return {name: {"size": int(entry["size"]), "sha256": entry["sha256"]} for name, entry in manifest["files"].items()}
    except FileNotFoundError:
        raise UserError(f"{path} is missing; restore {directory} from a copy or make it again") from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}); restore {directory} from a copy or make it again") from error
