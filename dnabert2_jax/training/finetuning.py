"""From three tables to a classifier, by full fine-tuning or a LoRA adapter; the best epoch by dev MCC is kept."""

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dnabert2_jax.config import EncoderConfig, LoraConfig
from dnabert2_jax.data.classification import EncodedTable, choose_lengths, encode_table, epoch_batches, evaluation_batches
from dnabert2_jax.data.tables import Table, load_splits
from dnabert2_jax.errors import UserError
from dnabert2_jax.evaluation.metrics import ClassificationMetrics, classification_metrics
from dnabert2_jax.evaluation.report import report_finetuning
from dnabert2_jax.hashing import file_sha256
from dnabert2_jax.inference.classify import make_predict, predict_rows
from dnabert2_jax.model_directory import (
    SavedAdapter,
    SavedModel,
    load_adapter,
    load_model,
    make_provenance,
    save_adapter,
    save_model,
    tree_sha256,
)
from dnabert2_jax.modeling.lora import init_adapter, merge_adapter
from dnabert2_jax.modeling.models import count_parameters, sequence_classifier
from dnabert2_jax.progress import ProgressBar, remark
from dnabert2_jax.runs import Epochs, FinetuneRun, run_to_dict
from dnabert2_jax.tokenizer.bpe import Tokenizer
from dnabert2_jax.training.checkpoint import Checkpoints
from dnabert2_jax.training.objectives import classification_loss
from dnabert2_jax.training.optimizer import make_optimizer
from dnabert2_jax.training.start import resolve_compute, starting_point
from dnabert2_jax.training.step import StepMetrics, init_state, make_train_step
from dnabert2_jax.training.workdir import MetricsLog, Workdir
from dnabert2_jax.types import ClassificationBatch, Tree


@dataclass(frozen=True)
class Finetuned:
    """What a fine-tuning run came to.

    Attributes:
        model: the classifier directory (an adapter is merged into it).
        adapter: the adapter directory, or None after full fine-tuning.
        test: scores on the test table.
        dev: scores on the dev table at the evaluation that was kept.
        best_step: the step that was kept.
        trained_parameters: scalars that learned.
        seconds: of this call's training, evaluations included.
    """

    model: Path
    adapter: Path | None
    test: ClassificationMetrics
    dev: ClassificationMetrics
    best_step: int
    trained_parameters: int
    seconds: float


