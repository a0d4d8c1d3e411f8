"""Fine-tuning by gradient: all weights, or a LoRA adapter and the heads; the best evaluation is kept."""

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.config.runs import Epochs
from dnabert2_jax.data.batches import TrainingBatches
from dnabert2_jax.data.by_length import epoch_batches, evaluation_batches
from dnabert2_jax.data.encoding import EncodedTable
from dnabert2_jax.data.packed_epochs import pack_epochs
from dnabert2_jax.errors import UserError
from dnabert2_jax.inference.predictor import Forward, Predictor
from dnabert2_jax.modeling.lora import init_adapter
from dnabert2_jax.modeling.models import classifier_of, count_parameters
from dnabert2_jax.parallel.layout import spread_rows
from dnabert2_jax.progress import ProgressBar, remark
from dnabert2_jax.recipes.best import Best
from dnabert2_jax.recipes.finetuning_job import FinetuningJob
from dnabert2_jax.training.checkpoint import Checkpoints
from dnabert2_jax.training.goodput import Ledger
from dnabert2_jax.training.loop import LogMetrics, SaveCheckpoints, StepEvent, resume, run_steps, updates
from dnabert2_jax.training.memory import check_memory
from dnabert2_jax.training.meter import Meter
from dnabert2_jax.training.objectives import table_loss, table_means
from dnabert2_jax.training.optimizer import learning_rate_schedule, make_optimizer, warn_of_long_warmup
from dnabert2_jax.training.signals import StopRequests
from dnabert2_jax.training.step import StepMetrics, TrainState, init_state, make_train_step
from dnabert2_jax.training.workdir import MetricsLog
from dnabert2_jax.types import ClassificationBatch, Tree


class Trained(NamedTuple):
    """The result of training.

    Attributes:
        best: the evaluation that was kept.
        outputs: for the test rows, [rows, C], or their bases, [rows, L, C]; see
            :func:`~dnabert2_jax.modeling.heads.head_outputs`.
        trained_parameters: number of trainable parameters.
        first_step_seconds: from the call to the end of its first step; None if no step was left.
        earlier_seconds: what earlier calls took, up to the checkpoint from which this one resumed.
    """

    best: Best
    outputs: NDArray[np.float32]
    trained_parameters: int
    first_step_seconds: float | None
    earlier_seconds: float = 0.0


