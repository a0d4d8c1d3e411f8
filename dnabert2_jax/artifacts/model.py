"""A model and its directory."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from numpy.typing import NDArray
from pydantic import ValidationError

from dnabert2_jax.artifacts.directory import MODEL, is_adapter_directory, read, to_read, writing
from dnabert2_jax.artifacts.tensors import check_finite, flatten_tree, unflatten_tree
from dnabert2_jax.config.model import ORIGINAL_HEAD, EncoderConfig, HeadConfig
from dnabert2_jax.errors import UserError
from dnabert2_jax.storage.paths import StrPath, absolute
from dnabert2_jax.tokenizer.loading import Tokenizer
from dnabert2_jax.types import Tree

ModelKind = Literal["masked_lm", "classifier", "base_classifier"]
"""What a model is: its encoder with an MLM head, with a head for sequences, or with one that labels every base."""

_WORD = "encoder.embeddings.word"


@dataclass(frozen=True, kw_only=True)
class SavedModel:
    """The contents of a model directory.

    Attributes:
        kind: ``masked_lm`` (encoder and MLM head), ``classifier`` (encoder, pooler and classification head) or
            ``base_classifier`` (encoder, convolutions over bases and classification head).
        config: sizes of the encoder.
        params: nested dict of host arrays.
        tokenizer: produces the ids that index the word embeddings.
        labels: class names by class number; for a regression, the name of the measurement; empty for a masked_lm.
        head: how a classifier reads a sequence, and what its outputs mean.
        provenance: how it was made, see :func:`~dnabert2_jax.artifacts.provenance.make_provenance`.
        path: its directory; None until it is saved.
    """

    kind: ModelKind
    config: EncoderConfig
    params: Tree
    tokenizer: Tokenizer
    labels: tuple[str, ...] = ()
    head: HeadConfig = ORIGINAL_HEAD
    provenance: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None


def classifier_kind(head: HeadConfig) -> ModelKind:
    """The kind of a fine-tuned model."""
    return "base_classifier" if head.task == "per_base" else "classifier"


def save_model(path: StrPath, model: SavedModel) -> SavedModel:
    """Write ``model`` to the directory ``path``; an existing model directory is replaced.

    Returns:
        ``model`` with its new path.

    Raises:
        UserError: parts of the model contradict each other, a weight is not finite, something other than a model directory
            exists at ``path``, or it cannot be written.
    """
    path = absolute(path)
    tensors = flatten_tree(model.params)
    _check_model(path, model, tensors)
    header = {"kind": model.kind, "encoder": model.config.to_dict(), "labels": list(model.labels)}
    with writing(path, MODEL, header, model.head, tensors, model.provenance) as new:
        model.tokenizer.save(new)
    return replace(model, path=path)


def load_model(path: StrPath) -> SavedModel:
    """Read the model directory ``path``, verifying every file's hash; one in a bucket is first copied to this machine.

    Raises:
        UserError: there is no model directory, a file is missing or damaged, the format is unknown, the parts do not fit
            together, or a weight is not finite.
    """
    path = absolute(path)
    if is_adapter_directory(path):
        raise UserError(
            f"{path} is an adapter directory, but a model directory is needed here: merge the adapter into its base first"
        )
    source = to_read(path)
    content = read(source, MODEL)
    header = content.header
    try:
        config = EncoderConfig(**header["encoder"])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, ("encoder", *first["loc"])))
        raise UserError(
            f"{source / MODEL.header}: {where} is {first['input']!r}: {first['msg']}; save the model again"
        ) from error
    model = SavedModel(
        kind=header["kind"],
        config=config,
        params=unflatten_tree(content.tensors),
        tokenizer=Tokenizer.load(source),
        labels=tuple(header["labels"]),
        head=content.head,
        provenance=content.provenance,
        path=path,
    )
    _check_model(source, model, content.tensors)
    return model


def _check_model(source: Path, model: SavedModel, tensors: Mapping[str, NDArray[Any]]) -> None:
    if model.kind not in get_args(ModelKind):
        raise UserError(f"{source}: model kind {model.kind!r} is unknown; accepted are {', '.join(get_args(ModelKind))}")
    fewest = 1 if model.head.task == "regression" or model.head.several else 2
    most = 1 if model.head.task == "regression" else len(model.labels)
    fits = fewest <= len(model.labels) <= most
    if (model.kind != "masked_lm") != fits or len(set(model.labels)) != len(model.labels):
        raise UserError(
            f"{source}: a {model.kind} with the labels {list(model.labels)}; a classifier needs at least two different "
            "ones (of several at a base, one), a regression one, a masked_lm none"
        )
    if (model.kind == "base_classifier") != (model.head.task == "per_base"):
        raise UserError(f"{source}: a {model.kind} with a head for the task {model.head.task}; save the model again")
    sizes = (model.config.vocab_size, model.config.hidden_size)
    if _WORD not in tensors:
        raise UserError(f"{source}: tensor {_WORD} is missing; found {', '.join(tensors) or 'none'}")
    if tensors[_WORD].shape != sizes:
        raise UserError(
            f"{source}: tensor {_WORD} has the shape {tensors[_WORD].shape}, but the configuration has vocab_size "
            f"{sizes[0]} and hidden_size {sizes[1]}; weights and configuration belong to different models"
        )
    if model.tokenizer.vocab_size != sizes[0]:
        raise UserError(
            f"{source}: the tokenizer has {model.tokenizer.vocab_size} pieces, but the model was made for {sizes[0]}; "
            "use the tokenizer it was trained with"
        )
    for name, tensor in tensors.items():
        if name.startswith("classifier.") and tensor.shape[-1] != len(model.labels):
            raise UserError(
                f"{source}: tensor {name} has the shape {tensor.shape}, but there are {len(model.labels)} labels "
                f"{list(model.labels)}; weights and labels belong to different models"
            )
    check_finite(source, tensors)
