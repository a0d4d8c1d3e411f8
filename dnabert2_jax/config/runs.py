"""A run is a TOML file: the settings of each command, validated, with errors that name the nearest valid key."""

from dataclasses import field
from typing import Any, Literal, Self, TypeVar

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from dnabert2_jax.config.inference import BadRecordPolicy
from dnabert2_jax.config.model import DEFAULT_MAX_TOKENS, STRICT, HeadPooling, LoraConfig, PrecisionOption, TableTask
from dnabert2_jax.config.sections import MaskingConfig, MeshOptions, OptimizerConfig
from dnabert2_jax.storage.paths import Location


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ModelOptions:
    """Which model, and how to compute it.

    Attributes:
        path: a model directory, or one in the Hugging Face layout, to start from.
        size: or a named size (``1b``, ``117m``, ``25m``, ``3m``, ``1m``) to start from random weights.
        tokenizer: tokenizer directory for ``size``; ``path`` brings its own.
        precision: ``auto`` is bfloat16 on GPU and TPU, float32 on CPU; ``tf32`` is float32 with products that round their
            factors, to TF32 on a GPU.
        attention: ``auto`` or the name of an attention backend.
        remat: activations that the backward pass recomputes: ``none``, ``attention`` (those of each block's attention) or
            ``full`` (much less memory for a third more arithmetic; small models on a CPU even gain time, since storing
            activations costs them more than recomputing them).
        unroll: blocks per iteration of the loop over them; more makes longer programs that may run faster.
        parts: microbatches per block, of a device's rows; on a TPU, microbatches that fit its fast memory save time.
    """

    path: Location | None = None
    size: str | None = None
    tokenizer: Location | None = None
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
    """Pretraining data.

    Attributes:
        corpus: corpus directory.
        tokens_per_row: T, including ``[CLS]`` and ``[SEP]``.
        reverse_complement: reverse-complement a random half of the windows.
        validation_rows: held-out rows per evaluation.
    """

    corpus: Location
    tokens_per_row: int = Field(default=128, ge=8)
    reverse_complement: bool = True
    validation_rows: int = Field(default=512, ge=1)


Schedule = TypeVar("Schedule", "Steps", "Epochs")


