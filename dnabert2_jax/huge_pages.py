"""Memory in pages of 2 MB instead of 4 kB, where Linux gives them to who asks.

XLA allocates what a training step on a CPU needs, gigabytes of it, when the step begins, and frees it at its end; the system
hands out and clears every page anew, which for a million small ones takes a tenth of the step. The GNU C library asks for
large ones where an environment variable says so when a process begins; so this begins the process again. From Python, start
the interpreter with ``GLIBC_TUNABLES=glibc.malloc.hugetlb=1``.
"""

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

VARIABLE = "DNABERT2_HUGE_PAGES"
"""Environment variable: ``off`` leaves memory as the system has it; a process that began again has ``asked``."""

TUNABLES = "GLIBC_TUNABLES"
"""The C library's own environment variable, settings with colons between them."""

_ASKED = "asked"  # whatever becomes of the C library's variable on the way, a process asks once
_SETTING = "glibc.malloc.hugetlb"
_FIRST_VERSION = (2, 35)
_SYSTEM = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def start_with_huge_pages() -> None:
    """Replace this process by itself with huge pages, where it can have them and does not yet; call it first of all."""
    wanted = with_huge_pages(os.environ)
    if wanted is not None and sys.executable:
        sys.stdout.flush()
        # On failure this process, which has done nothing yet, goes on as it is.
        with suppress(OSError):
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], wanted)


def with_huge_pages(environment: Mapping[str, str], system: Path = _SYSTEM) -> dict[str, str] | None:
    """The environment to begin with for huge pages.

    Args:
        environment: the one there is.
        system: the kernel's file that says who gets them.

    Returns:
        It, or None where nothing is to be gained. Then the user or the C library's variable has said something else already,
        the kernel gives large pages to all or to none, or this is not Linux with GNU's C library 2.35 or later.
    """
    tunables = environment.get(TUNABLES, "")
    if environment.get(VARIABLE, "").lower() in ("off", "0", "no", "false", _ASKED) or _SETTING in tunables:
        return None
    try:
        who_asks = "[madvise]" in system.read_text()
        library = os.confstr("CS_GNU_LIBC_VERSION") or ""
        version = tuple(int(number) for number in library.removeprefix("glibc ").split("."))
    except (OSError, ValueError):
        return None
    if not who_asks or version < _FIRST_VERSION:
        return None
    return {**environment, VARIABLE: _ASKED, TUNABLES: ":".join(filter(None, (tunables, f"{_SETTING}=1")))}