def train_by_steps(job: FinetuningJob, ledger: Ledger) -> Trained:
    """Train, evaluate on the dev table as the run says, keep the best, and predict the test table.

    Args:
        job: what to train, and on what.
        ledger: accounts for the time.

    Raises:
        UserError: the directory holds a run on other inputs, or training diverged.
        Stopped: SIGTERM or Ctrl-C asked for it; what was done is saved.
    """
    began = time.monotonic()
    run, plan = job.run, job.run.training
    steps_per_epoch = math.ceil(len(job.train) / plan.batch_size)
    total_steps, evaluations = plan.steps(steps_per_epoch), evaluation_steps(plan, steps_per_epoch)

    network = classifier_of(job.config, len(job.labels), job.head, job.compute)
    fresh = network.init(run.seed)
    if job.class_bias is not None:
        fresh["classifier"]["bias"] = jnp.asarray(job.class_bias)
    trainable, frozen = _split_parameters(fresh, job)
    layout = spread_rows(run.mesh, plan.batch_size // plan.accumulate, trainable)
    devices = layout.mesh.size
    trainable, frozen = layout.copy(trainable), layout.copy(frozen)
    optimizer, schedule = make_optimizer(run.optimizer, total_steps), learning_rate_schedule(run.optimizer, total_steps)
    loss = table_loss(network, job.labels, job.train.labels, plan, job.lora)
    take_step = make_train_step(loss, optimizer, layout, accumulate=plan.accumulate)
    forward = Forward(job.config, job.compute, len(job.labels), job.head, job.lora, layout.by_rows)
    dev_batches, test_batches = (evaluation_batches(t, plan.batch_size, job.lengths) for t in (job.dev, job.test))
    epochs = _epochs(job, devices)
    _report_start(job, trainable, frozen, epochs[0], devices)
    warn_of_long_warmup(run.optimizer, total_steps)

    identity: dict[str, str | int] = dict(job.identity)
    if plan.batching == "packed":  # which sequences share a row depends on it, and so do their dropout masks
        identity["devices x training.accumulate (of packed rows)"] = plan.accumulate * devices
    best, state = Best(job, frozen), init_state(trainable, optimizer, layout)
    with (
        StopRequests() as stop_requests,
        Checkpoints(job.directory.checkpoints, keep_last=plan.keep_checkpoints) as checkpoints,
    ):
        state, notes = resume(checkpoints, state, identity, workdir=job.directory.path, total=total_steps)
        first, earlier_seconds = int(state.step), notes.get("seconds", 0.0)
        ledger.keep_in(job.directory.path, first)
        for batch in epochs[0].one_of_each_shape():  # so that no step compiles, and the first estimate of time holds
            on_devices = layout.batch(batch, len(batch.labels))
            check_memory(take_step, state, frozen, on_devices, rows=plan.batch_size, accumulate=plan.accumulate)
        if notes:
            best.resume(**notes["best"])
        with MetricsLog(job.directory, first) as log, ProgressBar("fine-tuning", total_steps, first) as bar:
            metrics = LogMetrics(
                meter=Meter(table_means(job.labels)),
                ledger=ledger,
                log=log,
                bar=bar,
                due=evaluations.__contains__,
                values=lambda event: {
                    "epoch": event.step / steps_per_epoch,
                    "learning_rate": float(schedule(updates(event.state) - 1)),
                },
                skipped_in_a_row=min(plan.skipped_in_a_row, evaluations[0]),
                diverged=_diverged,
                began=began,
            )

            def step_on_devices(state: TrainState, batch: ClassificationBatch) -> tuple[TrainState, StepMetrics]:
                return take_step(state, frozen, layout.batch(batch, len(batch.labels)))

            def evaluate(event: StepEvent) -> None:
                if event.step in evaluations:
                    with ledger.phase("evaluation", after=event.metrics):
                        outputs = Predictor(forward, {**event.state.trainable, **frozen}).class_outputs(dev_batches)
                        scores = job.scores(job.dev, outputs)
                    shown = f"dev {job.metrics.brief(scores)}, loss {scores['loss']:.3f}"
                    metrics.evaluated(event.step, job.metrics.dev_line(scores), shown)
                    with ledger.phase("saves"):
                        best.consider(event.step, scores, event.state.trainable)

            def out_of_patience() -> bool:
                return best.waited >= plan.patience

            def notes_at(step: int) -> dict[str, Any]:
                return {
                    "best": best.notes(),
                    "identity": identity,
                    "seconds": earlier_seconds + time.monotonic() - began,
                }

            state = run_steps(
                state,
                step_on_devices,
                _batches_from(epochs, first),
                total=total_steps,
                stop_requests=stop_requests,
                callbacks=(
                    metrics,
                    evaluate,
                    SaveCheckpoints(
                        checkpoints=checkpoints, ledger=ledger, due=evaluations.__contains__, meta=notes_at, log=log
                    ),
                ),
                ledger=ledger,
                finished=out_of_patience,
            )
            ledger.enter("saves")  # the last checkpoint may still be on its way
            if int(state.step) < total_steps:
                named = job.metrics.shown.get(job.selection, job.selection)
                remark(f"stopped at step {state.step}: dev {named} did not improve in {plan.patience} evaluations")

    with ledger.phase("evaluation"):
        outputs = Predictor(forward, {**layout.copy(best.trainable), **frozen}).class_outputs(test_batches)
    ledger.record(int(state.step))
    return Trained(best, outputs, count_parameters(trainable), metrics.first_step_seconds, earlier_seconds)


def evaluation_steps(plan: Epochs, steps_per_epoch: int) -> list[int]:
    """The steps after which the dev table is scored, evenly over each epoch; the last evaluation is at the last step."""
    last = plan.steps(steps_per_epoch)
    evaluations = math.ceil(plan.evaluations_per_epoch * last / steps_per_epoch)
    evenly = (max(1, round(steps_per_epoch * n / plan.evaluations_per_epoch)) for n in range(1, evaluations + 1))
    return sorted({min(step, last) for step in evenly} | {last})


def _epochs(job: FinetuningJob, devices: int) -> Sequence[TrainingBatches]:
    """The training batches of each epoch, in rows that the devices can share."""
    run, plan = job.run, job.run.training
    if plan.batching == "packed":
        return pack_epochs(
            [table for table in job.epochs if isinstance(table, EncodedTable)],
            plan.batch_size,
            run.seed,
            hidden_size=job.config.hidden_size,
            max_shapes=plan.padded_lengths,
            parts=plan.accumulate * devices,
        )
    return [epoch_batches(table, plan.batch_size, run.seed, epoch, job.lengths) for epoch, table in enumerate(job.epochs)]


def _batches_from(epochs: Sequence[TrainingBatches], first_step: int) -> Iterator[ClassificationBatch]:
    """The batches of the steps from ``first_step`` on, epoch after epoch."""
    first_epoch, done = divmod(first_step, len(epochs[0]))
    for epoch in epochs[first_epoch:]:
        yield from epoch[done:]
        done = 0


def _split_parameters(fresh: Tree, job: FinetuningJob) -> tuple[Tree, Tree]:
    """(trainable, frozen): all weights are trainable, or new heads only (probe), or an adapter and new heads (LoRA)."""
    encoder = fresh["encoder"] if job.base is None else jax.device_put(job.base.params["encoder"])
    heads = {name: part for name, part in fresh.items() if name != "encoder"}
    if job.run.training.method == "full":
        return {"encoder": encoder, **heads}, {}
    if job.lora is None:
        return heads, {"encoder": encoder}
    return {"adapter": init_adapter(job.config, job.lora, job.run.seed + 1), **heads}, {"encoder": encoder}


def _report_start(job: FinetuningJob, trainable: Tree, frozen: Tree, epoch: TrainingBatches, devices: int) -> None:
    trained, whole = count_parameters(trainable), count_parameters(trainable) + count_parameters(frozen)
    batches = epoch.batches
    widths = " or ".join(map(str, batches.widths))
    rows = f"rows padded to {widths} tokens"
    if job.run.training.batching == "packed":
        rows = f"{job.run.training.batch_size} sequences packed into {batches.plan[0].height} rows of {widths} tokens"
    remark(
        f"{trained:,} of {whole:,} parameters are trainable; {job.labels.what}; {rows} ({batches.padding_share:.1%} padding)"
        + (f"; on {devices} of {jax.local_device_count()} devices" if jax.local_device_count() > 1 else "")
    )


def _diverged(steps: int, last: int) -> UserError:
    return UserError(
        f"loss or gradient were not finite in {steps} steps in a row, up to step {last}: training diverged; lower "
        "optimizer.learning_rate and use another --workdir"
    )
