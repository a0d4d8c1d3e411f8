"""Files and directories that are there whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any


def partial_name(path: Path) -> str:
    """What a file or directory is called while it is being written; a kill may leave it behind."""
    return f"{path.name}.partial"


def write_json(path: Path, content: Any) -> Path:
    """Write JSON beside ``path`` and move it there once it is on the disk: a kill leaves the old file or the new one."""
    partial = path.with_name(partial_name(path))
    with partial.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    return partial.replace(path)
