"""A Hugging Face directory as a model, and a model as a Hugging Face directory."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from dnabert2_jax.artifacts.model import SavedModel
from dnabert2_jax.artifacts.provenance import make_provenance
from dnabert2_jax.artifacts.tensors import write_tensors
from dnabert2_jax.config.model import HeadConfig, TaskKind
from dnabert2_jax.convert.names import from_theirs, kind_of, plain_names, to_theirs
from dnabert2_jax.convert.settings import CONFIG, HuggingFaceSettings, make_settings, read_settings
from dnabert2_jax.convert.weights import SAFETENSORS, open_weights
from dnabert2_jax.errors import UserError
from dnabert2_jax.storage.atomic import write_json
from dnabert2_jax.storage.copies import local_copy
from dnabert2_jax.storage.directories import atomic_directory
from dnabert2_jax.storage.hashes import file_sha256
from dnabert2_jax.storage.manifest import MANIFEST
from dnabert2_jax.storage.overwriting import replacing
from dnabert2_jax.tokenizer.loading import Tokenizer
from dnabert2_jax.types import Tree

TOKENIZER = "tokenizer.json"

RELEASED_SIZE = 468_354_983
RELEASED_SHA256 = "7ff39ec77a484dd01070a41bfd6e95cdd7247bec80fe357ab43a4be33687aeba"
"""The ``pytorch_model.bin`` of zhihan1996/DNABERT-2-117M, in bytes and as SHA-256."""


def is_hugging_face_directory(path: Path) -> bool:
    """Whether ``path`` holds a model in the Hugging Face layout, complete or not, rather than one of this project."""
    if not (path / CONFIG).is_file() or (path / MANIFEST).is_file():
        return False
    try:
        return "format" not in json.loads((path / CONFIG).read_bytes())  # a model directory that lost its manifest has one
    except (OSError, ValueError, TypeError, RecursionError):
        return True  # reading it explains what is wrong with the file


def load_hugging_face(directory: Path, command: Sequence[str] = ()) -> SavedModel:
    """Read the released model, or one trained from it, without torch and without running any code.

    The directory holds ``config.json`` of either generation, ``tokenizer.json``, and weights as ``model.safetensors`` or
    ``pytorch_model.bin``, whole or sharded with an index. A checkpoint with ``classifier.*`` is a classifier, and its
    labels are those of ``id2label`` or class numbers; ``problem_type`` says whether a row may have several labels, or
    whether the output is a measurement.

    Args:
        directory: in the Hugging Face layout.
        command: the command line, for the provenance.

    Returns:
        A model without a path; :func:`~dnabert2_jax.artifacts.model.save_model` stores it.

    Raises:
        UserError: a file is missing, damaged or could run code; the parts do not fit together; or it is another model.
    """
    directory = local_copy(directory)
    if not directory.is_dir():
        raise UserError(f"{directory} is not a directory; name the one with {CONFIG}, {TOKENIZER} and {SAFETENSORS}")
    if (directory / MANIFEST).is_file() and (directory / CONFIG).is_file():
        raise UserError(f"{directory} is already a model directory of dnabert2_jax; use it as it is")
    settings = read_settings(directory / CONFIG)
    tokenizer = _read_tokenizer(directory, settings)
    tensors, files = open_weights(directory)
    shapes = {name: tensors.shapes[given] for name, given in plain_names(tensors.shapes, files[0]).items()}
    kind = kind_of(shapes, files[0])
    labels: tuple[str, ...] = ()
    head = HeadConfig(token_types=settings.token_types)
    if kind == "classifier":
        # transformers treats a single output as regression unless told otherwise.
        outputs = (shapes.get("classifier.weight", ()) or (0,))[0]
        head = replace(head, task=settings.task or ("regression" if outputs == 1 else "single_label"))
        labels = _labels(directory, settings, shapes.get("classifier.weight", (0,)), head.task)
    return SavedModel(
        kind=kind,
        config=settings.encoder,
        params=from_theirs(tensors, settings.encoder, kind, len(labels), files[0]),
        tokenizer=tokenizer,
        labels=labels,
        head=head,
        provenance=make_provenance(
            command or ["load_hugging_face", str(directory)],
            run_config={},
            parents={file.name: file_sha256(file) for file in files},
            metrics={},
        ),
    )


def save_hugging_face(directory: Path, model: SavedModel, *, force: bool = False) -> Path:
    """Write a model in the Hugging Face layout, for PyTorch users: whole, or not at all.

    ``model.safetensors`` has the original's names and loads in the original's code (``trust_remote_code=True``, which
    fetches it from the Hub); beside it lie ``config.json``, ``tokenizer.json`` and ``tokenizer_config.json``.

    Args:
        directory: created; may exist if it is empty.
        model: what to write.
        force: replace what such a call wrote there before.

    Returns:
        ``directory``.

    Raises:
        UserError: ``directory`` exists, or cannot be written; the classifier reads means over tokens, or labels bases.
    """
    if model.kind == "base_classifier":
        raise UserError(
            f"{model.path} labels every base, for which the original has no head; use its model.safetensors as it is"
        )
    if model.head.pooling != "cls":
        raise UserError(
            f"{model.path} has a classifier that reads means over tokens, which the original's cannot do; convert a model "
            "that was fine-tuned in full or with LoRA, and training.pooling=cls"
        )
    with atomic_directory(
        directory, may_replace=replacing("tokenizer_config.json", "a model in Hugging Face's format", force=force)
    ) as new:
        write_tensors(new / SAFETENSORS, to_theirs(_in_units(model), model.kind), {"format": "pt"})
        model.tokenizer.save_hugging_face(new)
        write_json(new / CONFIG, make_settings(model))
    return directory


def describe_released(directory: Path) -> str:
    """Whether the weights of ``directory`` are the released 117M, byte for byte."""
    file = directory / "pytorch_model.bin"
    released = f"the released DNABERT-2-117M has {RELEASED_SIZE:,} bytes and sha256 {RELEASED_SHA256}"
    if not file.is_file():
        return f"not compared, there is no {file.name}"
    size, sha256 = file.stat().st_size, file_sha256(file)
    if (size, sha256) == (RELEASED_SIZE, RELEASED_SHA256):
        return f"{file.name} is the released DNABERT-2-117M, {size:,} bytes, sha256 {sha256}"
    return f"{file.name} has {size:,} bytes and sha256 {sha256}, so it is another model or damaged: {released}"


def _read_tokenizer(directory: Path, settings: HuggingFaceSettings) -> Tokenizer:
    if not (directory / TOKENIZER).is_file():
        raise UserError(
            f"{directory} holds no {TOKENIZER}; copy the one the model was trained with into it (for a model trained "
            "from DNABERT-2-117M that is the released one)"
        )
    tokenizer = Tokenizer.load(directory / TOKENIZER)
    if tokenizer.vocab_size != settings.encoder.vocab_size:
        raise UserError(
            f"{directory / TOKENIZER}: has {tokenizer.vocab_size} pieces, but {CONFIG} has vocab_size "
            f"{settings.encoder.vocab_size}; use the tokenizer the model was trained with"
        )
    return tokenizer


def _in_units(model: SavedModel) -> Tree:
    """The parameters, with the mean and deviation of measurements, which the layout lacks, folded into the last layer."""
    if model.head.task != "regression":
        return model.params
    last = model.params["classifier"]
    kernel, bias = last["kernel"] * np.float32(model.head.deviation), last["bias"] * np.float32(model.head.deviation)
    return {**model.params, "classifier": {"kernel": kernel, "bias": bias + np.float32(model.head.mean)}}


def _labels(directory: Path, settings: HuggingFaceSettings, shape: tuple[int, ...], task: TaskKind) -> tuple[str, ...]:
    found = shape[0] if shape else 0
    if settings.num_labels not in (None, found):
        raise UserError(
            f"{directory / CONFIG}: has {settings.num_labels} labels, but classifier.weight has the shape {shape}; weights "
            "and configuration belong to different models"
        )
    if task == "regression":
        if found != 1:
            raise UserError(f"{directory}: classifier.weight has the shape {shape}; a regression needs one output")
        return ("value",)
    if found < 2:
        raise UserError(f"{directory}: classifier.weight has the shape {shape}; a classifier needs at least two classes")
    return settings.labels or tuple(map(str, range(found)))
