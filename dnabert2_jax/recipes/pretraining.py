"""Masked language modelling from a corpus to a model directory; a run that was killed goes on where its checkpoint is."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from numpy.typing import NDArray

from dnabert2_jax.artifacts.model import SavedModel, save_model
from dnabert2_jax.artifacts.provenance import make_provenance
from dnabert2_jax.artifacts.tensors import tree_sha256
from dnabert2_jax.config.loading import run_to_dict
from dnabert2_jax.config.model import EncoderConfig
from dnabert2_jax.config.runs import PretrainRun
from dnabert2_jax.data.pretraining import PretrainingRows, training_batches, validation_batches, validation_species
from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.corpus import Corpus
from dnabert2_jax.modeling.compute import training_compute
from dnabert2_jax.modeling.flops import training_flops_per_token
from dnabert2_jax.modeling.models import MaskedLM, Network, count_parameters, masked_lm
from dnabert2_jax.parallel.layout import Layout, make_layout
from dnabert2_jax.parallel.mesh import make_mesh
from dnabert2_jax.parallel.processes import gather, is_first
from dnabert2_jax.platform import peak_flops
from dnabert2_jax.progress import ProgressBar, remark
from dnabert2_jax.recipes.start import starting_point
from dnabert2_jax.reports import report_pretraining
from dnabert2_jax.reports.run import save_arrays
from dnabert2_jax.tokenizer.base import Tokenizer
from dnabert2_jax.training.checkpoint import Checkpoints
from dnabert2_jax.training.meter import Meter, Profile, summarise
from dnabert2_jax.training.objectives import mlm_loss, mlm_loss_by_species
from dnabert2_jax.training.optimizer import learning_rate_schedule, make_optimizer
from dnabert2_jax.training.signals import Stopped, StopRequests
from dnabert2_jax.training.step import TrainState, init_state, make_eval_step, make_train_step
from dnabert2_jax.training.workdir import MetricsLog, Workdir, open_workdir


@dataclass(frozen=True)
class _Job:
    """A pretraining run with its inputs read and its devices laid out.

    Attributes:
        run: what to do.
        config: sizes of the encoder.
        tokenizer: the base's, or the run's own.
        base: the model to start from; None: random weights.
        network: the model.
        layout: how devices share parameters and rows.
        here: which of a batch's rows this process reads.
        corpus: the genomes.
        rows: the rows to learn from.
        held_out: batches to evaluate on, each with its rows' species numbers, on the devices.
        held_out_rows: rows of all of them.
        identity: hashes of everything that the result depends on beside the settings.
    """

    run: PretrainRun
    config: EncoderConfig
    tokenizer: Tokenizer
    base: SavedModel | None
    network: Network[MaskedLM]
    layout: Layout
    here: NDArray[np.int64]
    corpus: Corpus
    rows: PretrainingRows
    held_out: list[Any]
    held_out_rows: int
    identity: dict[str, str]

    @property
    def species(self) -> list[str]:
        """Names of the corpus's species."""
        return [species.name for species in self.corpus.species]

    def batch(self, batch: Any) -> Any:
        """This process's rows of a batch, as part of the whole one on the devices."""
        return self.layout.batch(batch, self.run.training.batch_size)

    def summary(self) -> str:
        """One line about the model, the rows and the devices, for people."""
        data, windows, mesh = self.run.data, self.rows.windows, self.layout.mesh
        return (
            f"{count_parameters(self.network.abstract()):,} parameters; {len(self.species)} species, windows of "
            f"{windows.window_bases:,} bases for rows of {data.tokens_per_row} tokens; "
            f"{self.held_out_rows:,} held-out rows; mesh of "
            + " x ".join(f"{size} ({axis})" for axis, size in mesh.shape.items())
            + f" on {mesh.size} of {jax.device_count()} devices"
        )

    def meter(self) -> Meter:
        """What measures speed, and the share of the devices' peak."""
        tokens, devices = self.run.data.tokens_per_row, self.layout.mesh.devices
        peak = peak_flops(devices.flat[0].device_kind)
        cost = training_flops_per_token(self.config, tokens, self.rows.masking.slots(tokens))
        return Meter(cost, None if peak is None else peak * devices.size)