def finetune(run: FinetuneRun, workdir: Path) -> Finetuned:
    """Train on one table, choose by a second, score on a third, and save.

    A run that was killed and started again goes on from its last evaluation and ends with the same parameters, bit for
    bit, on the same machine.

    Args:
        run: what to do.
        workdir: gets ``run.json``, ``metrics.jsonl``, ``checkpoints/``, ``model/`` (and ``adapter/``), ``scores.json``
            and ``report.html`` with what it shows.

    Raises:
        UserError: a path, a table, a setting or the directory cannot be used; the loss stopped being a number.
    """
    began = time.monotonic()
    plan = run.training
    config, tokenizer, base = starting_point(run.model)
    compute = resolve_compute(run.model.precision, run.model.attention, remat=run.model.remat, unroll=run.model.unroll)
    splits = load_splits(run.data.train, run.data.dev, run.data.test)
    directory = Workdir(workdir, run_to_dict(run))
    train, dev, test = (
        _encode(name, table, tokenizer, splits.labels, run.data.max_tokens)
        for name, table in (("train", splits.train), ("dev", splits.dev), ("test", splits.test))
    )
    lengths = choose_lengths(np.concatenate([t.lengths for t in (train, dev, test)]), plan.padded_lengths)
    dev_batches, test_batches = (evaluation_batches(t, plan.batch_size, lengths) for t in (dev, test))

    lora = run.lora if plan.method == "lora" else None
    network = sequence_classifier(config, len(splits.labels), compute)
    trainable, frozen = _split_parameters(network.init(run.seed), base, config, lora, run.seed)
    steps_per_epoch = math.ceil(len(train) / plan.batch_size)
    total_steps = plan.epochs * steps_per_epoch

    optimizer = make_optimizer(run.optimizer, total_steps)
    train_step = make_train_step(classification_loss(network, lora), optimizer, accumulate=plan.accumulate)
    predict = make_predict(network, lora)
    schedule = run.optimizer.schedule(total_steps)
    state = init_state(trainable, optimizer)
    padding = epoch_batches(train, plan.batch_size, run.seed, 0, lengths).padding_share
    remark(
        f"{count_parameters(trainable):,} of {count_parameters(trainable) + count_parameters(frozen):,} parameters learn; "
        f"{len(splits.labels)} classes; rows padded to {' or '.join(map(str, lengths))} tokens ({padding:.0%} padding)"
    )

    saver = _Saver(run, directory, base, config, tokenizer, splits.labels.names, lora, frozen)
    with Checkpoints(directory.checkpoints, keep_last=plan.keep_checkpoints) as checkpoints:
        best = _Best(mcc=-2.0, step=0, waited=0)
        restored = checkpoints.restore_latest(state)
        if restored is not None:
            before = restored.meta["identity"]
            if changed := [name for name, now in saver.identity.items() if before.get(name) != now]:
                raise UserError(f"{workdir}: {', '.join(changed)} changed since this run began; use another --workdir")
            state, best = restored.state, _Best(**restored.meta["best"])
            remark(f"going on from step {restored.step} of {total_steps}")
        step = int(state.step)
        batches = _training_batches(train, plan, run.seed, lengths, step)
        with MetricsLog(directory, step) as log, ProgressBar("fine-tuning", total_steps, step) as bar:
            for stop in (s for s in _evaluation_steps(plan, steps_per_epoch) if s > step):
                if best.waited >= plan.patience:
                    remark(f"stopped at step {step}: no better dev MCC in {plan.patience} evaluations")
                    break
                measured: list[StepMetrics] = []
                for batch in islice(batches, stop - step):
                    state, metrics = train_step(state, frozen, batch)
                    measured.append(metrics)
                    bar.advance()
                step = stop
                rate = float(schedule(step - 1))
                log.write(step, epoch=step / steps_per_epoch, **_means(measured), learning_rate=rate)
                probabilities = predict_rows(predict, {**state.trainable, **frozen}, dev_batches)
                scores = classification_metrics(dev.labels, probabilities, splits.labels.names)
                log.write(step, dev_mcc=scores["mcc"], dev_macro_f1=scores["macro_f1"], dev_accuracy=scores["accuracy"])
                bar.advance(0, f"dev MCC {scores['mcc']:.3f} (best {max(best.mcc, scores['mcc']):.3f})")
                if scores["mcc"] > best.mcc:
                    best = _Best(scores["mcc"], step, 0)
                    saver.save(state.trainable, {"dev": scores, "step": step})
                else:
                    best = replace(best, waited=best.waited + 1)
                checkpoints.save(step, state, {"best": asdict(best), "identity": saver.identity})

    params, kept = saver.load()
    probabilities = predict_rows(predict, jax.device_put(params), test_batches)
    test_scores = classification_metrics(test.labels, probabilities, splits.labels.names)
    saver.finish(test_scores)
    result = Finetuned(
        model=directory.model,
        adapter=saver.adapter_path,
        test=test_scores,
        dev=kept["dev"],
        best_step=kept["step"],
        trained_parameters=count_parameters(trainable),
        seconds=time.monotonic() - began,
    )
    directory.write_json("scores.json", {**asdict(result), "model": str(result.model), "adapter": str(result.adapter or "")})
    report_finetuning(directory.path, splits, {"train": train, "dev": dev, "test": test}, probabilities)
    return result


@dataclass(frozen=True)
class _Best:
    """The evaluation to keep so far, and how many have passed since."""

    mcc: float
    step: int
    waited: int


def _evaluation_steps(plan: Epochs, steps_per_epoch: int) -> list[int]:
    """The steps after which the dev table is scored, evenly over each epoch; the last one ends the run."""
    evaluations = plan.epochs * plan.evaluations_per_epoch
    return sorted({max(1, round(steps_per_epoch * n / plan.evaluations_per_epoch)) for n in range(1, evaluations + 1)})


def _training_batches(
    train: EncodedTable, plan: Epochs, seed: int, lengths: tuple[int, ...], first_step: int
) -> Iterator[ClassificationBatch]:
    """The batches of the steps from ``first_step`` on, epoch after epoch."""
    first_epoch, done = divmod(first_step, math.ceil(len(train) / plan.batch_size))
    for epoch in range(first_epoch, plan.epochs):
        yield from epoch_batches(train, plan.batch_size, seed, epoch, lengths)[done:]
        done = 0


def _encode(name: str, table: Table, tokenizer: Tokenizer, labels: Any, max_tokens: int) -> EncodedTable:
    encoded = encode_table(table, tokenizer, labels, max_tokens)
    changed = [f"{table.letters.lower_case:,} lower-case letters upper-cased"] if table.letters.lower_case else []
    if ambiguous := sum(table.letters.ambiguous.values()):
        changed.append(f"{ambiguous:,} ambiguity codes read as [UNK]")
    remark("; ".join([f"{name} {table.path}: {encoded.summary()}", *changed]))
    return encoded


