"""The training loop shared by pretraining and fine-tuning, and its callbacks.

:func:`run_steps` only takes steps. After each one it calls the callbacks in order: log metrics, evaluate, save a
checkpoint. The recipe decides which callbacks a run has and how often each is due.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import optax

from dnabert2_jax.errors import UserError
from dnabert2_jax.progress import ProgressBar, remark
from dnabert2_jax.training.checkpoint import Checkpoints
from dnabert2_jax.training.goodput import Ledger
from dnabert2_jax.training.meter import Meter
from dnabert2_jax.training.signals import Stopped, StopRequests
from dnabert2_jax.training.step import StepMetrics, TrainState
from dnabert2_jax.training.workdir import MetricsLog


@dataclass(frozen=True)
class StepEvent:
    """A step dispatched to the devices, as seen by callbacks.

    Attributes:
        step: step number, from 1.
        batch: this process's part of the training batch.
        waited: seconds spent waiting for the batch.
        state: the state after the step. The next step reuses its buffers, so a callback must copy what it keeps.
        metrics: the step's metrics, on the devices.
        last: whether this is the last step of the run.
        stopping: whether the run was asked to stop after this step.
    """

    step: int
    batch: Any
    waited: float
    state: TrainState
    metrics: StepMetrics
    last: bool
    stopping: bool


Callback = Callable[[StepEvent], None]

Due = Callable[[int], bool]
"""Whether something is due after a step; it always is after the last step."""


def every(steps: int) -> Due:
    """Due after every multiple of ``steps``."""
    return lambda step: step % steps == 0


def run_steps(
    state: TrainState,
    train_step: Callable[[TrainState, Any], tuple[TrainState, StepMetrics]],
    batches: Iterator[Any],
    *,
    total: int,
    stop_requests: StopRequests,
    callbacks: Sequence[Callback],
    ledger: Ledger,
    finished: Callable[[], bool] = lambda: False,
) -> TrainState:
    """Train from the state's step to the last step.

    Args:
        state: the initial state.
        train_step: ``(state, batch) -> (state, metrics)``; it transfers the batch to the devices.
        batches: one batch per step, beginning with the step after the state's.
        total: total number of steps in the run.
        stop_requests: checked after every step.
        callbacks: called in order after every step.
        ledger: accounts for the time.
        finished: checked before every step; ends the run early if true.

    Returns:
        The state after the last step.

    Raises:
        Stopped: the run was asked to stop before its last step; the callbacks were called with ``stopping`` set.
    """
    ledger.enter("steps")
    for step in range(int(state.step) + 1, total + 1):
        if finished():
            break
        asked = time.monotonic()
        with ledger.phase("input"):
            batch = next(batches)
        waited = time.monotonic() - asked
        state, metrics = train_step(state, batch)
        last, stopping = step == total, stop_requests.after(step)
        event = StepEvent(step, batch, waited, state, metrics, last, stopping)
        for callback in callbacks:
            callback(event)
        if stopping and not last:
            remark(f"stopped as requested; step {step} of {total} is saved. Run the same command to resume")
            raise Stopped(step)
    return state


@dataclass(kw_only=True)
class LogMetrics:
    """Shows progress, logs the means over the steps since the last line, and ends a diverged run.

    Attributes:
        meter: measures the steps.
        ledger: receives a line as often as the log.
        log: receives a line whenever one is due, and when the run stops.
        bar: shows progress and the latest figures.
        due: when to write a line.
        values: additional values for each line.
        skipped_in_a_row: number of consecutive skipped (non-finite) steps that ends the run.
        diverged: makes the error to raise then, from the number of consecutive steps and the last of them.
        began: start time of the run, by ``time.monotonic``.
        first_step_seconds: from ``began`` to the end of the first step, compilation included; None before that.
    """

    meter: Meter
    ledger: Ledger
    log: MetricsLog
    bar: ProgressBar
    due: Due
    values: Callable[[StepEvent], Mapping[str, float]]
    skipped_in_a_row: int
    diverged: Callable[[int, int], UserError]
    began: float
    first_step_seconds: float | None = field(default=None, init=False)
    _evaluation: str = field(default="", init=False)

    def __call__(self, event: StepEvent) -> None:
        """Measure a step."""
        first = self.first_step_seconds is None
        if first:
            self.meter.restart()  # the call of the step has just compiled it, which is not training time
        self.meter.add(event.step, event.metrics, event.batch, 0.0 if first else event.waited)
        if first:
            jax.block_until_ready(event.metrics)  # type: ignore[no-untyped-call]
            self.first_step_seconds = time.monotonic() - self.began
            remark(f"first step done after {self.first_step_seconds:.1f} s, compiling included")
        if self.due(event.step) or event.last or event.stopping:
            self.log.write(event.step, **self.meter.read(), **self.values(event))
            self.ledger.record(event.step)
        self.bar.advance(figures=self._figures())
        if self.meter.skipped_in_a_row >= self.skipped_in_a_row:
            raise self.diverged(self.meter.skipped_in_a_row, self.meter.last_skipped)

    def evaluated(self, step: int, scores: Mapping[str, Any], shown: str = "") -> None:
        """Log the scores of an evaluation and show them next to the bar; its duration does not count as training time."""
        self.log.write(step, **scores)
        self.ledger.record(step)
        self._evaluation = shown
        self.bar.advance(0, figures=self._figures())
        self.meter.restart()

    def _figures(self) -> str:
        return "  ".join(part for part in (self.meter.figures, self._evaluation) if part)


@dataclass(frozen=True, kw_only=True)
class SaveCheckpoints:
    """Saves a checkpoint when one is due, after the last step, and when the run stops.

    Attributes:
        checkpoints: where to save.
        ledger: receives a line after every save, from which a run may resume.
        due: when to save.
        meta: makes the metadata saved with the state, from the step; ``identity`` is what :func:`resume` compares.
        log: its lines are made durable before a checkpoint counts, because a resumed run does not write them again.
    """

    checkpoints: Checkpoints
    ledger: Ledger
    due: Due
    meta: Callable[[int], dict[str, Any]]
    log: MetricsLog

    def __call__(self, event: StepEvent) -> None:
        """Save if one is due; a run that is stopping waits until everything is on disk."""
        if self.due(event.step) or event.last or event.stopping:
            with self.ledger.phase("saves", after=event.metrics):
                self.checkpoints.save(event.step, event.state, self.meta(event.step), before_seal=self.log.sync)
                if event.stopping:
                    self.checkpoints.wait()
            self.ledger.record(event.step)


def resume(
    checkpoints: Checkpoints, state: TrainState, identity: Mapping[str, str | int], *, workdir: Path, total: int
) -> tuple[TrainState, dict[str, Any]]:
    """The state and metadata of the newest intact checkpoint.

    Args:
        checkpoints: the run's checkpoints.
        state: a fresh state, returned (without metadata) if there is no checkpoint.
        identity: hashes of the inputs, other than settings, on which the result depends.
        workdir: the run's directory, for messages.
        total: total number of steps in the run.

    Raises:
        UserError: an input changed since the run began, or no checkpoint can be read.
    """
    restored = checkpoints.restore_latest(state)
    if restored is None:
        return state, {}
    before = restored.meta["identity"]
    if changed := [name for name, now in identity.items() if before.get(name) != now]:
        raise UserError(f"{workdir}: {', '.join(changed)} changed since this run began; use another --workdir")
    remark(f"resuming from step {restored.step} of {total}")
    return restored.state, restored.meta


def updates(state: TrainState) -> int:
    """Number of steps not skipped, as counted by the optimizer."""
    return int(optax.tree.get_all_with_path(state.optimizer, "count")[0][1])
