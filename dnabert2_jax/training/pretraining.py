"""Masked language modelling from a corpus to a model directory; a run that was killed goes on where its checkpoint is."""

import math
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dnabert2_jax.data.pretraining import PretrainingRows, training_batches, validation_batches
from dnabert2_jax.errors import UserError
from dnabert2_jax.evaluation.report import report_pretraining
from dnabert2_jax.genome.corpus import Corpus, Split
from dnabert2_jax.model_directory import SavedModel, make_provenance, save_model, tree_sha256
from dnabert2_jax.modeling.models import count_parameters, masked_lm
from dnabert2_jax.parallel import make_layout, make_mesh
from dnabert2_jax.processes import gather, is_first
from dnabert2_jax.progress import ProgressBar, remark
from dnabert2_jax.runs import PretrainRun, run_to_dict
from dnabert2_jax.training.checkpoint import Checkpoints
from dnabert2_jax.training.objectives import Sums, mlm_loss
from dnabert2_jax.training.optimizer import make_optimizer
from dnabert2_jax.training.start import resolve_compute, starting_point
from dnabert2_jax.training.step import TrainState, init_state, make_eval_step, make_train_step
from dnabert2_jax.training.workdir import MetricsLog, open_workdir


def pretrain(run: PretrainRun, workdir: Path) -> SavedModel:
    """Train, evaluate and save.

    Everything random is a function of the seed and the global record index, and the checkpoint holds the number of steps:
    a run that was killed and started again ends with the same parameters, bit for bit, on the same machine.

    Args:
        run: what to do.
        workdir: gets ``run.json``, ``metrics.jsonl``, ``checkpoints/`` and at the end ``model/`` and ``report.html``.

    Returns:
        The model as process 0 saves it in ``workdir/model``.

    Raises:
        UserError: a path, a setting or the directory cannot be used; the loss stopped being a number.
    """
    plan = run.training
    config, tokenizer, base = starting_point(run.model)
    if base is not None and base.kind != "masked_lm":
        raise UserError(f"{run.model.path} is a {base.kind}; pretraining goes on from a masked_lm model directory")
    compute = resolve_compute(run.model.precision, run.model.attention, remat=run.model.remat, unroll=run.model.unroll)
    corpus = Corpus.open(run.data.corpus)

    def rows(split: Split) -> PretrainingRows:
        return PretrainingRows(
            corpus,
            tokenizer,
            tokens_per_row=run.data.tokens_per_row,
            masking=run.masking,
            seed=run.seed,
            split=split,
            reverse_complement=run.data.reverse_complement,
        )

    network = masked_lm(config, compute)
    layout = make_layout(run.mesh, make_mesh(run.mesh), network, config)
    layout.check_batch(plan.batch_size, plan.accumulate)
    here = layout.rows_here(plan.batch_size)
    train_rows, validation_rows = rows("train"), rows("validation")
    held_out = [
        layout.batch(batch, plan.batch_size)
        for batch in validation_batches(validation_rows, plan.batch_size, run.data.validation_rows, here)
    ]
    directory = open_workdir(workdir, run_to_dict(run))

    loss, optimizer = mlm_loss(network), make_optimizer(run.optimizer, plan.steps)
    train_step = make_train_step(loss, optimizer, accumulate=plan.accumulate, layout=layout)
    eval_step = make_eval_step(loss, layout)
    schedule = run.optimizer.schedule(plan.steps)

    params = layout.init(network, run.seed) if base is None else layout.place(base.params)
    state = init_state(params, optimizer, layout)
    remark(
        f"{count_parameters(params):,} parameters; {len(corpus.species)} species, windows of "
        f"{train_rows.windows.window_bases:,} bases for rows of {run.data.tokens_per_row} tokens; "
        f"{min(run.data.validation_rows, validation_rows.windows.epoch_size):,} held-out rows; mesh of "
        + " x ".join(f"{size} ({axis})" for axis, size in layout.mesh.shape.items())
    )
    base_hash = tree_sha256(base.params["encoder"]) if base else "random weights"
    identity = {"corpus": corpus.hash, "tokenizer": tokenizer.sha256, "base": base_hash}

    with Checkpoints(directory.checkpoints, keep_last=plan.keep_checkpoints) as checkpoints:
        restored = checkpoints.restore_latest(state)
        if restored is not None:
            before = restored.meta["identity"]
            if changed := [name for name, now in identity.items() if before.get(name) != now]:
                raise UserError(f"{workdir}: {', '.join(changed)} changed since this run began; use another --workdir")
            state = restored.state
            remark(f"going on from step {restored.step} of {plan.steps}")
        first = int(state.step)
        meter = _Meter()
        with MetricsLog(directory, first) as log, ProgressBar("pretraining", plan.steps, first) as bar:
            batches = training_batches(train_rows, plan.batch_size, first, plan.steps, here)
            for step, batch in enumerate(batches, first + 1):
                state, metrics = train_step(state, {}, layout.batch(batch, plan.batch_size))
                meter.add(metrics, int(np.count_nonzero(batch.tokens.segment_ids)) * plan.batch_size // len(here))
                bar.advance(figures=meter.figures)
                last = step == plan.steps
                if step % plan.log_every == 0 or last:
                    log.write(step, **meter.read(), learning_rate=float(schedule(step - 1)))
                    bar.advance(0, figures=meter.figures)
                if step % plan.evaluate_every == 0 or last:
                    scores = evaluate(eval_step, state, held_out)
                    log.write(step, **{f"validation_{name}": value for name, value in scores.items()})
                    meter.restart()
                if step % plan.save_every == 0 or last:
                    checkpoints.save(step, state, {"records": step * plan.batch_size, "identity": identity})

    if first == plan.steps:  # the run was complete already: nothing above has scored it
        scores = evaluate(eval_step, state, held_out)
    directory.write_json("validation.json", scores)
    provenance = make_provenance(
        ["dnabert2", "pretrain"],
        run_config=run_to_dict(run),
        parents=identity,
        metrics=scores,
    )
    model = SavedModel(
        kind="masked_lm",
        config=config,
        params=gather(state.trainable),
        tokenizer=tokenizer,
        provenance=provenance,
    )
    if not is_first():
        return model
    saved = save_model(directory.model, model)
    report_pretraining(directory.path, corpus)
    return saved


def evaluate(eval_step: Any, state: TrainState, batches: list[Any]) -> dict[str, float]:
    """Loss (nats a masked token), perplexity and masked accuracy over some batches."""
    total = jax.tree.map(lambda *x: sum(float(v) for v in x), *(eval_step(state.trainable, {}, batch) for batch in batches))
    return summarise(total)


def summarise(total: Sums) -> dict[str, float]:
    """Sums over predictions as means: loss, perplexity, masked accuracy."""
    loss = float(total.loss) / float(total.weight)
    # Perplexity of a diverged run overflows; infinity says so.
    return {
        "loss": loss,
        "perplexity": math.exp(loss) if loss < 700 else math.inf,
        "masked_accuracy": float(total.correct) / float(total.weight),
    }


class _Meter:
    """Means and speed since the last reading. Device scalars are only fetched then, so that steps are not waited for."""

    def __init__(self) -> None:
        self.figures = ""
        self._pending: list[Any] = []
        self._tokens = 0
        self.restart()

    def restart(self) -> None:
        """Begin the interval anew: time spent in an evaluation is not training time."""
        self._tokens_before, self._began = self._tokens, time.monotonic()

    def add(self, metrics: Any, real_tokens: int) -> None:
        """Take note of one step."""
        self._pending.append(metrics)
        self._tokens += real_tokens

    def read(self) -> dict[str, float]:
        """The interval's means; the loss, its accuracy and perplexity, gradient norm, and real tokens a second.

        Raises:
            UserError: the loss or the gradient is not a number.
        """
        metrics = jax.device_get(self._pending)
        self._pending = []
        values = summarise(jax.tree.map(lambda *x: sum(map(float, x)), *(m.sums for m in metrics)))
        values["gradient_norm"] = float(np.mean([m.gradient_norm for m in metrics]))
        if not math.isfinite(values["loss"] + values["gradient_norm"]):
            raise UserError(
                f"the loss is {values['loss']} and the gradient's norm {values['gradient_norm']}: training diverged; lower "
                "optimizer.learning_rate or raise optimizer.warmup_steps and start in another --workdir (the last "
                "checkpoints are kept)"
            )
        values["tokens_per_second"] = (self._tokens - self._tokens_before) / (time.monotonic() - self._began)
        self.figures = (
            f"loss {values['loss']:.3f}  masked accuracy {values['masked_accuracy']:.3f}  "
            f"{values['tokens_per_second']:,.0f} tokens/s"
        )
        self.restart()
        return values
