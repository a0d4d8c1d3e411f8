"""LoRA adapters in the layout of PEFT (Hugging Face): ``adapter_config.json`` and ``adapter_model.safetensors``.

PEFT keeps A as [r, in] and B as [out, r], separately for each layer, under the original's module names; here they are
stacked as [N, in, r] and [N, r, out]. The pooler and the classifier, trained with an adapter, are its ``modules_to_save``.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError
from safetensors import safe_open

from dnabert2_jax.artifacts.adapter import SavedAdapter
from dnabert2_jax.artifacts.model import SavedModel
from dnabert2_jax.artifacts.provenance import make_provenance
from dnabert2_jax.artifacts.tensors import flatten_tree, tree_sha256, unflatten_tree, write_tensors
from dnabert2_jax.config.model import HeadConfig, LoraConfig, LoraTarget
from dnabert2_jax.convert.names import CLASSIFIER, ENCODER, Row, differences, read_rows, their_shapes, write_rows
from dnabert2_jax.convert.weights import open_safetensors
from dnabert2_jax.errors import UserError
from dnabert2_jax.modeling.lora import target_shape
from dnabert2_jax.storage.atomic import write_json
from dnabert2_jax.storage.copies import local_copy
from dnabert2_jax.storage.directories import atomic_directory
from dnabert2_jax.storage.hashes import file_sha256
from dnabert2_jax.storage.overwriting import replacing

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

_OF_THE_HEAD = ("token_types", "max_tokens")
_PREFIX = "base_model.model."
"""What PEFT prepends to the names of the model that it wraps."""

MODULES: dict[LoraTarget, str] = {
    target: row.theirs.removesuffix(".weight")
    for target in ("Wqkv", "out", "gated_layers", "wo")
    for row in ENCODER
    if row.ours == f"encoder.layers.{target}.kernel"
}
"""The original's module of each target; ``{n}`` is the number of the layer."""

TABLE = (
    *(
        Row(f"{_PREFIX}{module}.lora_{matrix}.weight", f"adapter.{target}.{matrix}", transposed=True)
        for target, module in MODULES.items()
        for matrix in ("A", "B")
    ),
    *(row._replace(theirs=f"{_PREFIX}{row.theirs}") for row in CLASSIFIER),
)
"""PEFT's names of an adapter's tensors; an adapter need not have all of them."""

_UNSUPPORTED = ("use_dora", "fan_in_fan_out", "lora_bias", "rank_pattern", "alpha_pattern", "layer_replication")
"""Options that change what the matrices mean; an adapter that uses one is refused."""


def save_peft(directory: Path, adapter: SavedAdapter, *, force: bool = False) -> Path:
    """Write an adapter for ``PeftModel.from_pretrained``: whole, or not at all.

    Args:
        directory: created; may exist if it is empty.
        adapter: what to write; labels and head settings, which PEFT does not know, go into the metadata of the file.
        force: replace what such a call wrote there before.

    Returns:
        ``directory``.

    Raises:
        UserError: ``directory`` exists, or cannot be written; not an adapter of a single-label classifier that reads [CLS].
    """
    if adapter.head.task == "per_base":
        raise UserError(f"{adapter.path}: an adapter of a model that labels every base, which PEFT's layout cannot express")
    if adapter.head.task != "single_label":
        raise UserError(
            f"{adapter.path}: an adapter for the task {adapter.head.task}, which PEFT's layout cannot express; merge it "
            "with `dnabert2 merge`, and convert the model with `dnabert2 convert to-hf`"
        )
    if adapter.head.pooling != "cls":
        raise UserError(
            f"{adapter.path}: its classifier reads means over tokens, which the original's and PEFT's layout lacks"
        )
    flat = flatten_tree(adapter.params)
    tensors = write_rows([row for row in TABLE if row.ours in flat], flat)
    settings = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS",
        "base_model_name_or_path": str(adapter.base.path) if adapter.base.path else None,
        "r": adapter.lora.rank,
        "lora_alpha": adapter.lora.alpha,
        "lora_dropout": adapter.lora.dropout,
        "target_modules": [MODULES[target].partition("{n}.")[2] for target in adapter.lora.targets],
        "modules_to_save": ["pooler", "classifier"],
        "bias": "none",
        "inference_mode": True,
    }
    own = {"labels": adapter.labels, **{name: getattr(adapter.head, name) for name in _OF_THE_HEAD}}
    metadata = {"format": "pt", **{name: json.dumps(value) for name, value in own.items()}}
    with atomic_directory(directory, may_replace=replacing(CONFIG, "an adapter in PEFT's format", force=force)) as new:
        write_tensors(new / WEIGHTS, tensors, metadata)
        write_json(new / CONFIG, settings)
    return directory


