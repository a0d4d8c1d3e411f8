"""What every method of fine-tuning starts from: rows as token ids, a tokenizer, an encoder and a directory."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.artifacts.model import ModelKind, SavedModel, classifier_kind
from dnabert2_jax.artifacts.provenance import make_provenance
from dnabert2_jax.artifacts.tensors import tree_sha256
from dnabert2_jax.config.loading import Finetuning, run_to_dict
from dnabert2_jax.config.model import EncoderConfig, HeadConfig, LoraConfig
from dnabert2_jax.config.runs import FinetuneRun
from dnabert2_jax.convert.opening import files_read
from dnabert2_jax.data.by_length import LabeledRows, choose_lengths
from dnabert2_jax.data.encoding import EncodedTable, encode_table
from dnabert2_jax.data.labels import SEPARATOR, Labels, Target
from dnabert2_jax.data.sequences import Table, other_strand
from dnabert2_jax.data.splits import SPLITS, Splits, load_splits
from dnabert2_jax.errors import UserError
from dnabert2_jax.metrics.scores import Scores
from dnabert2_jax.metrics.tasks import TASK_METRICS, TaskMetrics
from dnabert2_jax.modeling.compute import Compute, training_compute
from dnabert2_jax.progress import remark
from dnabert2_jax.recipes.base_model import load_base
from dnabert2_jax.storage.copies import local_copy
from dnabert2_jax.storage.hashes import file_sha256
from dnabert2_jax.tokenizer.base import Tokenizer
from dnabert2_jax.tokenizer.bpe import BpeTokenizer
from dnabert2_jax.tokenizer.dropout import BpeDropout
from dnabert2_jax.training.workdir import Workdir


@dataclass(frozen=True)
class FinetuningJob(ABC):
    """A fine-tuning run with its inputs read.

    Attributes:
        run: what to do.
        directory: the run's directory.
        config: sizes of the encoder.
        tokenizer: the base's, or the run's own.
        base: the model to start from; None: random weights.
        compute: precision and attention backend.
        head: how the classifier reads a row.
        train: the training rows.
        reverse: the same rows from the other strand, if the run reads both.
        dev: the rows that choose the evaluation to keep.
        test: the rows that are reported on.
    """

    run: Finetuning
    directory: Workdir
    config: EncoderConfig
    tokenizer: Tokenizer
    base: SavedModel | None
    compute: Compute
    head: HeadConfig
    train: LabeledRows
    reverse: LabeledRows | None
    dev: LabeledRows
    test: LabeledRows

    @property
    @abstractmethod
    def labels(self) -> Target:
        """What is to be predicted."""

    @property
    @abstractmethod
    def inputs(self) -> dict[str, Path]:
        """The files that the rows come from, by what they are."""

    @property
    @abstractmethod
    def training_data(self) -> dict[str, Any] | None:
        """Facts about the training rows, to compare later inputs with; None if nothing is compared."""

    @property
    def kind(self) -> ModelKind:
        """The kind of model that is trained."""
        return classifier_kind(self.head)

    @property
    def metrics(self) -> TaskMetrics:
        """How predictions are scored."""
        return TASK_METRICS[self.run.data.task]

    def scores(self, rows: LabeledRows, outputs: NDArray[np.floating]) -> Scores:
        """Scores of outputs [rows, C] against the labels of rows."""
        return self.metrics.compute(rows.labels, outputs, self.labels.names, self.head)

    @property
    def selection(self) -> str:
        """The score on the dev table that selects the evaluation to keep: ``loss``, or the main one of the task."""
        return selected_score(self.run)

    @property
    def lora(self) -> LoraConfig | None:
        """Settings of the adapter, if one is trained."""
        return self.run.lora if self.run.training.method == "lora" else None

    @property
    def class_bias(self) -> NDArray[np.float32] | None:
        """The classifier's bias at the start, [C]; None: zeros, as in the original."""
        return None

    @cached_property
    def epochs(self) -> Sequence[LabeledRows]:
        """The training rows as each epoch reads them."""
        run = self.run
        steps_per_epoch = math.ceil(len(self.train) / run.training.batch_size)
        return [self.epoch(epoch) for epoch in range(math.ceil(run.training.steps(steps_per_epoch) / steps_per_epoch))]

    @abstractmethod
    def epoch(self, epoch: int) -> LabeledRows:
        """The training rows as one epoch reads them: on either strand, if the run asks for it."""

    @property
    def measured(self) -> Sequence[LabeledRows]:
        """All rows that must fit into a batch."""
        return [self.train, self.dev, self.test, *([self.reverse] if self.reverse else [])]

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """What rows are padded to, see :func:`~dnabert2_jax.data.by_length.choose_lengths`."""
        lengths = np.concatenate([rows.lengths for rows in self.measured])
        return choose_lengths(lengths, self.run.training.padded_lengths)

    @cached_property
    def identity(self) -> dict[str, str]:
        """Hashes of everything that the result depends on besides the settings."""
        return {
            "tokenizer": self.tokenizer.sha256,
            "base": tree_sha256(self.base.params["encoder"]) if self.base else "random weights",
            **{name: file_sha256(local_copy(path)) for name, path in self.inputs.items()},
        }

    def provenance(self, metrics: dict[str, Any]) -> dict[str, Any]:
        """How this run's model was made, for its directory."""
        return make_provenance(
            ["dnabert2", "finetune"],
            run_config=run_to_dict(self.run),
            parents=self.identity | (files_read(self.base) if self.base else {}),
            metrics=metrics,
            training_data=self.training_data,
        )