def pretrain(run: PretrainRun, workdir: Path) -> SavedModel:
    """Train, evaluate and save.

    Everything random is a function of the seed and the global record index, and the checkpoint holds the number of steps:
    a run that was killed and started again ends with the same parameters, bit for bit, on the same machine.

    Args:
        run: what to do.
        workdir: gets ``run.json``, ``metrics.jsonl``, ``tensorboard/``, ``checkpoints/`` and at the end ``model/`` and
            ``report.html``.

    Returns:
        The model as process 0 saves it in ``workdir/model``.

    Raises:
        UserError: a path, a setting or the directory cannot be used; the loss stopped being a number.
        Stopped: SIGTERM or Ctrl-C asked for it; what was done is saved.
    """
    job = _prepare(run)
    directory = open_workdir(workdir, run_to_dict(run))
    remark(job.summary())
    state, scores = _train(job, directory)
    return _save(job, directory, state, scores)


def _prepare(run: PretrainRun) -> _Job:
    """Read what the run names, and lay out the devices.

    Raises:
        UserError: a path or a setting cannot be used.
    """
    plan = run.training
    config, tokenizer, base = starting_point(run.model)
    if base is not None and base.kind != "masked_lm":
        raise UserError(f"{run.model.path} is a {base.kind}; pretraining goes on from a masked_lm model directory")
    compute = training_compute(run.model)
    corpus = Corpus.open(run.data.corpus)

    network = masked_lm(config, compute)
    layout = make_layout(run.mesh, make_mesh(run.mesh), network.abstract(), network.axes(), config, compute.precision)
    layout.check_batch(plan.batch_size, plan.accumulate)
    here = layout.rows_here(plan.batch_size)
    train_rows = PretrainingRows(
        corpus,
        tokenizer,
        tokens_per_row=run.data.tokens_per_row,
        masking=run.masking,
        seed=run.seed,
        reverse_complement=run.data.reverse_complement,
    )
    validation_rows = train_rows.of_split("validation")
    evaluation = validation_rows, plan.batch_size, run.data.validation_rows, here
    held_out = [
        layout.batch(batch, plan.batch_size)
        for batch in zip(validation_batches(*evaluation), validation_species(*evaluation), strict=True)
    ]
    base_hash = tree_sha256(base.params["encoder"]) if base else "random weights"
    identity = {"corpus": corpus.hash, "tokenizer": tokenizer.sha256, "base": base_hash}
    held_out_rows = min(run.data.validation_rows, validation_rows.windows.epoch_size)
    return _Job(run, config, tokenizer, base, network, layout, here, corpus, train_rows, held_out, held_out_rows, identity)


def _train(job: _Job, directory: Workdir) -> tuple[TrainState, dict[str, Any]]:
    """All steps from the last checkpoint on; the state after them, and its scores on the held-out rows.

    Raises:
        UserError: the inputs are others than those of the checkpoint; the loss stopped being a number.
        Stopped: it was asked for, and what was done is saved.
    """
    run, plan, layout = job.run, job.run.training, job.layout
    optimizer = make_optimizer(run.optimizer, plan.steps)
    train_step = make_train_step(mlm_loss(job.network), optimizer, accumulate=plan.accumulate, layout=layout)
    eval_step = make_eval_step(mlm_loss_by_species(job.network, len(job.species)), layout)
    schedule, meter = learning_rate_schedule(run.optimizer, plan.steps), job.meter()
    params = layout.init(job.network.init, run.seed) if job.base is None else layout.place(job.base.params)
    state = init_state(params, optimizer, layout)
    scores: dict[str, Any] | None = None

    with (
        StopRequests() as stop_requests,
        Checkpoints(directory.checkpoints, keep_last=plan.keep_checkpoints, keep_every=plan.keep_every) as checkpoints,
    ):
        state = _go_on(job, directory, checkpoints, state)
        first = int(state.step)
        with (
            MetricsLog(directory, first) as log,
            ProgressBar("pretraining", plan.steps, first) as bar,
            Profile(directory.path / "profile", first, plan.profile_steps) as profile,
        ):
            batches = training_batches(job.rows, plan.batch_size, first, plan.steps, job.here)
            meter.restart()
            for step in range(first + 1, plan.steps + 1):
                asked = time.monotonic()
                batch = next(batches)
                waited = time.monotonic() - asked
                tokens = int(np.count_nonzero(batch.tokens.segment_ids)) * plan.batch_size // len(job.here)
                state, metrics = train_step(state, {}, job.batch(batch))
                meter.add(step, metrics, tokens, waited)
                profile.after(step, metrics)
                bar.advance(figures=meter.figures)
                last, stopping = step == plan.steps, stop_requests.after(step)
                if step % plan.log_every == 0 or last or stopping:
                    log.write(step, **meter.read(), learning_rate=float(schedule(_updates(state) - 1)))
                    bar.advance(0, figures=meter.figures)
                if meter.skipped_in_a_row >= plan.skipped_in_a_row:
                    raise _diverged(directory, job.rows, plan.batch_size, meter)
                if step % plan.evaluate_every == 0 or last:
                    scores = evaluate(eval_step, state, job.held_out, job.species)
                    log.write(step, **{f"validation_{name}": value for name, value in scores.items()})
                    meter.restart()
                if step % plan.save_every == 0 or last or stopping:
                    checkpoints.save(step, state, {"records": step * plan.batch_size, "identity": job.identity})
                if stopping and not last:
                    checkpoints.wait()
                    remark(f"stopped as asked, saved after step {step} of {plan.steps}; the same command goes on from there")
                    raise Stopped(step)
    # A run that was complete already has not been scored by any step above.
    return state, scores or evaluate(eval_step, state, job.held_out, job.species)


