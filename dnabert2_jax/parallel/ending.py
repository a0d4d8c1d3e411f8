"""When one process of a run fails, end all of them within seconds, each with the reason."""

import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import NoReturn

import jax

from dnabert2_jax.errors import first_line
from dnabert2_jax.parallel.coordination import leave_note, read_notes
from dnabert2_jax.parallel.processes import describe

_FAILURE, _ENDED = "dnabert2/failure", "dnabert2/ended"
"""Folders of notes: why the run ends, from the first process to report it; and which processes have read that."""

_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_TO_SPREAD = 10.0
"""How long process 0, which holds the notes, waits for the others to read them."""

_SECONDS_TO_END = 0.5
"""How long it then lets them end, before jax notices that process 0 is gone and ends them with its own stack trace."""

_CUT_OFF = re.compile(r"gloo|nccl|heartbeat|coordination service|connection (reset|closed|refused)", re.IGNORECASE)

_ending = threading.Lock()
"""Acquired by the thread that ends this process and never released, so that only one message is printed."""


def end_run(message: str, show: Callable[[], int] | None = None) -> NoReturn:
    """End this process and all others of its run immediately; a regular exit would wait for them.

    Args:
        message: the reason, for the others to show.
        show: shows the reason here and returns the exit code of every process; by default prints the message, with code 1.
    """
    _ending.acquire()
    code = _show(message) if show is None else show()
    if jax.process_count() > 1:
        number = jax.process_index()
        note = {"process": number, "host": socket.gethostname(), "message": message, "code": code}
        with suppress(jax.errors.JaxRuntimeError):  # process 0 is gone, and the notes with it
            leave_note(f"{_FAILURE}/first", json.dumps(note))
            leave_note(f"{_ENDED}/{number}", "")
            deadline = time.monotonic() + _SECONDS_TO_SPREAD
            while number == 0 and len(read_notes(_ENDED)) < jax.process_count() and time.monotonic() < deadline:
                time.sleep(0.1)
            time.sleep(_SECONDS_TO_END if number == 0 else 0)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _show(message: str, code: int = 1) -> int:
    print(f"dnabert2: {message}", file=sys.stderr)
    return code


@contextmanager
def ending_with_the_others(report: Callable[[BaseException], int]) -> Iterator[None]:
    """A context that ends all processes within seconds of an error in any of them, each with the reason.

    Without it, the others would wait in a collective until the heartbeat of the one that failed times out (100 seconds), and
    would not learn why. Where a process is lost without a word (killed, or its host), one that notices ends the others; if
    the devices notice nothing, jax itself does when the heartbeat times out.

    Args:
        report: shows an error of this process and returns the exit code.
    """
    if jax.process_count() == 1:
        yield
        return
    over = threading.Event()
    listener = threading.Thread(target=_end_with_another, args=(over,), name="other processes", daemon=True)
    listener.start()
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        # What jax raises while it gathers arrays outside a step, as for a save, is a ValueError.
        if not (isinstance(error, (jax.errors.JaxRuntimeError, ValueError)) and _CUT_OFF.search(str(error))):
            end_run(describe(error), lambda: report(error))
        time.sleep(2 * _SECONDS_BETWEEN_LOOKS)  # if the other one left a reason, the listener ends this process with it
        end_run(
            f"process {jax.process_index()} lost another process of this run ({first_line(error)}); see that one's "
            "output for the reason; restart all of them with the same command to resume from the last checkpoint"
        )
    finally:
        over.set()
        listener.join()


def _end_with_another(over: threading.Event) -> None:
    """End this process as soon as another one has left a reason."""
    while not over.wait(_SECONDS_BETWEEN_LOOKS):
        try:
            notes = read_notes(_FAILURE)
        except jax.errors.JaxRuntimeError:  # process 0 is gone; the main thread, or jax, will notice
            return
        for note in map(json.loads, notes.values()):
            message = (
                f"process {note['process']} on {note['host']} failed: {note['message']}; this process ends with it; when "
                "that is fixed, restart all of them with the same command to resume from the last checkpoint"
            )
            end_run(message, partial(_show, message, note["code"]))