def _check_parts(schedule: Schedule) -> Schedule:
    if schedule.batch_size % schedule.accumulate:
        raise ValueError(f"batch_size {schedule.batch_size} is not a multiple of accumulate {schedule.accumulate}")
    return schedule


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Steps:
    """Pretraining schedule.

    Attributes:
        steps: optimizer steps.
        batch_size: rows per step, over all devices.
        accumulate: microbatches that a batch is split into, one after the other, to save memory.
        evaluate_every: steps between evaluations.
        save_every: steps between checkpoints.
        keep_checkpoints: number of newest checkpoints to keep.
        keep_every: also keep the checkpoints of steps that are multiples of this.
        log_every: steps between lines of the metrics file.
        skipped_in_a_row: a step whose loss or gradient is not finite is skipped; this many in a row stop the run.
        profile_steps: steps to trace with ``jax.profiler``, into the run's ``profile`` directory.
        hang_timeout: seconds without progress after which a run ends and says which process hangs; 0 for never. It is four
            times as long before the first step is done, and never less than three times the longest pause so far.
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
    hang_timeout: float = Field(default=1800, ge=0)

    _parts_divide_the_batch = model_validator(mode="after")(_check_parts)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PretrainRun:
    """A pretraining run: the sections of its TOML file, and ``seed``, which determines weights, windows and masks."""

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
    """The three tables of a task, with a header: ``sequence,label`` or ``sequence1,sequence2,label``.

    Attributes:
        train: training rows.
        dev: rows that select the best evaluation.
        test: rows for the final scores.
        task: what the label column holds: ``single_label``, a class; ``multi_label``, names separated by ``;``, or
            ``-`` for none; ``regression``, a number.
        sequence_column: column with the sequences, ``sequence`` by default; pairs are in two of that name with 1 and 2.
        label_column: column with the labels, ``label`` by default.
        label_map: names for the labels as the tables write them, such as ``{ 0 = "background", 1 = "promoter" }``.
        bad_records: rows that cannot be used: ``error`` names them all, ``skip`` leaves them out and counts them.
        max_tokens: longer rows are truncated, counted and reported.
        token_types: the second sequence of a pair has token type 1; ``false`` reads it as type 0, as the original does.
        reverse_complement: reverse-complement a random half of the training rows, redrawn each epoch.
        bpe_dropout: probability that a merge of the byte-pair tokenizer is left out of a training row, redrawn each epoch
            (Provilkov et al. 2020); 0 for the tokenizer's own tokens, which dev and test rows always have.
    """

    train: Location
    dev: Location
    test: Location
    task: TableTask = "single_label"
    sequence_column: str | None = None
    label_column: str | None = None
    label_map: dict[str, str] = field(default_factory=dict)
    bad_records: BadRecordPolicy = "error"
    max_tokens: int = Field(default=DEFAULT_MAX_TOKENS, ge=8)
    token_types: bool = True
    reverse_complement: bool = False
    bpe_dropout: float = Field(default=0.0, ge=0, lt=1)

    @property
    def columns(self) -> dict[str, Any]:
        """How the tables are read, as keyword arguments of :func:`~dnabert2_jax.data.splits.load_splits`."""
        return {
            "sequence_column": self.sequence_column or "sequence",
            "label_column": self.label_column or "label",
            "label_map": self.label_map,
            "bad_records": self.bad_records,
        }


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Epochs:
    """Fine-tuning schedule.

    Attributes:
        method: ``full`` trains all weights, ``lora`` an adapter and the heads; ``probe`` fits a linear layer on the mean
            hidden states of the frozen encoder, to its optimum; the settings about steps do not apply to it. With labels at
            every base, ``probe`` trains the head by steps on the frozen encoder.
        pooling: what the classifier reads: ``cls``, the original's pooler over [CLS], or ``mean``, the mean hidden state of
            the row's own tokens; ``auto`` is ``mean`` for a probe, ``cls`` otherwise.
        epochs: passes over the training table.
        max_steps: optimizer steps, overriding ``epochs``; the learning rate schedule ends with them.
        batch_size: rows per step, over all devices.
        accumulate: microbatches that a batch is split into, one after the other, to save memory.
        evaluations_per_epoch: dev evaluations per epoch, each with a checkpoint.
        selection: the dev score whose best evaluation is kept: ``auto`` is ``mcc`` (multi-label: its mean over labels),
            ``spearman`` for regression and mean AUPRC for labels at every base; ``loss``, as in the original, keeps the
            lowest.
        patience: stop after this many evaluations without a better one.
        label_smoothing: fraction of each label that is spread over all classes, in [0, 1).
        class_weights: ``balanced`` gives every class the same weight in the loss, however many rows it has; with several
            labels, the presence and the absence of each.
        focal_gamma: exponent of focal loss (Lin et al. 2017), which multiplies the loss of each label by
            (1 - its probability) to this power, so that labels that are predicted well count less; 0 is cross-entropy.
        batching: ``by_length`` groups sequences of similar length; ``packed`` takes them in random order and packs
            several into a row of the batch, with hardly any padding.
        padded_lengths: at most this many lengths that rows are padded to; each is compiled once.
        keep_checkpoints: number of newest checkpoints to keep.
        skipped_in_a_row: a step whose loss or gradient is not finite is skipped; this many of them in a row, or all steps
            before an evaluation, stop the run.
    """

    method: Literal["full", "lora", "probe"] = "full"
    pooling: Literal["auto", "cls", "mean"] = "auto"
    epochs: int = Field(default=3, ge=1)
    max_steps: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=32, ge=1)
    accumulate: int = Field(default=1, ge=1)
    evaluations_per_epoch: int = Field(default=1, ge=1)
    selection: Literal["auto", "mcc", "spearman", "loss"] = "auto"
    patience: int = Field(default=5, ge=1)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    class_weights: Literal["none", "balanced"] = "none"
    focal_gamma: float = Field(default=0.0, ge=0)
    batching: Literal["by_length", "packed"] = "by_length"
    padded_lengths: int = Field(default=3, ge=1)
    keep_checkpoints: int = Field(default=1, ge=1)
    skipped_in_a_row: int = Field(default=10, ge=1)

    _parts_divide_the_batch = model_validator(mode="after")(_check_parts)

    @property
    def head_pooling(self) -> HeadPooling:
        """What ``pooling`` means for this method."""
        if self.pooling != "auto":
            return self.pooling
        return "mean" if self.method == "probe" else "cls"

    def steps(self, steps_per_epoch: int) -> int:
        """Optimizer steps of the whole run."""
        return self.epochs * steps_per_epoch if self.max_steps is None else self.max_steps


FINETUNE_OPTIMIZER = OptimizerConfig(learning_rate=3e-5, warmup_steps=50, weight_decay=0.01, beta2=0.999, epsilon=1e-8)
"""The paper's fine-tuning settings (its Appendix), with Hugging Face's AdamW defaults."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AnyFinetuneRun:
    """What fine-tuning runs have in common, whatever their data."""

    command: Literal["finetune"] = "finetune"
    seed: int = Field(default=0, ge=0, lt=2**31)
    model: ModelOptions
    data: Any
    optimizer: OptimizerConfig = FINETUNE_OPTIMIZER
    training: Epochs = Epochs()
    lora: LoraConfig = LoraConfig()
    mesh: MeshOptions = MeshOptions()

    @model_validator(mode="after")
    def _method_fits(self) -> Self:
        plan = self.training
        if plan.method == "lora" and self.model.path is None:
            raise ValueError("training.method lora needs model.path: an adapter is trained on a model directory")
        if plan.method == "probe" and plan.label_smoothing:
            raise ValueError("training.label_smoothing is for full and lora; a probe is fitted to hard labels")
        if plan.focal_gamma and plan.label_smoothing:
            raise ValueError("training.focal_gamma and training.label_smoothing do not go together; leave one of them out")
        if self.mesh != MeshOptions(data=self.mesh.data):
            raise ValueError("mesh: fine-tuning shards rows only; of this section it accepts data")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FinetuneRun(AnyFinetuneRun):
    """A fine-tuning run: the sections of its TOML file, and ``seed``, which determines new weights, order and dropout.

    Of ``mesh``, only ``data`` applies: the devices that share the rows of a step; -1 takes as many of this process's devices
    as divide ``training.batch_size``. The batch does not change.
    """

    data: FinetuneData

    @model_validator(mode="after")
    def _settings_fit_together(self) -> Self:
        task, plan = self.data.task, self.training
        if plan.method == "probe" and self.data.bpe_dropout:
            raise ValueError("data.bpe_dropout is for full and lora; a probe is fitted to one reading of each row")
        if plan.method == "probe" and plan.head_pooling == "cls":
            raise ValueError("training.pooling cls is for full and lora: the pooler is trained, and a probe trains none")
        if plan.method == "probe" and plan.focal_gamma:
            raise ValueError("training.focal_gamma is for full and lora; a probe is fitted by cross-entropy")
        if task != "single_label" and plan.label_smoothing:
            raise ValueError(f"training.label_smoothing is for data.task single_label, not for {task}; leave it out")
        if task == "regression" and (plan.focal_gamma or plan.class_weights != "none"):
            name = "focal_gamma" if plan.focal_gamma else "class_weights"
            raise ValueError(f"training.{name} is for tasks that have classes, not for regression; leave it out")
        if plan.selection == ("mcc" if task == "regression" else "spearman"):
            raise ValueError(
                f"training.selection {plan.selection} is not for data.task {task}; leave it at auto, or choose loss"
            )
        return self
