"""Masked language modeling from a corpus to a model directory; a run that was killed resumes from its last checkpoint."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.artifacts.model import SavedModel, save_model
from dnabert2_jax.artifacts.provenance import make_provenance
from dnabert2_jax.artifacts.tensors import tree_sha256
from dnabert2_jax.config.loading import run_to_dict
from dnabert2_jax.config.model import EncoderConfig
from dnabert2_jax.config.runs import PretrainRun
from dnabert2_jax.convert.opening import files_read
from dnabert2_jax.data.pretraining import PretrainingRows, training_batches, unigram_entropy, validation_batches
from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.corpus import Corpus
from dnabert2_jax.modeling.compute import training_compute
from dnabert2_jax.modeling.flops import training_flops_per_token
from dnabert2_jax.modeling.models import MaskedLM, Network, count_parameters, masked_lm
from dnabert2_jax.parallel.feeding import SentBatch
from dnabert2_jax.parallel.layout import Layout, make_layout
from dnabert2_jax.parallel.mesh import make_mesh
from dnabert2_jax.parallel.processes import gather, is_first, on_first
from dnabert2_jax.platform import peak_flops
from dnabert2_jax.progress import ProgressBar, remark
from dnabert2_jax.recipes.base_model import load_base
from dnabert2_jax.reports import report_pretraining
from dnabert2_jax.reports.run import pretraining_notes, save_arrays
from dnabert2_jax.storage.paths import StrPath, absolute, as_path
from dnabert2_jax.tokenizer.base import Tokenizer
from dnabert2_jax.training.checkpoint import Checkpoints
from dnabert2_jax.training.goodput import Ledger
from dnabert2_jax.training.loop import LogMetrics, SaveCheckpoints, StepEvent, every, resume, run_steps, updates
from dnabert2_jax.training.memory import check_memory
from dnabert2_jax.training.meter import Meter
from dnabert2_jax.training.objectives import masked_lm_means, mlm_loss, mlm_loss_by_species
from dnabert2_jax.training.optimizer import learning_rate_schedule, make_optimizer, warn_of_long_warmup
from dnabert2_jax.training.profile import Profile
from dnabert2_jax.training.signals import StopRequests
from dnabert2_jax.training.step import StepMetrics, TrainState, init_state, make_eval_step, make_train_step
from dnabert2_jax.training.watchdog import Watchdog
from dnabert2_jax.training.workdir import MetricsLog, Workdir, open_workdir
from dnabert2_jax.types import MlmBatch, TokenBatch


class _Batch(NamedTuple):
    """A training batch: this process's rows, for the meter to count their tokens, and all rows on the devices."""

    tokens: TokenBatch
    sent: SentBatch


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
        rows: the training rows.
        held_out: batches to evaluate on, each with its rows' species numbers, on the devices.
        held_out_rows: rows of all of them.
        identity: hashes of everything that the result depends on besides the settings.
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
        """Names of the species in the corpus."""
        return [species.name for species in self.corpus.species]

    def batches(self, first: int) -> Iterator[_Batch]:
        """The batches of the steps after ``first``: this process's own rows, sent to the devices ahead of time."""
        plan = self.run.training

        def send(batch: MlmBatch) -> _Batch:
            return _Batch(batch.tokens, self.layout.send(batch, plan.batch_size))

        return training_batches(self.rows, plan.batch_size, first, plan.steps, self.here, send)

    def summary(self) -> str:
        """One line about the model, the rows and the devices, for the terminal."""
        data, windows, mesh = self.run.data, self.rows.windows, self.layout.mesh
        return (
            f"{count_parameters(self.network.abstract()):,} parameters; {len(self.species)} species, windows of "
            f"{windows.window_bases:,} bases for rows of {data.tokens_per_row} tokens; "
            f"{self.held_out_rows:,} held-out rows; mesh of "
            + " x ".join(f"{size} ({axis})" for axis, size in mesh.shape.items())
            + f" on {mesh.size} of {jax.device_count()} devices"
        )

    def meter(self) -> Meter:
        """Measures throughput and model FLOPs utilization."""
        tokens, devices = self.run.data.tokens_per_row, self.layout.mesh.devices
        peak = peak_flops(devices.flat[0].device_kind)
        cost = training_flops_per_token(self.config, tokens, self.rows.masking.slots(tokens))
        return Meter(
            masked_lm_means,
            flops_per_token=cost,
            peak=None if peak is None else peak * devices.size,
            processes=self.run.training.batch_size // len(self.here),
        )