def _go_on(job: _Job, directory: Workdir, checkpoints: Checkpoints, state: TrainState) -> TrainState:
    """The state of the last checkpoint that can be read, or the one given where there is none.

    Raises:
        UserError: the inputs are others than those of the checkpoint.
    """
    restored = checkpoints.restore_latest(state)
    if restored is None:
        return state
    before = restored.meta["identity"]
    if changed := [name for name, now in job.identity.items() if before.get(name) != now]:
        raise UserError(f"{directory.path}: {', '.join(changed)} changed since this run began; use another --workdir")
    remark(f"going on from step {restored.step} of {job.run.training.steps}")
    return restored.state


def _save(job: _Job, directory: Workdir, state: TrainState, scores: dict[str, Any]) -> SavedModel:
    """The model directory and the report, written by process 0."""
    directory.write_json("validation.json", scores)
    provenance = make_provenance(
        ["dnabert2", "pretrain"], run_config=run_to_dict(job.run), parents=job.identity, metrics=scores
    )
    model = SavedModel(
        kind="masked_lm",
        config=job.config,
        params=gather(state.trainable),
        tokenizer=job.tokenizer,
        provenance=provenance,
    )
    if not is_first():
        return model
    saved = save_model(directory.model, model)
    report_pretraining(directory.path, job.corpus)
    return saved


def evaluate(eval_step: Any, state: TrainState, batches: list[Any], species: list[str]) -> dict[str, Any]:
    """Scores on some batches of rows and their species numbers.

    Returns:
        ``loss`` (nats a masked token), ``perplexity``, ``masked_accuracy``, and ``loss_by_species`` of the species that have
        rows there.
    """
    sums = jax.device_get([eval_step(state.trainable, {}, batch) for batch in batches])
    by_species = jax.tree.map(lambda *x: np.sum(x, axis=0, dtype=np.float64), *sums)
    losses = {
        name: float(loss / weight)
        for name, loss, weight in zip(species, by_species.loss, by_species.weight, strict=True)
        if weight
    }
    return {**summarise(jax.tree.map(np.sum, by_species)), "loss_by_species": losses}


def _updates(state: TrainState) -> int:
    """Steps that were not skipped, as the optimizer counts them."""
    return int(optax.tree.get_all_with_path(state.optimizer, "count")[0][1])


def _diverged(directory: Workdir, rows: PretrainingRows, batch_size: int, meter: Meter) -> UserError:
    """Keep the last batch that gave no finite step, and say what happened."""
    step = meter.last_skipped
    records = np.arange((step - 1) * batch_size, step * batch_size)
    file = directory.path / f"skipped_batch_{step}.npz"
    if is_first():
        batch = rows.batch(records)
        save_arrays(
            file, records=records, **batch.tokens._asdict(), **{k: v for k, v in batch._asdict().items() if k != "tokens"}
        )
    return UserError(
        f"loss or gradient were not finite in {meter.skipped_in_a_row} steps in a row, up to step {step}: training diverged;"
        " lower optimizer.learning_rate or raise optimizer.warmup_steps and start in another --workdir (the last "
        f"checkpoints are kept, and the batch of step {step} is in {file})"
    )
