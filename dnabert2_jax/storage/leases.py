"""The lock of a directory in a bucket: an object that its owner renews, and that expires when the owner is gone.

A file system's lock ends with its process; an object does not. The owner therefore rewrites its object every
:data:`RENEWED` seconds, and a process that finds one watches it: if it changes, the owner is alive; if it stays the same for
:data:`EXPIRED` seconds, or its process on this very host has ended, it is taken over. No two clocks are compared.
"""

import json
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from dnabert2_jax.errors import UserError
from dnabert2_jax.storage import buckets
from dnabert2_jax.storage.paths import BucketError

RENEWED = 10.0
"""Seconds from one renewal to the next."""

EXPIRED = 60.0
"""Seconds without one after which a lock may be taken over."""


class LeaseLost(UserError):
    """Another process has taken the lock over, and may be writing by now."""


class Lease:
    """A lock that is held until :meth:`release`, or until this process ends.

    Args:
        path: the object.
        renewed: seconds between renewals.
        expired: seconds without one after which another process may take it.

    Raises:
        UserError: another process holds it.
        BucketError: the bucket cannot be used.
    """

    def __init__(self, path: Path, *, renewed: float | None = None, expired: float | None = None) -> None:
        self.path = path
        self._owner = {"id": uuid.uuid4().hex, **_this_process()}
        self._renewals = 0
        renewed, expired = renewed or RENEWED, expired or EXPIRED
        self._take(renewed, expired)
        self._ended = threading.Event()
        self._renewing = threading.Thread(target=self._renew, args=(renewed,), name="lease", daemon=True)
        self._renewing.start()

    def check(self) -> None:
        """Return if this process still holds the lock.

        Raises:
            LeaseLost: it was taken over, after this process had not renewed it for too long.
            BucketError: the bucket cannot be read.
        """
        owner = _owner(buckets.read(self.path))
        if owner is None or owner.get("id") != self._owner["id"]:
            raise LeaseLost(
                f"{self.path} was taken over by another run{_named(owner)}, because this one did not reach the bucket "
                "for too long; stop one of the two"
            )

    def release(self) -> None:
        """Give the lock back, if it is still held."""
        self._ended.set()
        self._renewing.join()
        with suppress(UserError, BucketError):
            self.check()
            buckets.remove_file(self.path)

    def _content(self) -> bytes:
        return json.dumps({**self._owner, "renewals": self._renewals}).encode()

    def _take(self, renewed: float, expired: float) -> None:
        while not buckets.create(self.path, self._content()):
            found = buckets.read(self.path)
            if found is None:  # it was just released
                continue
            if not _ended_here(_owner(found)):
                self._watch(found, renewed, expired)
            if buckets.read(self.path) == found:
                with suppress(BucketError):  # somebody else took it over first
                    buckets.remove_file(self.path)

    def _watch(self, found: bytes, renewed: float, expired: float) -> None:
        """Return once an owner has not renewed its lock for long enough."""
        until = time.monotonic() + expired
        while time.monotonic() < until:
            time.sleep(renewed / 4)
            now = buckets.read(self.path)
            if now is None:
                return
            if now != found:
                raise UserError(
                    f"another run{_named(_owner(now))} is writing to {self.path.parent}; stop it, or choose another place"
                )

    def _renew(self, renewed: float) -> None:
        while not self._ended.wait(renewed):
            with suppress(UserError, BucketError):  # the next one may succeed, and every save checks
                self.check()
                self._renewals += 1
                buckets.write(self.path, self._content())


def _this_process() -> dict[str, Any]:
    return {"host": socket.gethostname(), "boot": _boot(), "pid": os.getpid(), "started": _started(os.getpid())}


def _ended_here(owner: dict[str, Any] | None) -> bool:
    """Whether the owner was a process of this host that has ended; a container has process numbers of its own."""
    if owner is None:  # damaged: no owner renews it
        return True
    here = owner.get("host") == socket.gethostname() and owner.get("boot") == _boot()
    return here and _started(int(owner.get("pid", 0))) != owner.get("started")


def _boot() -> str:
    """Identifies the boot of this machine and the namespace of its process numbers."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    return ""


def _started(pid: int) -> str | None:
    """When a process started, in the kernel's ticks; None if there is no such process."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return None


def _owner(content: bytes | None) -> dict[str, Any] | None:
    try:
        owner = json.loads(content or b"")
    except ValueError:
        return None
    return owner if isinstance(owner, dict) else None


def _named(owner: dict[str, Any] | None) -> str:
    return f" (process {owner.get('pid')} on {owner.get('host')})" if owner else ""
