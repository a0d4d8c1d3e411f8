"""Compiled programs kept on disk, so that the second run of a task, or its second seed, starts at once.

jax keeps them itself; this says where, for the command line. A library must not decide that for its caller's process: from
Python, set jax's own ``JAX_COMPILATION_CACHE_DIR``.
"""

import hashlib
import os
import platform
from collections.abc import MutableMapping
from contextlib import suppress
from pathlib import Path

VARIABLE = "DNABERT2_COMPILATION_CACHE"
"""Environment variable: another directory, or ``off``."""

MOST_BYTES = 2 * 1024**3
"""What the directory may hold before its oldest programs go."""

_OF_JAX = "JAX_COMPILATION_CACHE_DIR"


def keep_compiled_programs(environment: MutableMapping[str, str] = os.environ) -> Path | None:
    """Tell jax where to keep compiled programs; call it before jax is imported.

    Args:
        environment: ``JAX_COMPILATION_CACHE_DIR`` is set in it, unless it is there already.

    Returns:
        The directory, ``~/.cache/dnabert2_jax/compiled/...`` unless :data:`VARIABLE` or ``XDG_CACHE_HOME`` says otherwise;
        None where nothing was set: the user said so, or the directory cannot be written to.
    """
    chosen = environment.get(VARIABLE, "")
    if environment.get(_OF_JAX) or chosen.lower() in ("off", "0", "no", "false"):
        return None
    home = Path(environment.get("XDG_CACHE_HOME") or Path(environment.get("HOME", "~")).expanduser() / ".cache")
    directory = (Path(chosen) if chosen else home / "dnabert2_jax" / "compiled") / _host()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        writable = os.access(directory, os.W_OK)
    except OSError:
        return None
    if not writable:
        return None
    drop_oldest(directory, MOST_BYTES)
    environment[_OF_JAX] = str(directory)
    return directory


def drop_oldest(directory: Path, most_bytes: int) -> None:
    """Delete the oldest files of a directory until no more than ``most_bytes`` are left."""
    found = []
    for entry in os.scandir(directory):
        with suppress(OSError):  # another process drops it at the same time
            state = entry.stat()
            found.append((state.st_mtime, state.st_size, entry.path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= most_bytes:
            return
        with suppress(OSError):
            os.unlink(path)
        total -= size


def _host() -> str:
    """A name for this kind of processor: programs for a CPU use its instructions, and a home directory may be shared."""
    description = platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        description += "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    return f"{platform.machine()}-{hashlib.sha256(description.encode()).hexdigest()[:12]}"
