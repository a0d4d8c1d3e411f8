"""Compiled programs cached on disk, so that the second run of a task, or its second seed, starts at once.

jax caches them itself; this says where, and how many, for the command line. A library must not decide that for its caller's
process: from Python, set jax's own ``JAX_COMPILATION_CACHE_DIR``.
"""

import hashlib
import os
import platform
from collections.abc import MutableMapping
from contextlib import suppress
from pathlib import Path

VARIABLE = "DNABERT2_COMPILATION_CACHE"
"""Environment variable: another directory, or ``off``."""

MAX_BYTES = 2 * 1024**3
"""Size at which jax starts to evict the least recently used programs."""

_DIRECTORY, _MAX_SIZE = "JAX_COMPILATION_CACHE_DIR", "JAX_COMPILATION_CACHE_MAX_SIZE"


def keep_compiled_programs(environment: MutableMapping[str, str] = os.environ) -> Path | None:
    """Tell jax where to cache compiled programs; call it before jax is imported.

    Args:
        environment: jax's variables for the directory and its size are set in it, unless the directory is set already.

    Returns:
        The directory, ``~/.cache/dnabert2_jax/compiled/...`` unless :data:`VARIABLE` or ``XDG_CACHE_HOME`` says otherwise;
        None if nothing was set: the user turned the cache off, or the directory cannot be written to.
    """
    chosen = environment.get(VARIABLE, "")
    if environment.get(_DIRECTORY) or chosen.lower() in ("off", "0", "no", "false"):
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
    environment[_DIRECTORY] = str(directory)
    environment.setdefault(_MAX_SIZE, str(MAX_BYTES))
    return directory


def _host() -> str:
    """A name for this kind of processor: programs for a CPU use its instructions, and a home directory may be shared."""
    # jax cannot limit a directory that it filled without a limit, as version 0.1 let it: this word gives it another one.
    description = f"limited {platform.machine()}"
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        description += "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    return f"{platform.machine()}-{hashlib.sha256(description.encode()).hexdigest()[:12]}"
