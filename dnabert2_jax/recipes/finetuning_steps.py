"""Fine-tuning by gradient: all weights, or a LoRA adapter and the heads; the best evaluation is kept."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import NamedTuple

import jax
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
from dnabert2_jax.modeling.models import count_parameters, sequence_classifier
from dnabert2_jax.parallel.layout import spread_rows
from dnabert2_jax.progress import ProgressBar, remark
from dnabert2_jax.recipes.finetuning_task import Task
from dnabert2_jax.recipes.keeper import Keeper
from dnabert2_jax.training.checkpoint import Checkpoints
from dnabert2_jax.training.optimizer import learning_rate_schedule, make_optimizer
from dnabert2_jax.training.step import StepMetrics, init_state, make_train_step
from dnabert2_jax.training.targets import Target
from dnabert2_jax.training.workdir import MetricsLog
from dnabert2_jax.types import ClassificationBatch, Tree


class Trained(NamedTuple):
    """What training came to.

    Attributes:
        keeper: has the parameters that were kept.
        outputs: of the test table's rows, [rows, C], see :func:`~dnabert2_jax.modeling.heads.head_outputs`.
        trained_parameters: scalars that learned.
        first_step_seconds: from the call to the end of its first step; None where no step was left.
        earlier_seconds: that earlier calls took, up to the checkpoint from which this one went on.
    """

    keeper: Keeper
    outputs: NDArray[np.float32]
    trained_parameters: int
    first_step_seconds: float | None
    earlier_seconds: float = 0.0


def train_by_steps(task: Task) -> Trained:
    """Train, evaluate on the dev table as the run says, keep the best, and predict the test table.

    Raises:
        UserError: the directory holds a run on other inputs, or the loss stopped being a number.
    """
    began = time.monotonic()
    run, plan = task.run, task.run.training
    network = sequence_classifier(task.config, len(task.labels), task.compute, task.head.pooling)
    trainable, frozen = _split_parameters(network.init(run.seed), task)
    layout = spread_rows(run.mesh, plan.batch_size // plan.accumulate, trainable)
    devices = layout.mesh.size if layout else 1
    place = layout.copy if layout else jax.device_put
    trainable, frozen = place(trainable), place(frozen)
    steps_per_epoch = math.ceil(len(task.train) / plan.batch_size)
    total_steps = plan.steps(steps_per_epoch)

    target = task.target
    loss = target.loss(network, task.lora, plan, task.train.labels)
    optimizer = make_optimizer(run.optimizer, total_steps)
    train_step = make_train_step(loss, optimizer, accumulate=plan.accumulate, layout=layout)
    by_rows = layout.by_rows if layout else None
    forward = Forward(task.config, task.compute, len(task.labels), task.head, task.lora, by_rows)
    schedule = learning_rate_schedule(run.optimizer, total_steps)
    state = init_state(trainable, optimizer, layout)
    dev_batches, test_batches = (evaluation_batches(t, plan.batch_size, task.lengths) for t in (task.dev, task.test))
    epochs = _epochs(task, devices)
    _say(task, trainable, frozen, epochs[0], devices)

    identity: dict[str, str | int] = dict(task.identity)
    if plan.batching == "packed":  # which sequences share a row depends on it, and so do their dropout masks
        identity["devices x training.accumulate (of packed rows)"] = plan.accumulate * devices
    keeper = Keeper(task, frozen)
    first_step_seconds, earlier = None, 0.0
    with Checkpoints(task.directory.checkpoints, keep_last=plan.keep_checkpoints) as checkpoints:
        best = _Best(score=-math.inf, step=0, waited=0)
        restored = checkpoints.restore_latest(state)
        if restored is not None:
            before = restored.meta["identity"]
            if changed := [name for name, now in identity.items() if before.get(name) != now]:
                raise UserError(
                    f"{task.directory.path}: {', '.join(changed)} changed since this run began; use another --workdir"
                )
            state, best = restored.state, _Best(**restored.meta["best"])
            earlier = restored.meta.get("seconds", 0.0)
            remark(f"going on from step {restored.step} of {total_steps}")
        step = int(state.step)
        batches = _batches_from(epochs, step)
        with MetricsLog(task.directory, step) as log, ProgressBar("fine-tuning", total_steps, step) as bar:
            for stop in (s for s in evaluation_steps(plan, steps_per_epoch) if s > step):
                if best.waited >= plan.patience:
                    remark(f"stopped at step {step}: no better dev {_named(target, plan)} in {plan.patience} evaluations")
                    break
                measured: list[StepMetrics] = []
                for batch in islice(batches, stop - step):
                    spread = layout.batch(batch, len(batch.labels)) if layout else batch
                    state, metrics = train_step(state, frozen, spread)
                    measured.append(metrics)
                    bar.advance()
                    if first_step_seconds is None:
                        metrics.gradient_norm.block_until_ready()
                        first_step_seconds = time.monotonic() - began
                        remark(f"first step done after {first_step_seconds:.1f} s, compiling included")
                step = stop
                rate = float(schedule(step - 1))
                log.write(step, epoch=step / steps_per_epoch, **_means(measured, target), learning_rate=rate)
                outputs = Predictor(forward, {**state.trainable, **frozen}).class_outputs(dev_batches)
                scores = target.scores(task.dev.labels, outputs)
                log.write(step, **target.metrics.dev_line(scores))
                score = target.selection_score(scores, plan)
                bar.advance(0, f"dev {target.metrics.brief(scores)}, loss {scores['loss']:.3f}")
                if score > best.score:
                    best = _Best(score, step, 0)
                    keeper.save(state.trainable, {"dev": scores, "step": step})
                else:
                    best = replace(best, waited=best.waited + 1)
                spent = earlier + time.monotonic() - began
                checkpoints.save(step, state, {"best": asdict(best), "identity": identity, "seconds": spent})

    outputs = Predictor(forward, place(keeper.load()[0])).class_outputs(test_batches)
    return Trained(keeper, outputs, count_parameters(trainable), first_step_seconds, earlier)


def _named(target: Target, plan: Epochs) -> str:
    chooser = target.chooser(plan)
    return target.metrics.shown.get(chooser, chooser)


@dataclass(frozen=True)
class _Best:
    """The evaluation to keep so far, and how many have passed since."""

    score: float
    step: int
    waited: int


def evaluation_steps(plan: Epochs, steps_per_epoch: int) -> list[int]:
    """The steps after which the dev table is scored, evenly over each epoch; the last one ends the run."""
    last = plan.steps(steps_per_epoch)
    evaluations = math.ceil(plan.evaluations_per_epoch * last / steps_per_epoch)
    evenly = (max(1, round(steps_per_epoch * n / plan.evaluations_per_epoch)) for n in range(1, evaluations + 1))
    return sorted({min(step, last) for step in evenly} | {last})


def _epochs(task: Task, devices: int) -> Sequence[TrainingBatches]:
    """The training batches of each epoch, whose rows the devices can share."""
    run, plan = task.run, task.run.training
    steps_per_epoch = math.ceil(len(task.train) / plan.batch_size)
    tables: list[EncodedTable] = [
        task.train.on_either_strand(task.reverse, run.seed, epoch) if task.reverse else task.train
        for epoch in range(math.ceil(plan.steps(steps_per_epoch) / steps_per_epoch))
    ]
    if plan.batching == "packed":
        return pack_epochs(
            tables,
            plan.batch_size,
            run.seed,
            hidden_size=task.config.hidden_size,
            max_shapes=plan.padded_lengths,
            parts=plan.accumulate * devices,
        )
    return [epoch_batches(table, plan.batch_size, run.seed, epoch, task.lengths) for epoch, table in enumerate(tables)]


def _batches_from(epochs: Sequence[TrainingBatches], first_step: int) -> Iterator[ClassificationBatch]:
    """The batches of the steps from ``first_step`` on, epoch after epoch."""
    first_epoch, done = divmod(first_step, len(epochs[0]))
    for epoch in epochs[first_epoch:]:
        yield from epoch[done:]
        done = 0


def _say(task: Task, trainable: Tree, frozen: Tree, epoch: TrainingBatches, devices: int) -> None:
    learn, whole = count_parameters(trainable), count_parameters(trainable) + count_parameters(frozen)
    batches = epoch.batches
    widths = " or ".join(map(str, batches.widths))
    rows = f"rows padded to {widths} tokens"
    if task.run.training.batching == "packed":
        rows = f"{task.run.training.batch_size} sequences packed into {batches.plan[0].height} rows of {widths} tokens"
    remark(
        f"{learn:,} of {whole:,} parameters learn; {task.labels.what}; {rows} ({batches.padding_share:.1%} padding)"
        + (f"; on {devices} of {jax.local_device_count()} devices" if jax.local_device_count() > 1 else "")
    )


def _split_parameters(fresh: Tree, task: Task) -> tuple[Tree, Tree]:
    """(trainable, frozen): the base's encoder with fresh heads; with LoRA the encoder is frozen and an adapter learns."""
    encoder = fresh["encoder"] if task.base is None else jax.device_put(task.base.params["encoder"])
    heads = {"pooler": fresh["pooler"], "classifier": fresh["classifier"]}
    if task.lora is None:
        return {"encoder": encoder, **heads}, {}
    return {"adapter": init_adapter(task.config, task.lora, task.run.seed + 1), **heads}, {"encoder": encoder}


def _means(measured: list[StepMetrics], target: Target) -> dict[str, float]:
    metrics = jax.device_get(measured)
    weight = sum(float(m.sums.weight) for m in metrics)
    loss = sum(float(m.sums.loss) for m in metrics) / weight
    gradient_norm = float(np.mean([m.gradient_norm for m in metrics]))
    if not math.isfinite(loss + gradient_norm):
        raise UserError(
            f"the training loss is {loss} and the gradient's norm {gradient_norm}: training diverged; lower "
            "optimizer.learning_rate and use another --workdir"
        )
    means = {"loss": loss, "gradient_norm": gradient_norm}
    if target.has_accuracy:
        means["accuracy"] = sum(float(m.sums.correct) for m in metrics) / weight
    return means
