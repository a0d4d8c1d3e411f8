"""A run is a TOML file: what each command can be told, validated, with errors that name the nearest valid key."""

import tomllib
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from dnabert2_jax.config import DEFAULT_MAX_TOKENS, STRICT, LoraConfig, PrecisionOption, TaskKind
from dnabert2_jax.data.masking import MaskingConfig
from dnabert2_jax.errors import UserError, nearest
from dnabert2_jax.parallel import MeshOptions
from dnabert2_jax.training.optimizer import OptimizerConfig


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


Run = TypeVar("Run", PretrainRun, FinetuneRun)


def load_run(kind: type[Run], config: Path | None, overrides: Sequence[str] = ()) -> Run:
    """Read a run from a TOML file and ``a.b=c`` overrides, which win.

    Paths are relative to the directory the command is called in.

    Args:
        kind: :class:`PretrainRun` or :class:`FinetuneRun`.
        config: the file; None takes the defaults and the overrides alone.
        overrides: ``section.key=value``; the value is read as TOML, or as text where it is not TOML.

    Raises:
        UserError: the file cannot be read, or a key or value is not accepted.
    """
    content: dict[str, Any] = {}
    if config is not None:
        try:
            content = tomllib.loads(config.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{config}: cannot be read ({error.strerror}); give the path of a run's TOML file") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{config}: not TOML ({error}); mend that line (text stands in quotes)") from error
    for override in overrides:
        _apply(content, override)
    given = {override.partition("=")[0].strip() for override in overrides}
    return parse_run(kind, content, str(config or "--set"), given)


def parse_run(kind: type[Run], content: dict[str, Any], source: str, overridden: Collection[str] = ()) -> Run:
    """Validate a run given as nested dicts.

    Args:
        kind: :class:`PretrainRun` or :class:`FinetuneRun`.
        content: the run.
        source: where it comes from, for messages.
        overridden: keys that come from ``--set`` instead.

    Raises:
        UserError: names every key or value that is not accepted.
    """
    wanted = kind.__dataclass_fields__["command"].default
    if content.get("command", wanted) != wanted:
        raise UserError(f"{source}: this is a run of `dnabert2 {content['command']}`, not of `dnabert2 {wanted}`")
    content = _with_section_defaults(kind, content)
    try:
        run = TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        problems = _first_of_each_key(error.errors())
        if all(key in overridden for key in problems):
            source = "--set"
        raise UserError(f"{source}: " + "; ".join(_explain(kind, problem) for problem in problems.values())) from None
    _refuse_booleans_for_numbers(source, content, run_to_dict(run))
    return run


def run_to_dict(run: PretrainRun | FinetuneRun) -> dict[str, Any]:
    """The effective run as JSON-ready nested dicts; :func:`parse_run` reads it back."""
    return TypeAdapter(type(run)).dump_python(run, mode="json")


def _with_section_defaults(kind: type[Any], content: dict[str, Any]) -> dict[str, Any]:
    """Complete partly given sections from the run's own defaults, which may differ from those of the section's class.

    A section that is missing and has no default becomes an empty one, so that errors name its keys.
    """
    completed = dict(content)
    for field in fields(kind):
        if is_dataclass(field.default):
            given = completed.get(field.name)
            if isinstance(given, dict):
                completed[field.name] = {**asdict(field.default), **given}  # type: ignore[arg-type]
        elif is_dataclass(get_type_hints(kind)[field.name]):
            completed.setdefault(field.name, {})
    return completed


def _refuse_booleans_for_numbers(source: str, given: Any, accepted: Any, path: str = "") -> None:
    """Pydantic takes ``true`` for 1; who wrote ``steps = true`` meant something else."""
    if isinstance(given, dict):
        for key, value in given.items():
            _refuse_booleans_for_numbers(source, value, accepted[key], f"{path}.{key}".lstrip("."))
    elif isinstance(given, bool) and not isinstance(accepted, bool):
        raise UserError(f"{source}: {path}: a number is needed, found {str(given).lower()}")


def _apply(content: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {override}: accepted is section.key=value, as in --set optimizer.learning_rate=1e-4")
    value: Any = text
    with suppress(tomllib.TOMLDecodeError):
        document = tomllib.loads(f"value = {text}")
        if document.keys() == {"value"}:  # a line break may have begun another key
            value = document["value"]
    *sections, last = key.strip().split(".")
    for section in sections:
        content = content.setdefault(section, {})
        if not isinstance(content, dict):
            raise UserError(f"--set {override}: {section} is a value, not a section")
    content[last] = value


def _first_of_each_key(problems: Iterable[Any]) -> dict[str, Any]:
    """By section and key; where a value of a list is wrong, that the list is short without it is no news."""
    first: dict[str, Any] = {}
    for problem in problems:
        first.setdefault(".".join(str(part) for part in problem["loc"] if not isinstance(part, int)), problem)
    return first


def _explain(kind: type[Any], problem: Any) -> str:
    path = [str(part) for part in problem["loc"]]
    name = ".".join(path) or kind.__dataclass_fields__["command"].default
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        accepted = [field.name for field in fields(_section(kind, path[:-1]))]
        hint = _elsewhere(kind, path[-1]) or nearest(path[-1], accepted)
        return f"unknown key {name}{hint}; accepted are {', '.join(accepted)}"
    if problem["type"] in ("missing", "missing_keyword_only_argument"):
        return f"{name} is missing; add it to the file or give --set {name}=..."
    if problem["type"] == "tuple_type":
        return f'{name}: a list is needed, found {problem["input"]!r}; write {name}=["{problem["input"]}"]'
    message = problem["msg"].removeprefix("Value error, ")
    return f"{name}: {message}" + ("" if isinstance(problem["input"], dict) else f", found {problem['input']!r}")


def _elsewhere(kind: type[Any], key: str) -> str:
    """A hint where a key belongs to another section."""
    sections = {name: part for name, part in get_type_hints(kind).items() if is_dataclass(part)}
    places = [f"{name}.{key}" for name, part in sections.items() if key in {field.name for field in fields(part)}]
    return f"; did you mean {' or '.join(map(repr, places))}?" if places else ""


def _section(kind: type[Any], path: Sequence[str]) -> type[Any]:
    for part in path:
        kind = get_type_hints(kind)[part]
    return kind
