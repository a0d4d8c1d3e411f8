"""Stop a run on request of its scheduler (SIGTERM) or its user (Ctrl-C), after saving a checkpoint."""

import os
import signal
import threading
from types import FrameType

import jax
from jax.experimental import multihost_utils


class Stopped(SystemExit):
    """The run saved a checkpoint and stopped as requested; a process that does not catch this exits with code 0.

    Args:
        step: step of the checkpoint.
    """

    def __init__(self, step: int) -> None:
        super().__init__(0)
        self.step = step


class StopRequests:
    """Catches SIGTERM and the first Ctrl-C, so that a loop can check after every step whether to stop; a context manager.

    Further SIGTERMs are ignored, so a scheduler that repeats them does not interrupt the save; a second Ctrl-C aborts.

    With several processes, jax's preemption service (``multihost_utils.reached_preemption_sync_point``) handles SIGTERM:
    if any process receives one, all of them stop after the same step.

    Outside the main thread, where signals cannot be handled, nothing is caught.
    """

    def __init__(self) -> None:
        self._requested = False
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopRequests":
        if threading.current_thread() is threading.main_thread():
            taken = [signal.SIGINT] if jax.process_count() > 1 else [signal.SIGINT, signal.SIGTERM]
            self._before = {number: signal.signal(number, self._note) for number in taken}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def after(self, step: int) -> bool:
        """Whether to stop after this step. Every process must call this after every step, and all get the same answer."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._requested

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self._requested:
                raise KeyboardInterrupt
            os.write(
                2, b"\nstopping when this step is done and saved; Ctrl-C again interrupts\n"
            )  # this thread may be inside print
            if jax.process_count() > 1:
                signal.raise_signal(signal.SIGTERM)
        self._requested = True
