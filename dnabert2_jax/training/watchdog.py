"""A watchdog: ends a run that makes no progress for too long, and names the process that the others wait for."""

import faulthandler
import json
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import jax

from dnabert2_jax.parallel.coordination import leave_note, read_notes
from dnabert2_jax.storage import buckets
from dnabert2_jax.storage.paths import in_bucket, make_directory
from dnabert2_jax.training.loop import StepEvent

STACKS = "process_{}_stacks.txt"
"""Name of the file in the run's directory where a process writes what its threads were doing."""

_NOTES, _STACKS_WANTED = "dnabert2/watchdog", "dnabert2/stacks"
_BEFORE_FIRST_STEP = 4
_TIMES_THE_LONGEST = 3
_MOST_SECONDS_BETWEEN_LOOKS = 5.0


class Watchdog:
    """Watches that a run makes progress; a context manager, and a callback of the loop.

    When several processes train together, all of them stall if one does. Each counts the points it reaches. All reach the
    same points, so the process with the lowest count is the one that hangs. A thread in each shares its count with the
    others every few seconds. (jax itself notices a process that is dead or stopped as a whole.)

    Too long is ``timeout`` seconds, or three times the longest pause so far if that is more; four times that until the
    first step is done, because compiling takes long. Time during which this process itself was stopped does not count.

    Args:
        directory: each process writes its :data:`STACKS` here if the run hangs. It may not exist yet, because reading the
            inputs can already hang; it is then made.
        timeout: seconds; 0 turns the watchdog off.
        hung: called with the reason.
    """

    def __init__(self, directory: Path, timeout: float, hung: Callable[[str], Any]) -> None:
        self._directory, self._name = directory, STACKS.format(jax.process_index())
        self._file, self._made = directory / self._name, False
        self._timeout, self._hung = timeout, hung
        self._look_every = min(_MOST_SECONDS_BETWEEN_LOOKS, timeout / 4)
        self._count, self._point, self._stepped = 0, "the start", False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        if self._timeout:
            self._file = self._place()
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timeout:
            self._over.set()
            self._thread.join()
            if self._made:
                with suppress(OSError):  # the run is in it
                    self._directory.rmdir()

    def __call__(self, event: StepEvent) -> None:
        """A step was dispatched; logging, evaluating, and saving follow."""
        self._stepped = True
        self.reached(f"step {event.step}")

    def reached(self, point: str) -> None:
        """Note progress: the run has come to ``point``, as every process of it does."""
        self._count, self._point = self._count + 1, point

    def watch(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The same batches; waiting for one is a point of its own."""
        for number, batch in enumerate(batches, start=1):
            self.reached(f"reading batch {number}")
            yield batch
            self.reached(f"asking for batch {number + 1}")

    def _place(self) -> Path:
        """The file for the stacks: in the run's directory, or on this machine, to be uploaded where the run hangs."""
        if not in_bucket(self._directory):
            self._made = not self._directory.exists()
            with suppress(OSError):  # reported when the run opens it
                make_directory(self._directory)
            if self._directory.is_dir() and os.access(self._directory, os.W_OK):
                return self._directory / self._name
        return Path(tempfile.mkdtemp(prefix="dnabert2-stacks-")) / self._name

    def _watch(self) -> None:
        with self._file.open("a") as file:
            try:
                self._look_until_over(file)
            except jax.errors.JaxRuntimeError:  # process 0 is gone, and the shared counts with it: that ends this process
                pass
            finally:
                faulthandler.cancel_dump_traceback_later()
        # A second run in this directory, although refused, also removes an empty file.
        if not self._file.exists() or not self._file.stat().st_size:
            self._file.unlink(missing_ok=True)
            if self._file.parent != self._directory:
                self._file.parent.rmdir()

    def _look_until_over(self, file: TextIO) -> None:
        seen, idle, longest, starting = 0, 0.0, 0.0, True
        while not self._over.wait(self._look_every):
            if self._count == seen:
                idle += self._look_every
            else:
                longest = longest if starting else max(longest, idle)
                seen, idle, starting = self._count, 0.0, not self._stepped
            patience = max(self._timeout, _TIMES_THE_LONGEST * longest) * (_BEFORE_FIRST_STEP if starting else 1)
            # For where this thread cannot run, because another one keeps Python's lock.
            faulthandler.dump_traceback_later(patience, file=file)
            self._tell()
            if idle > patience or self._stacks_wanted():
                with self._file.open("a") as stacks:  # reopened, in case it was removed
                    faulthandler.dump_traceback(stacks)
                if in_bucket(self._directory):
                    buckets.upload({self._name: self._file}, self._directory)
                self._explain(idle)
                return

    def _tell(self) -> None:
        if jax.process_count() > 1:
            note = {"host": socket.gethostname(), "count": self._count, "point": self._point}
            leave_note(f"{_NOTES}/{jax.process_index()}", json.dumps(note), replace=True)

    def _stacks_wanted(self) -> bool:
        return jax.process_count() > 1 and bool(read_notes(_STACKS_WANTED))

    def _explain(self, idle: float) -> None:
        """Say why the run hangs, once the other processes have had the time to write their stacks."""
        message = f"no progress for {idle:.0f} s after {self._point}"
        place = self._directory if in_bucket(self._directory) else self._file.parent
        files = place / self._name
        if jax.process_count() > 1:
            files = place / STACKS.format("N")
            leave_note(f"{_STACKS_WANTED}/{jax.process_index()}", "")
            if self._over.wait(2 * self._look_every):
                return
            message += f": {who_hangs({int(number): json.loads(text) for number, text in read_notes(_NOTES).items()})}"
        self._hung(
            f"{message}; what each thread was doing is in {files}; rerun the same command to resume from the last "
            "checkpoint, with a larger training.hang_timeout if the run was only slow"
        )


def who_hangs(notes: dict[int, dict[str, Any]]) -> str:
    """The process that the others wait for, judging by the point each has reached."""
    least = min(note["count"] for note in notes.values())
    behind = [number for number, note in notes.items() if note["count"] == least]
    if len(behind) == len(notes):
        return f"all {len(notes)} processes have reached the same point"
    named = " and ".join(f"process {n} on {notes[n]['host']} (after {notes[n]['point']})" for n in behind)
    return f"the others wait for {named}"