@dataclass(frozen=True)
class TablesJob(FinetuningJob):
    """A run on three tables.

    Attributes:
        run: what to do.
        splits: the tables.
        train, reverse, dev, test: the same as token ids.
    """

    run: FinetuneRun
    splits: Splits
    train: EncodedTable
    reverse: EncodedTable | None
    dev: EncodedTable
    test: EncodedTable

    @property
    def labels(self) -> Labels:
        """What the label columns stand for."""
        return self.splits.labels

    @property
    def inputs(self) -> dict[str, Path]:
        """The three tables."""
        return {split: getattr(self.run.data, split) for split in SPLITS}

    @property
    def training_data(self) -> dict[str, Any]:
        """Bases of the shortest and the longest row, and whether rows are pairs."""
        bases = self.splits.train.row_bases()
        return {"shortest": min(bases), "longest": max(bases), "pairs": self.splits.train.pairs is not None}

    def epoch(self, epoch: int) -> EncodedTable:
        """The training rows as one epoch reads them: on either strand, and with merges left out, if the run asks for it."""
        train, reverse, data, seed = self.train, self.reverse, self.run.data, self.run.seed
        if data.bpe_dropout:
            dropout = BpeDropout(cast(BpeTokenizer, self.tokenizer), data.bpe_dropout, seed=seed, epoch=epoch)
            train, *others = (
                encode_table(table, dropout, self.labels, data.max_tokens, token_types=data.token_types)
                for table in (self.splits.train, *([other_strand(self.splits.train)] if reverse else []))
            )
            reverse = next(iter(others), None)
        return train if reverse is None else train.on_either_strand(reverse, seed, epoch)

    @property
    def measured(self) -> Sequence[LabeledRows]:
        """All rows that must fit into a batch: merges that are left out make rows longer."""
        return [*super().measured, *(self.epochs if self.run.data.bpe_dropout else [])]


def selected_score(run: Finetuning) -> str:
    """The dev score by which evaluations, and the trials of a sweep, are compared: ``loss``, or the main one of the task."""
    selection = run.training.selection
    return TASK_METRICS[run.data.task].main if selection == "auto" else selection


def prepare(run: FinetuneRun, workdir: Path) -> TablesJob:
    """Read what a run names, report what was found, and make its directory.

    Raises:
        UserError: a path, a table, a setting or the directory cannot be used.
    """
    compute = training_compute(run.model)
    config, tokenizer, base = load_base(run.model)
    if run.data.bpe_dropout and not isinstance(tokenizer, BpeTokenizer):
        raise UserError("data.bpe_dropout leaves out merges, and this tokenizer of k-mers makes none; set it to 0")
    splits = load_splits(run.data.train, run.data.dev, run.data.test, task=run.data.task, **run.data.columns)
    types = run.data.token_types
    if types and splits.train.pairs is not None and config.type_vocab_size < 2:
        raise UserError(
            f"{splits.train.path} holds pairs, and the encoder has token type 0 only (type_vocab_size "
            f"{config.type_vocab_size}); set data.token_types=false"
        )
    directory = Workdir(workdir, run_to_dict(run))

    def encode(table: Table) -> EncodedTable:
        return encode_table(table, tokenizer, splits.labels, run.data.max_tokens, token_types=types)

    encoded = {name: encode(getattr(splits, name)) for name in SPLITS}
    for name in SPLITS:
        table = getattr(splits, name)
        remark("; ".join([f"{name} {table.path}: {encoded[name].summary()}", *table.changes()]))
    if run.data.task == "single_label" and (joint := [name for name in splits.labels.names if SEPARATOR in name]):
        remark(f"{joint[0]!r} is read as the name of one class; for several labels per row, set data.task=multi_label")
    return TablesJob(
        run=run,
        directory=directory,
        config=config,
        tokenizer=tokenizer,
        base=base,
        compute=compute,
        head=replace(
            splits.labels.head,
            pooling=run.training.head_pooling,
            token_types=types,
            max_tokens=run.data.max_tokens,
        ),
        splits=splits,
        reverse=encode(other_strand(splits.train)) if run.data.reverse_complement else None,
        **encoded,
    )