def _warn(reason: str) -> None:
    remark(f"warning: {reason}")


def pretrain(run: PretrainRun, workdir: StrPath, hung: Callable[[str], Any] = _warn) -> SavedModel:
    """Train, evaluate and save.

    Everything random is a function of the seed and the global record index, and the checkpoint holds the number of steps:
    a run that was killed and resumed ends with the same parameters, bit for bit, on the same machine.

    Args:
        run: what to do.
        workdir: gets ``run.json``, ``metrics.jsonl``, ``goodput.jsonl``, ``tensorboard/``, ``checkpoints/`` and at the end
            ``model/`` and ``report.html``.
        hung: called with the reason, from another thread, if there is no progress for too long; by default only warns.

    Returns:
        The model as process 0 has saved it in ``workdir/model``.

    Raises:
        UserError: a path, a setting or the directory cannot be used; training diverged.
        Stopped: SIGTERM or Ctrl-C asked for it; what was done is saved.
    """
    with Ledger() as ledger, Watchdog(as_path(workdir), run.training.hang_timeout, hung) as watchdog:
        job = _prepare(run)
        watchdog.reached("reading the inputs")
        directory = open_workdir(as_path(workdir), run_to_dict(run))
        watchdog.reached("opening the run's directory")
        remark(job.summary())
        warn_of_long_warmup(run.optimizer, run.training.steps)
        with StopRequests() as stop_requests:
            state, scores = _train(job, directory, ledger, watchdog, stop_requests)
            watchdog.reached("training")
            # Saving the model takes seconds: a run that is asked to stop meanwhile had better finish than start again.
            return _save(job, directory, state, scores, ledger)


def _prepare(run: PretrainRun) -> _Job:
    """Read what the run names, and lay out the devices.

    Raises:
        UserError: a path or a setting cannot be used.
    """
    plan = run.training
    config, tokenizer, base = load_base(run.model)
    if base is not None and base.kind != "masked_lm":
        raise UserError(f"{run.model.path} is a {base.kind}; pretraining starts from a masked_lm model directory")
    compute = training_compute(run.model)
    corpus = Corpus.open(run.data.corpus)

    network = masked_lm(config, compute)
    layout = make_layout(run.mesh, make_mesh(run.mesh), network.abstract(), network.axes(), config, compute.dtype.name)
    layout.check_batch(plan.batch_size, plan.accumulate, run.data.tokens_per_row)
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
    held_out = [
        layout.batch(batch, plan.batch_size)
        for batch in validation_batches(validation_rows, plan.batch_size, run.data.validation_rows, here)
    ]
    base_hash = tree_sha256(base.params["encoder"]) if base else "random weights"
    identity = {"corpus": corpus.hash, "tokenizer": tokenizer.sha256, "base": base_hash}
    held_out_rows = min(run.data.validation_rows, validation_rows.windows.epoch_size)
    return _Job(run, config, tokenizer, base, network, layout, here, corpus, train_rows, held_out, held_out_rows, identity)


