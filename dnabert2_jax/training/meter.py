"""Measurements during training: means, throughput, model FLOPs utilization (MFU) and memory."""

import resource
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from dnabert2_jax.training.objectives import Sums
from dnabert2_jax.training.step import StepMetrics

_STEPS_IN_FLIGHT = 2


class Meter:
    """Means and speeds over the steps since the last reading.

    A step's figures are fetched two steps later: the device never waits for the host, and the host never runs further ahead
    than that, so batches do not pile up, input waits show up as such, and stop requests are answered quickly.

    Args:
        means: converts sums over predictions to means.
        flops_per_token: the model's, see :func:`~dnabert2_jax.modeling.flops.training_flops_per_token`.
        peak: operations per second of all devices together. MFU needs both; if either is missing, it is not reported.
        processes: number of processes that share a batch, with equal numbers of rows.

    Attributes:
        figures: the last reading as a line; before the first one, the throughput so far.
        skipped_in_a_row: steps without a finite loss and gradient since the last good one.
        last_skipped: the last such step.
    """

    def __init__(
        self,
        means: Callable[[Sums], dict[str, float]],
        *,
        flops_per_token: float | None = None,
        peak: float | None = None,
        processes: int = 1,
    ) -> None:
        self.skipped_in_a_row = self.last_skipped = 0
        self._means, self._flops_per_token, self._peak, self._processes = means, flops_per_token, peak, processes
        self._in_flight: deque[tuple[int, StepMetrics]] = deque()
        self._settled: list[StepMetrics] = []
        self._last_figures = ""
        self.restart()

    def restart(self) -> None:
        """Begin a new interval: time spent compiling or evaluating is not training time."""
        self._tokens, self._waited, self._began = 0, 0.0, time.monotonic()

    def add(self, step: int, metrics: StepMetrics, batch: Any, waited: float) -> None:
        """Record a dispatched step.

        Args:
            step: step number.
            metrics: the step's metrics, on the devices.
            batch: this process's rows, with ``tokens`` on the host.
            waited: seconds spent waiting for the batch.
        """
        self._tokens += int(np.count_nonzero(batch.tokens.segment_ids)) * self._processes
        self._waited += waited
        self._in_flight.append((step, metrics))
        while len(self._in_flight) > _STEPS_IN_FLIGHT:
            self._settle()

    @property
    def figures(self) -> str:
        """The last reading as a line; before the first one, the throughput so far."""
        return self._last_figures or f"{self._tokens_per_second():,.0f} tokens/s"

    def read(self) -> dict[str, float]:
        """Means over the interval's steps that were not skipped, speeds, and the peak memory use so far.

        Returns:
            The output of ``means``, ``gradient_norm`` (before clipping) and ``update_norm``, unless all steps were skipped;
            ``skipped_steps``, ``tokens_per_second`` (real tokens), ``input_wait`` (fraction of the time), ``mfu`` (if the
            devices' peak is known), ``host_memory_bytes`` and ``device_memory_bytes`` (of the first device, if it reports
            that).
        """
        while self._in_flight:
            self._settle()
        steps, self._settled = self._settled, []
        good = [step for step in steps if not step.skipped]
        values: dict[str, float] = {}
        if good:
            values = self._means(jax.tree.map(lambda *x: sum(map(float, x)), *(step.sums for step in good)))
            values["gradient_norm"] = float(np.mean([step.gradient_norm for step in good]))
            values["update_norm"] = float(np.mean([step.update_norm for step in good]))
        speed, seconds = self._tokens_per_second(), self._seconds()
        values |= {"skipped_steps": len(steps) - len(good), "tokens_per_second": speed}
        values["input_wait"] = self._waited / seconds
        if self._flops_per_token is not None and self._peak is not None:
            values["mfu"] = speed * self._flops_per_token / self._peak
        values |= memory()
        self._last_figures = _as_line(values)
        self.restart()
        return values

    def _tokens_per_second(self) -> float:
        return self._tokens / self._seconds()

    def _seconds(self) -> float:
        return max(time.monotonic() - self._began, 1e-9)

    def _settle(self) -> None:
        step, on_device = self._in_flight.popleft()
        metrics = jax.device_get(on_device)
        self._settled.append(metrics)
        if metrics.skipped:
            self.skipped_in_a_row, self.last_skipped = self.skipped_in_a_row + 1, step
        else:
            self.skipped_in_a_row = 0


def _as_line(values: dict[str, float]) -> str:
    """The figures of a reading to show while training."""
    forms = {
        "loss": "loss {:.3f}",
        "masked_accuracy": "masked accuracy {:.3f}",
        "accuracy": "accuracy {:.3f}",
        "mfu": "MFU {:.1%}",
        "input_wait": "input wait {:.1%}",
        "tokens_per_second": "{:,.0f} tokens/s",
    }
    parts = [form.format(values[key]) for key, form in forms.items() if key in values]
    if values["skipped_steps"]:
        parts.append(f"{values['skipped_steps']:,} steps skipped (not finite)")
    return "  ".join(parts)


def memory() -> dict[str, int]:
    """Peak memory use since the start, in bytes: of this process, and of its first device if it reports that."""
    unit = 1 if sys.platform == "darwin" else 1024
    found = {"host_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        found["device_memory_bytes"] = stats["peak_bytes_in_use"]
    return found
