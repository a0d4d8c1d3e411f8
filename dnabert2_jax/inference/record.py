"""The record of the model and settings that produced a file of predictions or embeddings.

Every output has one. npz files store it as the array ``record``, HDF5 as an attribute ``record``, Parquet as schema metadata
``record``, each holding JSON text, and JSON files under the key ``record``. For text tables, which cannot hold it, and for
files of windows and intervals, ``NAME.json`` is written next to ``NAME``.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from dnabert2_jax.artifacts.tensors import tree_sha256
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.storage.atomic import write_json
from dnabert2_jax.version import __version__

RECORD = "record"
"""Name of the array, attribute, metadata or key."""

Record = Mapping[str, Any]


def make_record(model: InferenceModel, command: str, **settings: Any) -> Record:
    """The record of an output; equal outputs have equal records.

    Args:
        model: the model that made it.
        command: ``predict``, ``embed``, ...
        settings: what the output depends on besides the model; JSON-ready.

    Returns:
        ``command``, ``model`` (its directory), ``model_sha256`` (of its parameters as used, with an adapter merged into its
        base), ``tokenizer_sha256``, ``settings`` and ``dnabert2_jax``, the version.
    """
    compute = model.predictor.forward.compute
    return {
        "command": command,
        **_identity(model),
        "settings": {**settings, "precision": compute.precision, "attention": compute.attention},
        "dnabert2_jax": __version__,
    }


def make_ensemble_record(models: Sequence[InferenceModel], command: str, **settings: Any) -> Record:
    """As :func:`make_record`, for several models; those after the first are identified under ``ensemble``."""
    record, others = make_record(models[0], command, **settings), [_identity(model) for model in models[1:]]
    return {**record, **({"ensemble": others} if others else {})}


def _identity(model: InferenceModel) -> dict[str, str]:
    return {
        "model": str(model.path),
        "model_sha256": tree_sha256(jax.device_get(model.predictor.params)),
        "tokenizer_sha256": model.tokenizer.sha256,
    }


def record_text(record: Record) -> str:
    """The record as JSON, for a format that holds text."""
    return json.dumps(record, ensure_ascii=False)


def save_record_beside(path: Path, record: Record) -> Path:
    """Write ``NAME.json`` next to a text table called ``NAME``."""
    return write_json(path.with_name(f"{path.name}.json"), record)