def _train(
    job: _Job, directory: Workdir, ledger: Ledger, watchdog: Watchdog, stop_requests: StopRequests
) -> tuple[TrainState, dict[str, Any]]:
    """All steps since the last checkpoint; the state after them, and its scores on the held-out rows.

    Raises:
        UserError: the inputs differ from those of the checkpoint; training diverged.
        Stopped: it was asked for, and what was done is saved.
    """
    began = time.monotonic()
    run, plan, layout = job.run, job.run.training, job.layout
    optimizer, schedule = make_optimizer(run.optimizer, plan.steps), learning_rate_schedule(run.optimizer, plan.steps)
    take_step = make_train_step(mlm_loss(job.network), optimizer, layout, accumulate=plan.accumulate)
    eval_step = make_eval_step(mlm_loss_by_species(job.network, len(job.species)), layout)
    params = layout.init(job.network.init, run.seed) if job.base is None else layout.place(job.base.params)
    state = init_state(params, optimizer, layout)
    scores: dict[str, Any] = {}
    with Checkpoints(directory.checkpoints, keep_last=plan.keep_checkpoints, keep_every=plan.keep_every) as checkpoints:
        state, _ = resume(checkpoints, state, job.identity, workdir=directory.path, total=plan.steps)
        first = int(state.step)
        ledger.keep_in(directory.path, first)
        check_memory(take_step, state, {}, job.held_out[0][0], rows=plan.batch_size, accumulate=plan.accumulate)
        with (
            MetricsLog(directory, first) as log,
            ProgressBar("pretraining", plan.steps, first) as bar,
            Profile(directory.path / "profile", first, plan.profile_steps) as profile,
        ):
            metrics = LogMetrics(
                meter=job.meter(),
                ledger=ledger,
                log=log,
                bar=bar,
                due=every(plan.log_every),
                values=lambda event: {"learning_rate": float(schedule(updates(event.state) - 1))},
                skipped_in_a_row=min(plan.skipped_in_a_row, plan.steps),
                diverged=partial(_diverged, directory, job.rows, plan.batch_size),
                began=began,
            )

            def step_on_devices(state: TrainState, batch: _Batch) -> tuple[TrainState, StepMetrics]:
                return take_step(state, {}, batch.sent.arrays())

            def validate(event: StepEvent) -> None:
                if event.step % plan.evaluate_every == 0 or event.last:
                    with ledger.phase("evaluation", after=event.metrics):
                        scores.update(evaluate(eval_step, event.state, job.held_out, job.species))
                    metrics.evaluated(event.step, {f"validation_{name}": value for name, value in scores.items()})

            def notes_at(step: int) -> dict[str, Any]:
                return {"records": step * plan.batch_size, "identity": job.identity}

            state = run_steps(
                state,
                step_on_devices,
                watchdog.watch(job.batches(first)),
                total=plan.steps,
                stop_requests=stop_requests,
                callbacks=(
                    watchdog,
                    profile,
                    metrics,
                    validate,
                    SaveCheckpoints(
                        checkpoints=checkpoints, ledger=ledger, due=every(plan.save_every), meta=notes_at, log=log
                    ),
                ),
                ledger=ledger,
            )
            ledger.enter("saves")  # the last checkpoint may still be on its way
    # If the run was already complete, no step above has scored it.
    return state, scores or evaluate(eval_step, state, job.held_out, job.species)


def _save(job: _Job, directory: Workdir, state: TrainState, scores: dict[str, Any], ledger: Ledger) -> SavedModel:
    """The model directory and the report, written by process 0."""
    directory.write_json("validation.json", scores)
    parents = job.identity | (files_read(job.base) if job.base else {})
    provenance = make_provenance(["dnabert2", "pretrain"], run_config=run_to_dict(job.run), parents=parents, metrics=scores)
    model = SavedModel(
        kind="masked_lm",
        config=job.config,
        params=gather(state.trainable),
        tokenizer=job.tokenizer,
        provenance=provenance,
    )

    def save() -> None:
        save_model(directory.model, model)
        ledger.record(int(state.step))
        entropy = unigram_entropy(job.rows, job.tokenizer.vocab_size)
        report_pretraining(directory.path, job.corpus, entropy)
        for note in pretraining_notes(scores, entropy):
            remark(f"warning: {note}")

    on_first(save)
    return replace(model, path=absolute(directory.model))


def evaluate(eval_step: Any, state: TrainState, batches: list[Any], species: list[str]) -> dict[str, Any]:
    """Scores on some batches of rows and their species numbers.

    Returns:
        ``loss`` (nats per masked token), ``perplexity``, ``masked_accuracy``, and ``loss_by_species`` for the species that
        have rows there.
    """
    sums = jax.device_get([eval_step(state.trainable, {}, batch) for batch in batches])
    by_species = jax.tree.map(lambda *x: np.sum(x, axis=0, dtype=np.float64), *sums)
    losses = {
        name: float(loss / weight)
        for name, loss, weight in zip(species, by_species.loss, by_species.weight, strict=True)
        if weight
    }
    return {**masked_lm_means(jax.tree.map(np.sum, by_species)), "loss_by_species": losses}


def _diverged(directory: Workdir, rows: PretrainingRows, batch_size: int, steps: int, last: int) -> UserError:
    """Keep the last batch that gave no finite step, and say what happened."""
    records = np.arange((last - 1) * batch_size, last * batch_size)
    file = directory.path / f"skipped_batch_{last}.npz"
    if is_first():
        batch = rows.batch(records)
        save_arrays(
            file, records=records, **batch.tokens._asdict(), **{k: v for k, v in batch._asdict().items() if k != "tokens"}
        )
    return UserError(
        f"loss or gradient were not finite in {steps} steps in a row, up to step {last}: training diverged; lower "
        "optimizer.learning_rate or raise optimizer.warmup_steps, and start in another --workdir (the last checkpoints are "
        f"kept, and the batch of step {last} is in {file})"
    )
