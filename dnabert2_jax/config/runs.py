"""A run is a TOML file: what each command can be told, validated, with errors that name the nearest valid key."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from dnabert2_jax.config.masking import MaskingConfig
from dnabert2_jax.config.mesh import MeshOptions
from dnabert2_jax.config.model import DEFAULT_MAX_TOKENS, STRICT, LoraConfig, PrecisionOption, TaskKind
from dnabert2_jax.config.optimizer import OptimizerConfig


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ModelOptions:
    """Which model, and how to compute it.

    Attributes:
        path: a model directory to start from.
        size: or a named size (``1b``, ``117m``, ``25m``, ``3m``, ``1m``) to start from random weights.
        tokenizer: tokenizer directory for ``size``; ``path`` brings its own.
        precision: ``auto`` is bfloat16 on GPU and TPU, float32 on CPU.
        attention: ``auto`` or the name of an attention backend.
        remat: activations that the backward pass computes again: ``none``, ``attention`` (those of each block's attention)
            or ``full`` (much less memory for a third more arithmetic; small models on a CPU even gain time, since keeping
            activations costs them more than computing them).
        unroll: blocks in one turn of the loop over them; more makes longer programs that may run faster.
        parts: rows of a device go through each block in so many parts; on a TPU, parts that fit its fast memory save time.
    """

    path: Path | None = None
    size: str | None = None
    tokenizer: Path | None = None
    precision: PrecisionOption = "auto"
    attention: str = "auto"
    remat: Literal["none", "attention", "full"] = "none"
    unroll: int = Field(default=1, ge=1)
    parts: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _one_start(self) -> "ModelOptions":
        if (self.path is None) == (self.size is None):
            raise ValueError("give either path (a model directory) or size (a named size, from random weights)")
        if (self.size is None) != (self.tokenizer is None):
            raise ValueError("size needs tokenizer (a tokenizer directory), and path brings its own")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PretrainData:
    """Where rows come from.

    Attributes:
        corpus: corpus directory.
        tokens_per_row: T, with ``[CLS]`` and ``[SEP]``.
        reverse_complement: read half of the windows from the other strand.
        validation_rows: held-out rows of an evaluation.
    """

    corpus: Path
    tokens_per_row: int = Field(default=128, ge=8)
    reverse_complement: bool = True
    validation_rows: int = Field(default=512, ge=1)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Steps:
    """Length and rhythm of pretraining.

    Attributes:
        steps: optimizer steps.
        batch_size: rows of a step, over all devices.
        accumulate: parts that a batch is cut into, one after the other, for memory.
        evaluate_every: steps between evaluations.
        save_every: steps between checkpoints.
        keep_checkpoints: newest checkpoints that stay.
        keep_every: checkpoints of steps that are multiples of this stay, too.
        log_every: steps between lines of the metrics file.
        skipped_in_a_row: a step whose loss or gradient is not finite is skipped; so many of them in a row stop the run.
        profile_steps: steps to trace with ``jax.profiler``, into the run's ``profile``.
    """

    steps: int = Field(default=500_000, ge=1)
    batch_size: int = Field(default=4096, ge=1)
    accumulate: int = Field(default=1, ge=1)
    evaluate_every: int = Field(default=2000, ge=1)
    save_every: int = Field(default=1000, ge=1)
    keep_checkpoints: int = Field(default=2, ge=1)
    keep_every: int | None = Field(default=None, ge=1)
    log_every: int = Field(default=50, ge=1)
    skipped_in_a_row: int = Field(default=10, ge=1)
    profile_steps: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _parts_divide_the_batch(self) -> "Steps":
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of accumulate {self.accumulate}")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PretrainRun:
    """A pretraining run: the sections of its TOML file, and ``seed``, which chooses weights, windows and masks."""

    command: Literal["pretrain"] = "pretrain"
    seed: int = Field(default=0, ge=0, lt=2**31)
    model: ModelOptions
    data: PretrainData
    masking: MaskingConfig = MaskingConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: Steps = Steps()
    mesh: MeshOptions = MeshOptions()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FinetuneData:
    """The three tables of a task, CSV or TSV with a header: ``sequence,label`` or ``sequence1,sequence2,label``.

    Attributes:
        train: rows to learn from.
        dev: rows that choose the best epoch.
        test: rows for the final score.
        task: what the label column holds: ``single_label``, a class; ``multi_label``, names with ``;`` between them, or
            ``-`` for none; ``regression``, a number.
        max_tokens: longer rows are cut, counted and reported.
        token_types: the second sequence of a pair has token type 1; ``false`` reads it as type 0, as the original does.
        reverse_complement: read half of the training rows, others each epoch, from the other strand.
    """

    train: Path
    dev: Path
    test: Path
    task: TaskKind = "single_label"
    max_tokens: int = Field(default=DEFAULT_MAX_TOKENS, ge=8)
    token_types: bool = True
    reverse_complement: bool = False


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Epochs:
    """Length and rhythm of fine-tuning.

    Attributes:
        method: ``full`` trains all weights, ``lora`` an adapter and the heads; ``probe`` fits a linear layer on the mean
            hidden states of the encoder as it is, to its optimum, so that all about steps means nothing to it.
        epochs: passes over the training table.
        max_steps: optimizer steps, however many or few passes they are; the schedule ends with them.
        batch_size: rows of a step, over all devices.
        accumulate: parts that a batch is cut into, one after the other, for memory.
        evaluations_per_epoch: dev evaluations (with a checkpoint each) in an epoch.
        selection: the evaluation to keep has the best dev ``mcc`` (with several labels a row, its mean over labels) or, of a
            regression, ``spearman``, which ``auto`` stands for; or the lowest dev ``loss`` as in the original.
        patience: stop after this many evaluations without a better one.
        label_smoothing: share of each label that is spread over all classes, in [0, 1).
        class_weights: ``balanced`` gives every class the same part in the loss, however many rows it has.
        batching: ``by_length`` makes batches of rows of about one length; ``packed`` takes rows as they come and lets
            several share a row of the batch, with hardly any padding.
        padded_lengths: shapes that rows are padded to, at most; each is compiled once.
        keep_checkpoints: newest checkpoints that stay.
        skipped_in_a_row: a step whose loss or gradient is not finite is skipped; this many of them in a row, or all steps
            before an evaluation, stop the run.
    """

    method: Literal["full", "lora", "probe"] = "full"
    epochs: int = Field(default=3, ge=1)
    max_steps: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=32, ge=1)
    accumulate: int = Field(default=1, ge=1)
    evaluations_per_epoch: int = Field(default=1, ge=1)
    selection: Literal["auto", "mcc", "spearman", "loss"] = "auto"
    patience: int = Field(default=5, ge=1)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    class_weights: Literal["none", "balanced"] = "none"
    batching: Literal["by_length", "packed"] = "by_length"
    padded_lengths: int = Field(default=3, ge=1)
    keep_checkpoints: int = Field(default=1, ge=1)
    skipped_in_a_row: int = Field(default=10, ge=1)

    @model_validator(mode="after")
    def _parts_divide_the_batch(self) -> "Epochs":
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of accumulate {self.accumulate}")
        return self

    def steps(self, steps_per_epoch: int) -> int:
        """Optimizer steps of the whole run."""
        return self.epochs * steps_per_epoch if self.max_steps is None else self.max_steps


FINETUNE_OPTIMIZER = OptimizerConfig(learning_rate=3e-5, warmup_steps=50, weight_decay=0.01, beta2=0.999, epsilon=1e-8)
"""The paper's fine-tuning (its Appendix) on Hugging Face's AdamW defaults."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FinetuneRun:
    """A fine-tuning run: the sections of its TOML file, and ``seed``, which chooses new weights, order and dropout.

    Of ``mesh``, ``data`` is for it: the devices that share a step, rows divided among them; -1 takes as many of this
    process's as divide ``training.batch_size``. The batch stays what it is.
    """

    command: Literal["finetune"] = "finetune"
    seed: int = Field(default=0, ge=0, lt=2**31)
    model: ModelOptions
    data: FinetuneData
    optimizer: OptimizerConfig = FINETUNE_OPTIMIZER
    training: Epochs = Epochs()
    lora: LoraConfig = LoraConfig()
    mesh: MeshOptions = MeshOptions()

    @model_validator(mode="after")
    def _adapter_needs_a_base(self) -> "FinetuneRun":
        if self.training.method == "lora" and self.model.path is None:
            raise ValueError("training.method lora needs model.path: an adapter is trained on a model directory")
        if self.training.method == "probe" and self.training.label_smoothing:
            raise ValueError("training.label_smoothing is for full and lora; a probe is fitted to the labels as they are")
        return self

    @model_validator(mode="after")
    def _rows_are_spread_and_nothing_else(self) -> "FinetuneRun":
        if self.mesh != MeshOptions(data=self.mesh.data):
            raise ValueError("mesh: fine-tuning spreads rows alone; of this section it takes data")
        return self

    @model_validator(mode="after")
    def _settings_fit_the_task(self) -> "FinetuneRun":
        task, plan = self.data.task, self.training
        if task != "single_label":
            for name, default in (("class_weights", "none"), ("label_smoothing", 0.0)):
                if getattr(plan, name) != default:
                    raise ValueError(f"training.{name} is for data.task single_label, not for {task}; leave it out")
        if plan.selection == ("mcc" if task == "regression" else "spearman"):
            raise ValueError(
                f"training.selection {plan.selection} is not for data.task {task}; leave it at auto, or take loss"
            )
        return self
