"""``config.json`` of the Hugging Face layout: what makes it a DNABERT-2, and what is ignored."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dnabert2_jax.artifacts.model import SavedModel
from dnabert2_jax.config.model import EncoderConfig, TaskKind
from dnabert2_jax.errors import UserError
from dnabert2_jax.tokenizer.special import PAD

CONFIG = "config.json"
PAIR_TOKEN_TYPES = "pair_token_types"
"""Our own key: false for a classifier that was trained with token type 0 for both sequences of a pair."""

_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
_OTHERS = ("type_vocab_size", "hidden_dropout_prob", "layer_norm_eps", "initializer_range")
_ONLY = {
    # Files from before 2024-02-22 have a model_type, later ones have none.
    "model_type": ("bert", None),
    "hidden_act": ("gelu", None),
    # Says "absolute" in every released file and is not read by the original: positions enter by ALiBi alone.
    "position_embedding_type": ("absolute", "alibi", None),
    "problem_type": ("single_label_classification", "multi_label_classification", "regression", None),
    "tie_word_embeddings": (True, None),
}
_REMOTE_CODE = "zhihan1996/DNABERT-2-117M"
_PROBLEMS: dict[TaskKind, str] = {
    "single_label": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}
_ARCHITECTURES = {"masked_lm": "BertForMaskedLM", "classifier": "BertForSequenceClassification"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HuggingFaceSettings:
    """What a ``config.json`` says.

    Attributes:
        encoder: the sizes.
        labels: class names by class number; None if there are none.
        num_labels: the number of classes; None if it is not given.
        token_types: the second sequence of a pair has token type 1.
        task: what a classifier's outputs mean; None if ``problem_type`` is not given.
    """

    encoder: EncoderConfig
    labels: tuple[str, ...] | None
    num_labels: int | None
    token_types: bool
    task: TaskKind | None


def read_settings(path: Path) -> HuggingFaceSettings:
    """Read a ``config.json`` of either generation.

    Keys that do not affect the results are ignored: ``alibi_starting_size`` (a first guess at the longest row),
    ``max_position_embeddings``, ``use_cache``, versions and names of classes.

    Raises:
        UserError: missing, not JSON, a size missing or impossible, or the settings of another architecture.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); download it into the directory") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); download it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, found a {type(content).__name__}; download it again")
    for key, accepted in _ONLY.items():
        if content.get(key) not in accepted:
            known = ", ".join(repr(value) for value in accepted if value is not None)
            raise UserError(
                f"{path}: {key} is {content[key]!r}, but DNABERT-2 has {known}; this is another model, which cannot be read"
            )
    if missing := [key for key in _SIZES if key not in content]:
        raise UserError(f"{path}: {', '.join(missing)} missing; use the config.json that belongs to the weights")
    try:
        encoder = EncoderConfig(**{key: content[key] for key in _SIZES + _OTHERS if key in content})
    except ValidationError as error:
        first = error.errors()[0]
        found = f"{first['loc'][0]}: {first['msg']}, found {first['input']!r}" if first["loc"] else first["ctx"]["error"]
        raise UserError(f"{path}: {found}; use the config.json that belongs to the weights") from error
    if content.get("attention_probs_dropout_prob"):
        logger.warning(
            "%s: attention_probs_dropout_prob %s is ignored: attention has no dropout here", path,
            content["attention_probs_dropout_prob"],
        )  # fmt: skip
    token_types = content.get(PAIR_TOKEN_TYPES, True)
    if not isinstance(token_types, bool):
        raise UserError(f"{path}: {PAIR_TOKEN_TYPES} is {token_types!r}, expected true or false; fix it")
    task = {problem: task for task, problem in _PROBLEMS.items()}.get(content.get("problem_type", ""))
    return HuggingFaceSettings(encoder, *_labels(path, content), token_types, task)


def make_settings(model: SavedModel) -> dict[str, Any]:
    """The ``config.json`` of a model: like the released one, so that the original's code loads it (by ``auto_map``)."""
    modules = {
        "AutoConfig": "configuration_bert.BertConfig",
        "AutoModel": "bert_layers.BertModel",
        "AutoModelForMaskedLM": "bert_layers.BertForMaskedLM",
        "AutoModelForSequenceClassification": "bert_layers.BertForSequenceClassification",
    }
    settings: dict[str, Any] = {
        "architectures": [_ARCHITECTURES[model.kind]],
        "auto_map": {name: f"{_REMOTE_CODE}--{module}" for name, module in modules.items()},
        **model.config.to_dict(),
        "alibi_starting_size": 512,
        "attention_probs_dropout_prob": 0.0,
        "classifier_dropout": None,
        "hidden_act": "gelu",
        "max_position_embeddings": 512,
        "pad_token_id": PAD,
        "position_embedding_type": "absolute",
        "torch_dtype": "float32",
    }
    if model.labels:
        settings["id2label"] = {str(number): label for number, label in enumerate(model.labels)}
        settings["label2id"] = {label: number for number, label in enumerate(model.labels)}
        settings["problem_type"] = _PROBLEMS[model.head.task]
    if not model.head.token_types:
        settings[PAIR_TOKEN_TYPES] = False
    return settings


def _labels(path: Path, content: Mapping[str, Any]) -> tuple[tuple[str, ...] | None, int | None]:
    """Class names and their number. The default names of transformers (LABEL_0, ...) become class numbers."""
    count, names = content.get("num_labels"), content.get("id2label")
    if count is not None and (not isinstance(count, int) or count < 1):
        raise UserError(f"{path}: num_labels is {count!r}, expected a positive integer; fix it")
    if names is None:
        return None, count
    if not isinstance(names, dict) or set(names) != {str(n) for n in range(len(names))}:
        raise UserError(f'{path}: id2label is {names!r}, expected a name for each class: {{"0": "no", "1": "yes"}}; fix it')
    if count is not None and count != len(names):
        raise UserError(f"{path}: num_labels is {count}, but id2label names {len(names)} classes; fix one of them")
    labels = [str(names[str(n)]) for n in range(len(names))]
    if labels == [f"LABEL_{n}" for n in range(len(labels))]:
        labels = [str(n) for n in range(len(labels))]
    if len(set(labels)) != len(labels):
        raise UserError(f"{path}: id2label gives two classes the same name: {', '.join(labels)}; give each its own")
    return tuple(labels), len(labels)