def _split_parameters(
    fresh: Tree, base: SavedModel | None, config: EncoderConfig, lora: LoraConfig | None, seed: int
) -> tuple[Tree, Tree]:
    """(trainable, frozen): the base's encoder with fresh heads; with LoRA the encoder is frozen and an adapter learns."""
    encoder = fresh["encoder"] if base is None else jax.device_put(base.params["encoder"])
    heads = {"pooler": fresh["pooler"], "classifier": fresh["classifier"]}
    if lora is None:
        return {"encoder": encoder, **heads}, {}
    return {"adapter": init_adapter(config, lora, seed + 1), **heads}, {"encoder": encoder}


def _means(measured: list[StepMetrics]) -> dict[str, float]:
    metrics = jax.device_get(measured)
    weight = sum(float(m.sums.weight) for m in metrics)
    loss = sum(float(m.sums.loss) for m in metrics) / weight
    gradient_norm = float(np.mean([m.gradient_norm for m in metrics]))
    if not math.isfinite(loss + gradient_norm):
        raise UserError(
            f"the training loss is {loss} and the gradient's norm {gradient_norm}: training diverged; lower "
            "optimizer.learning_rate and use another --workdir"
        )
    accuracy = sum(float(m.sums.correct) for m in metrics) / weight
    return {"loss": loss, "accuracy": accuracy, "gradient_norm": gradient_norm}


class _Saver:
    """Writes and reads the best parameters: a model directory, or an adapter directory and at the end its merged model."""

    def __init__(
        self,
        run: FinetuneRun,
        directory: Workdir,
        base: SavedModel | None,
        config: EncoderConfig,
        tokenizer: Tokenizer,
        labels: tuple[str, ...],
        lora: LoraConfig | None,
        frozen: Tree,
    ) -> None:
        self._run, self._directory, self._base = run, directory, base
        self._config, self._tokenizer, self._labels, self._lora = config, tokenizer, labels, lora
        self._frozen = frozen
        self.adapter_path = directory.path / "adapter" if lora else None
        self.identity = {
            "tokenizer": tokenizer.sha256,
            "base": tree_sha256(base.params["encoder"]) if base else "random weights",
            **{split: file_sha256(getattr(run.data, split)) for split in ("train", "dev", "test")},
        }

    def save(self, trainable: Tree, metrics: dict[str, Any]) -> None:
        """Keep these parameters instead of the ones before."""
        params = jax.device_get(trainable)
        provenance = make_provenance(
            ["dnabert2", "finetune"], run_config=run_to_dict(self._run), parents=self.identity, metrics=metrics
        )
        if self._lora and self._base and self.adapter_path:
            adapter = SavedAdapter(
                base=self._base, params=params, lora=self._lora, labels=self._labels, provenance=provenance
            )
            save_adapter(self.adapter_path, adapter)
        else:
            self._save_model(params, provenance)

    def load(self) -> tuple[Tree, dict[str, Any]]:
        """The parameters that were kept, whole, and the metrics they were kept for."""
        if self.adapter_path:
            adapter = load_adapter(self.adapter_path, self._base)
            return {**adapter.params, **self._frozen}, adapter.provenance["metrics"]
        model = load_model(self._directory.model)
        return model.params, model.provenance["metrics"]

    def finish(self, test: ClassificationMetrics) -> None:
        """Write the model with its test scores; an adapter is merged into its base."""
        if self.adapter_path and self._lora:
            adapter = load_adapter(self.adapter_path, self._base)
            params = {name: part for name, part in adapter.params.items() if name != "adapter"}
            encoder = merge_adapter(self._frozen["encoder"], jax.device_put(adapter.params["adapter"]), self._lora)
            provenance = adapter.provenance
            params["encoder"] = jax.device_get(encoder)
        else:
            model = load_model(self._directory.model)
            params, provenance = model.params, model.provenance
        self._save_model(params, {**provenance, "metrics": {**provenance["metrics"], "test": test}})

    def _save_model(self, params: Tree, provenance: dict[str, Any]) -> None:
        model = SavedModel(
            kind="classifier",
            config=self._config,
            params=params,
            tokenizer=self._tokenizer,
            labels=self._labels,
            provenance=provenance,
        )
        save_model(self._directory.model, model)
