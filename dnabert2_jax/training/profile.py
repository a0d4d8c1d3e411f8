"""Profile a few training steps, on request."""

import shutil
import tempfile
from pathlib import Path

import jax

from dnabert2_jax.parallel.processes import is_first
from dnabert2_jax.storage import buckets
from dnabert2_jax.storage.paths import in_bucket
from dnabert2_jax.training.loop import StepEvent

_STEPS_BEFORE_PROFILE = 5


class Profile:
    """A callback that traces a few steps with ``jax.profiler``, shortly after the start, when everything is compiled.

    A context manager. Only process 0 traces. View the trace with TensorBoard's profile plugin or Perfetto.

    Args:
        directory: where to write the trace.
        first: number of steps done before.
        steps: number of steps to trace; 0 for none.
    """

    def __init__(self, directory: Path, first: int, steps: int) -> None:
        self._directory = directory
        self._local = directory
        self._begin = first + _STEPS_BEFORE_PROFILE
        self._end = self._begin + steps
        self._wanted = steps > 0 and is_first()
        self._running = False

    def __call__(self, event: StepEvent) -> None:
        """Start or stop the trace after a step."""
        if self._wanted and event.step == self._begin:
            jax.block_until_ready(event.metrics)  # type: ignore[no-untyped-call]
            if in_bucket(self._directory):
                self._local = Path(tempfile.mkdtemp(prefix="dnabert2-profile-"))
            jax.profiler.start_trace(self._local)
            self._running = True
        elif self._running and event.step == self._end:
            jax.block_until_ready(event.metrics)  # type: ignore[no-untyped-call]
            self._stop()

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *_: object) -> None:
        if self._running:
            self._stop()

    def _stop(self) -> None:
        self._running = False
        jax.profiler.stop_trace()  # type: ignore[no-untyped-call]
        if self._local != self._directory:
            files = (file for file in self._local.rglob("*") if file.is_file())
            buckets.upload({file.relative_to(self._local).as_posix(): file for file in files}, self._directory)
            shutil.rmtree(self._local)
