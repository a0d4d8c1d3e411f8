"""Compiled programs cached on disk, so that the second run of a task, or its second seed, starts at once.

jax caches them itself; this says where, and how many, for the command line. A library must not decide that for its
caller: from Python, set jax's own ``JAX_COMPILATION_CACHE_DIR``.

A process on its own uses a directory of its user (:func:`keep_compiled_programs`). The processes of one run share a
directory that outlives their machines (:func:`share_compiled_programs`): jax writes from process 0 only, so that a cache on
each machine would stay empty on all but one.
"""

import hashlib
import os
import platform
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from etils import epath

VARIABLE = "DNABERT2_COMPILATION_CACHE"
"""Environment variable: another directory, also in a bucket (``gs://...``), or ``off``."""

MAX_BYTES = 2 * 1024**3
"""Size of a user's cache, at which jax evicts the least recently used programs, and of a run's, see :func:`prune`."""

COMPILED = "compiled"
"""Where the processes of a run share their programs, in its directory."""

_DIRECTORY, _MAX_SIZE = "JAX_COMPILATION_CACHE_DIR", "JAX_COMPILATION_CACHE_MAX_SIZE"


def keep_compiled_programs(environment: MutableMapping[str, str] = os.environ) -> Path | str | None:
    """Tell jax where to cache compiled programs; call it before jax is imported.

    Args:
        environment: jax's variables for the directory and its size are set in it, unless the directory is set already.

    Returns:
        The directory, ``~/.cache/dnabert2_jax/compiled/...`` unless :data:`VARIABLE` or ``XDG_CACHE_HOME`` says otherwise,
        as text if it is in a bucket; None if nothing was set: the user turned the cache off, or the directory cannot be
        written to.
    """
    chosen = environment.get(VARIABLE, "")
    if environment.get(_DIRECTORY) or chosen.lower() in ("off", "0", "no", "false"):
        return None
    if "://" in chosen:  # jax reads and writes it through etils.epath, and can limit local directories only
        environment[_DIRECTORY] = f"{chosen.rstrip('/')}/{_host()}"
        return environment[_DIRECTORY]
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


def share_compiled_programs(workdir: str | os.PathLike[str], environment: Mapping[str, str] = os.environ) -> None:
    """Have the processes of a run share one cache; each calls it after they found each other and before it compiles.

    It is ``compiled/`` in the run's directory, which they share anyway, or the directory in :data:`VARIABLE`. A process on
    its own, a cache that is off, and a ``JAX_COMPILATION_CACHE_DIR`` of the user's own stay as they are.

    Args:
        workdir: the run's directory; need not exist yet.
        environment: as :func:`keep_compiled_programs` left it.
    """
    import jax
    from etils import epath

    current, ours = environment.get(_DIRECTORY), keep_compiled_programs({**environment, _DIRECTORY: ""})
    if jax.process_count() == 1 or current is None or current != str(ours):
        return
    directory = epath.Path(current if environment.get(VARIABLE) else epath.Path(workdir) / COMPILED / _host())
    jax.config.update("jax_compilation_cache_dir", os.fspath(directory))  # type: ignore[no-untyped-call]
    # jax limits a cache by taking a lock for every read, for which all processes would line up.
    jax.config.update("jax_compilation_cache_max_size", -1)  # type: ignore[no-untyped-call]
    if jax.process_index() == 0:
        prune(directory, int(environment.get(_MAX_SIZE, MAX_BYTES)))


def prune(directory: "epath.Path", most: int) -> None:
    """Delete the oldest programs of a cache that jax does not limit, down to ``most`` bytes (-1: no limit)."""
    if most < 0:
        return
    programs = [(path.stat(), path) for path in directory.glob("*-cache")] if directory.exists() else []
    kept = 0
    for about, path in sorted(programs, key=lambda program: -program[0].mtime):
        kept += about.length
        if kept > most:
            path.unlink(missing_ok=True)


def _host() -> str:
    """A name for this kind of processor: programs for a CPU use its instructions, and a home directory may be shared."""
    # jax cannot limit a directory that it filled without a limit, as version 0.1 let it: this word gives it another one.
    description = f"limited {platform.machine()}"
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        description += "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    return f"{platform.machine()}-{hashlib.sha256(description.encode()).hexdigest()[:12]}"