def load_peft(directory: Path, base: SavedModel, command: Sequence[str] = ()) -> SavedAdapter:
    """Read an adapter that PEFT saved for a sequence classifier.

    Args:
        directory: with ``adapter_config.json`` and ``adapter_model.safetensors``.
        base: the model that it was trained on.
        command: the command line, for the provenance.

    Returns:
        The adapter without a path; :func:`~dnabert2_jax.artifacts.adapter.save_adapter` stores it. Labels and token types
        are those that :func:`save_peft` wrote; by default class numbers, and type 1 for the second sequence of a pair.

    Raises:
        UserError: a file is missing or damaged, the adapter is of another kind, or its tensors do not fit ``base``;
            the message lists all of them.
    """
    directory = local_copy(directory)
    settings = _read_settings(directory / CONFIG)
    path = directory / WEIGHTS
    if not path.is_file():
        raise UserError(f"{directory} holds no {WEIGHTS}; save the adapter with PEFT's save_pretrained()")
    file = open_safetensors(path)
    first = {target: f"{_PREFIX}{module}.lora_A.weight".format(n=0) for target, module in MODULES.items()}
    targets = tuple(target for target, name in first.items() if name in file.shapes)
    if not targets:
        raise UserError(
            f"{path}: holds no LoRA matrices of DNABERT-2; expected names like {first['Wqkv']}, found "
            f"{', '.join(list(file.shapes)[:3]) or 'none'}, ..."
        )
    lora = _lora(directory / CONFIG, settings, targets)
    shapes, layers = _shapes(base, lora) | _heads(path, file.shapes, base), base.config.num_hidden_layers
    rows = [row for row in TABLE if row.ours in shapes]
    if problems := differences(their_shapes(rows, shapes, layers), file.shapes):
        raise UserError(f"{path}: not an adapter for {base.path} at rank {lora.rank}: {'; '.join(problems)}")
    flat, problems = read_rows(rows, shapes, layers, lambda name: file.read(name).astype(np.float32))
    if problems:
        raise UserError(f"{path}: {'; '.join(problems)}; go back to an intact checkpoint")
    params = unflatten_tree(flat)
    if "pooler" not in params:
        params["pooler"] = base.params["pooler"]
    metadata = _metadata(path)
    provenance = make_provenance(
        command or ["load_peft", str(directory)],
        run_config={},
        parents={"peft": file_sha256(path), "base": tree_sha256(base.params["encoder"])},
        metrics={},
    )
    return SavedAdapter(
        base=base,
        params=params,
        lora=lora,
        labels=_labels(metadata, shapes["classifier.bias"][0]),
        head=HeadConfig(**{name: metadata[name] for name in _OF_THE_HEAD if name in metadata}),
        provenance=provenance,
    )


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text())
        kind = settings.get("peft_type")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name the directory that PEFT wrote") from error
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path}: not the settings of an adapter ({error}); save the adapter again") from error
    if kind != "LORA":
        raise UserError(f"{path}: peft_type is {kind!r}, accepted is 'LORA'")
    used = [name for name in _UNSUPPORTED if settings.get(name)]
    if settings.get("bias", "none") != "none":
        used.append(f"bias={settings['bias']}")
    if used:
        raise UserError(
            f"{path}: unsupported: {', '.join(used)}; merge the adapter with PEFT's merge_and_unload(), "
            "save the model, and read it with `dnabert2 convert from-hf`"
        )
    return settings


def _lora(path: Path, settings: Mapping[str, Any], targets: tuple[LoraTarget, ...]) -> LoraConfig:
    try:
        rank = settings["r"]
        # Rank-stabilized LoRA (Kalajdzievski 2023) scales by alpha / sqrt(r) instead of alpha / r.
        alpha = settings["lora_alpha"] * (rank**0.5 if settings.get("use_rslora") else 1)
        return LoraConfig(rank=rank, alpha=alpha, dropout=settings["lora_dropout"], targets=targets)
    except (KeyError, TypeError, ValidationError) as error:
        raise UserError(f"{path}: r, lora_alpha and lora_dropout must be numbers: {error!r}") from error


def _shapes(base: SavedModel, lora: LoraConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of the matrices of an adapter, by path."""
    shapes: dict[str, tuple[int, ...]] = {}
    for target in lora.targets:
        inputs, outputs = target_shape(base.config, target)
        shapes[f"adapter.{target}.A"] = (base.config.num_hidden_layers, inputs, lora.rank)
        shapes[f"adapter.{target}.B"] = (base.config.num_hidden_layers, lora.rank, outputs)
    return shapes


def _heads(path: Path, found: Mapping[str, tuple[int, ...]], base: SavedModel) -> dict[str, tuple[int, ...]]:
    """Shapes, by path, of the heads that the file must hold: the classifier, and the pooler unless the base has one."""
    name, hidden = f"{_PREFIX}classifier.weight", base.config.hidden_size
    if name not in found:
        raise UserError(f"{path}: holds no {name}; train with task_type 'SEQ_CLS', whose adapters keep the classifier")
    classes = found[name][0] if found[name] else 0
    if classes < 2:
        raise UserError(f"{path}: {name} has the shape {found[name]}; a classifier needs at least two classes")
    shapes: dict[str, tuple[int, ...]] = {"classifier.kernel": (hidden, classes), "classifier.bias": (classes,)}
    if any(part.startswith(f"{_PREFIX}bert.pooler.dense.") for part in found):
        return shapes | {"pooler.dense.kernel": (hidden, hidden), "pooler.dense.bias": (hidden,)}
    if "pooler" not in base.params:
        raise UserError(
            f"{path}: holds no pooler, and neither does {base.path}; train with modules_to_save=['pooler', "
            "'classifier'], or give as base the classifier that the adapter was trained on"
        )
    return shapes


def _metadata(path: Path) -> dict[str, Any]:
    """What :func:`save_peft` added to the file; empty in one that PEFT wrote."""
    with safe_open(path, "numpy") as opened:
        stored = opened.metadata() or {}
    return {name: json.loads(stored[name]) for name in ("labels", *_OF_THE_HEAD) if name in stored}


def _labels(metadata: Mapping[str, Any], classes: int) -> tuple[str, ...]:
    labels = tuple(map(str, metadata.get("labels", ())))
    return labels if len(labels) == classes else tuple(map(str, range(classes)))
