"""What a run says about itself while it trains: means, speeds, model FLOPs utilisation, memory, a profile on request."""

import math
import resource
import sys
import time
from collections import deque
from pathlib import Path
from types import TracebackType

import jax
import numpy as np

from dnabert2_jax.parallel.processes import is_first
from dnabert2_jax.training.objectives import Sums
from dnabert2_jax.training.step import StepMetrics

_STEPS_IN_FLIGHT = 2
_STEPS_BEFORE_PROFILE = 5


def summarise(total: Sums) -> dict[str, float]:
    """Sums over predictions as means: loss, perplexity, masked accuracy."""
    loss = float(total.loss) / float(total.weight)
    # Perplexity of a diverged run overflows; infinity says so.
    return {
        "loss": loss,
        "perplexity": math.exp(loss) if loss < 700 else math.inf,
        "masked_accuracy": float(total.correct) / float(total.weight),
    }


class Meter:
    """Means and speeds of the steps since the last reading.

    A step's figures are fetched two steps later: the device never waits for the host, and the host never runs further ahead,
    so that batches do not pile up, waiting for input shows as such, and a request to stop is answered soon.

    Args:
        flops_per_token: of the model, see :func:`~dnabert2_jax.modeling.flops.training_flops_per_token`.
        peak: operations a second of all devices together; None where unknown, and then there is no MFU.

    Attributes:
        figures: the last reading as a line.
        skipped_in_a_row: steps without a finite loss and gradient since the last good one.
        last_skipped: the last such step.
    """

    def __init__(self, flops_per_token: float, peak: float | None) -> None:
        self.figures = ""
        self.skipped_in_a_row = self.last_skipped = 0
        self._flops_per_token, self._peak = flops_per_token, peak
        self._in_flight: deque[tuple[int, StepMetrics]] = deque()
        self._settled: list[StepMetrics] = []
        self._tokens, self._waited = 0, 0.0
        self.restart()

    def restart(self) -> None:
        """Begin the interval anew: time spent in an evaluation is not training time."""
        self._tokens_before, self._waited_before, self._began = self._tokens, self._waited, time.monotonic()

    def add(self, step: int, metrics: StepMetrics, tokens: int, waited: float) -> None:
        """Take note of a step that has been started.

        Args:
            step: its number.
            metrics: what it reports, on the devices.
            tokens: real tokens of the batch, over all processes.
            waited: seconds that went by until its batch was there.
        """
        self._tokens += tokens
        self._waited += waited
        self._in_flight.append((step, metrics))
        while len(self._in_flight) > _STEPS_IN_FLIGHT:
            self._settle()

    def read(self) -> dict[str, float]:
        """The interval's means over the steps that were not skipped, its speeds, and the most memory used so far.

        Returns:
            ``loss``, ``perplexity``, ``masked_accuracy``, ``gradient_norm`` (before clipping) and ``update_norm``, unless
            all steps were skipped; ``skipped_steps``, ``tokens_per_second`` (real tokens), ``input_wait`` (share of the
            time), ``mfu`` (where the devices' peak is known), ``host_memory_bytes`` and ``device_memory_bytes`` (of the
            first device, where it tells).
        """
        while self._in_flight:
            self._settle()
        steps, self._settled = self._settled, []
        good = [step for step in steps if not step.skipped]
        values: dict[str, float] = {}
        if good:
            values = summarise(jax.tree.map(lambda *x: sum(map(float, x)), *(step.sums for step in good)))
            values["gradient_norm"] = float(np.mean([step.gradient_norm for step in good]))
            values["update_norm"] = float(np.mean([step.update_norm for step in good]))
        seconds = max(time.monotonic() - self._began, 1e-9)
        speed = (self._tokens - self._tokens_before) / seconds
        values |= {"skipped_steps": len(steps) - len(good), "tokens_per_second": speed}
        values["input_wait"] = (self._waited - self._waited_before) / seconds
        if self._peak is not None:
            values["mfu"] = speed * self._flops_per_token / self._peak
        values |= memory()
        self.figures = "  ".join(
            f"{name} {values[key]:{form}}"
            for key, name, form in (
                ("loss", "loss", ".3f"),
                ("masked_accuracy", "masked accuracy", ".3f"),
                ("mfu", "MFU", ".1%"),
                ("input_wait", "input wait", ".1%"),
            )
            if key in values
        )
        self.figures += f"  {speed:,.0f} tokens/s"
        if values["skipped_steps"]:
            self.figures += f"  {values['skipped_steps']:,} steps skipped (not finite)"
        self.restart()
        return values

    def _settle(self) -> None:
        step, on_device = self._in_flight.popleft()
        metrics = jax.device_get(on_device)
        self._settled.append(metrics)
        if metrics.skipped:
            self.skipped_in_a_row, self.last_skipped = self.skipped_in_a_row + 1, step
        else:
            self.skipped_in_a_row = 0


def memory() -> dict[str, int]:
    """The most memory in use since the start, in bytes: of this process, and of its first device where that tells."""
    unit = 1 if sys.platform == "darwin" else 1024
    found = {"host_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        found["device_memory_bytes"] = stats["peak_bytes_in_use"]
    return found


class Profile:
    """A ``jax.profiler`` trace of some steps, a few after the start, when everything is compiled; a context manager.

    Only process 0 traces. TensorBoard's profile plugin and Perfetto show it.

    Args:
        directory: where it goes.
        first: steps done before.
        steps: to trace; 0: none.
    """

    def __init__(self, directory: Path, first: int, steps: int) -> None:
        self._directory = directory
        self._begin = first + _STEPS_BEFORE_PROFILE
        self._end = self._begin + steps
        self._wanted = steps > 0 and is_first()
        self._running = False

    def after(self, step: int, metrics: StepMetrics) -> None:
        """To be called after each step was started."""
        if self._wanted and step == self._begin:
            jax.block_until_ready(metrics)  # type: ignore[no-untyped-call]
            jax.profiler.start_trace(self._directory)
            self._running = True
        elif self._running and step == self._end:
            jax.block_until_ready(metrics)  # type: ignore[no-untyped-call]
            self._stop()

    def __enter__(self) -> "Profile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._running:
            self._stop()

    def _stop(self) -> None:
        self._running = False
        jax.profiler.stop_trace()  # type: ignore[no-untyped-call]
