"""A LoRA adapter and its directory; merging one into its base, and extracting one from a fine-tuned model."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.artifacts.directory import ADAPTER, is_adapter_directory, read, to_read, writing
from dnabert2_jax.artifacts.model import SavedModel, classifier_kind, load_model
from dnabert2_jax.artifacts.provenance import make_provenance
from dnabert2_jax.artifacts.tensors import check_finite, flatten_tree, tree_sha256, unflatten_tree
from dnabert2_jax.config.model import ORIGINAL_HEAD, HeadConfig, LoraConfig, LoraTarget
from dnabert2_jax.errors import UserError
from dnabert2_jax.modeling.lora import merge_adapter
from dnabert2_jax.models import shipped_model
from dnabert2_jax.storage.directories import existing_directory
from dnabert2_jax.storage.paths import StrPath, absolute, as_path
from dnabert2_jax.types import Tree


@dataclass(frozen=True, kw_only=True)
class SavedAdapter:
    """A LoRA adapter with its trained heads, and the model that it adapts.

    Attributes:
        base: the model whose encoder the adapter was trained on.
        params: nested dict of host arrays: ``{"adapter": {target: {"A", "B"}}, "pooler": ..., "classifier": ...}``, the
            heads being those of the task.
        lora: the settings it was trained with.
        labels: class names by class number.
        head: how it reads a sequence, and what its outputs mean.
        provenance: how it was made, see :func:`~dnabert2_jax.artifacts.provenance.make_provenance`.
        path: its directory; None until it is saved.
    """

    base: SavedModel
    params: Tree
    lora: LoraConfig
    labels: tuple[str, ...]
    head: HeadConfig = ORIGINAL_HEAD
    provenance: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None


def save_adapter(path: StrPath, adapter: SavedAdapter) -> SavedAdapter:
    """Write ``adapter`` to the directory ``path``; an existing adapter directory is replaced.

    Only the adapter and the heads are written. The base is recorded by the hashes of its encoder and tokenizer and by its
    path, both relative (so that the two can move together) and absolute.

    Returns:
        ``adapter`` with its new path.

    Raises:
        UserError: a weight is not finite, something else exists at ``path``, or it cannot be written.
        ValueError: the base has no directory yet.
    """
    path = absolute(path)
    if adapter.base.path is None:
        raise ValueError("the adapter's base has no directory: save the base with save_model, and use the model it returns")
    tensors = flatten_tree(adapter.params)
    check_finite(path, tensors)
    header = {
        "lora": adapter.lora.to_dict(),
        "labels": list(adapter.labels),
        "base_sha256": tree_sha256(adapter.base.params["encoder"]),
        "base_tokenizer_sha256": adapter.base.tokenizer.sha256,
        "base_path": os.path.relpath(adapter.base.path, path),
        "base_absolute_path": str(adapter.base.path),
    }
    with writing(path, ADAPTER, header, adapter.head, tensors, adapter.provenance):
        pass
    return replace(adapter, path=path)


def load_adapter(
    path: StrPath,
    base: SavedModel | None = None,
    *,
    read_base: Callable[[Path], SavedModel] = load_model,
) -> SavedAdapter:
    """Read the adapter directory ``path`` and its base.

    Args:
        path: the adapter directory.
        base: the model it was trained on; loaded from where the adapter says it is by default.
        read_base: how to read it from there, if it may be in another format than a model directory.

    Raises:
        UserError: there is no adapter directory, a file is missing or damaged, the base is not found, or the base's encoder
            or tokenizer is not the one the adapter was trained on.
    """
    path = absolute(path)
    source = to_read(path)
    content = read(source, ADAPTER)
    header = content.header
    check_finite(source, content.tensors)
    if base is None:
        # The base's path relative to the adapter, and its absolute path when saved; the same unless they were moved.
        candidates = list(
            dict.fromkeys((as_path(os.path.normpath(path / header["base_path"])), as_path(header["base_absolute_path"])))
        )
        found = next(
            (candidate for candidate in candidates if shipped_model(candidate) or existing_directory(candidate).is_dir()),
            None,
        )
        if found is None:
            raise UserError(
                f"{path}: its base model is {'neither' if len(candidates) > 1 else 'not'} at "
                f"{' nor at '.join(map(str, candidates))}; give the directory of the base whose encoder has sha256 "
                f"{header['base_sha256']}"
            )
        base = read_base(found)
    for part, trained_on, given in (
        ("encoder", header["base_sha256"], tree_sha256(base.params["encoder"])),
        ("tokenizer", header["base_tokenizer_sha256"], base.tokenizer.sha256),
    ):
        if given != trained_on:
            already = part == "encoder" and base.provenance.get("parents", {}).get("base") == trained_on
            raise UserError(
                f"{path}: the adapter was trained on a base whose {part} has sha256 {trained_on}, but that of "
                f"{base.path or 'the base given'} has {given}"
                + ("; it was made from that base, with an adapter in it already if it was merged" if already else "")
                + "; name the base it was trained on"
            )
    return SavedAdapter(
        base=base,
        params=unflatten_tree(content.tensors),
        lora=LoraConfig(**header["lora"]),
        labels=tuple(header["labels"]),
        head=content.head,
        provenance=content.provenance,
        path=path,
    )


def merged(adapter: SavedAdapter) -> SavedModel:
    """The classifier that an adapter and its base form together, with W + scale A B in place of each W; not saved yet."""
    encoder = merge_adapter(
        jax.device_put(adapter.base.params["encoder"]), jax.device_put(adapter.params["adapter"]), adapter.lora
    )
    heads = {name: part for name, part in adapter.params.items() if name != "adapter"}
    made = adapter.provenance
    return SavedModel(
        kind=classifier_kind(adapter.head),
        config=adapter.base.config,
        params={"encoder": jax.device_get(encoder), **heads},
        tokenizer=adapter.base.tokenizer,
        labels=adapter.labels,
        head=adapter.head,
        provenance=make_provenance(
            ["dnabert2", "merge"],
            run_config=made.get("run_config", {}),
            parents={"adapter": tree_sha256(adapter.params), "base": tree_sha256(adapter.base.params["encoder"])},
            metrics=made.get("metrics", {}),
            training_data=made.get("training_data"),
        ),
    )


def find_adapters(directories: Iterable[Path]) -> list[Path]:
    """The adapter directories among and below the given directories, in order.

    Raises:
        UserError: one of them does not exist, or holds no adapter.
    """
    found: list[Path] = []
    for directory in directories:
        if not directory.is_dir():
            raise UserError(f"{directory} is not a directory; name adapter directories, or a directory that contains some")
        here = (
            [directory]
            if is_adapter_directory(directory)
            else sorted(file.parent for file in directory.rglob(ADAPTER.header) if not file.parent.name.startswith("."))
        )
        if not here:
            raise UserError(
                f"{directory}: no adapter in or below it (a directory with {ADAPTER.header}); `dnabert2 finetune --set "
                "training.method=lora` creates one"
            )
        found += [path for path in here if path not in found]
    return found


def extract_adapter(
    model: SavedModel,
    base: SavedModel,
    *,
    rank: int,
    targets: Sequence[LoraTarget],
    max_loss: float,
    progress: Callable[[], None] = lambda: None,
) -> tuple[SavedAdapter, float]:
    """The adapter of a given rank on ``base`` that comes closest to ``model``, by singular value decomposition.

    The best approximation of a weight's change in the Frobenius norm is the truncated decomposition (Eckart and Young
    1936). A merged adapter is recovered exactly; for a fully fine-tuned model, whatever the targets and the rank
    cannot express is lost, and that fraction is measured.

    Args:
        model: a classifier.
        base: the model it was trained from.
        rank: rank r of the adapter.
        targets: the projections it covers.
        max_loss: largest fraction of the encoder's change (Frobenius norm) that may be lost, in [0, 1].
        progress: called after each target.

    Returns:
        The adapter, not saved yet, with scale 1; and the fraction it loses.

    Raises:
        UserError: not a classifier, not of the sizes and tokenizer of this base, or too much would be lost.
    """
    if model.kind == "masked_lm":
        raise UserError(f"{model.path} is a {model.kind}; an adapter can only be extracted from a classifier")
    if model.config != base.config or model.tokenizer.sha256 != base.tokenizer.sha256:
        raise UserError(f"{model.path} differs in size or tokenizer from {base.path}; name the base it was trained from")
    lora = LoraConfig(rank=rank, alpha=float(rank), dropout=0.0, targets=tuple(targets))
    of_model, of_base = (flatten_tree(part.params["encoder"]) for part in (model, base))
    changes = {name: of_model[name].astype(np.float32) - of_base[name] for name in of_base}
    if not any(change.any() for change in changes.values()):
        raise UserError(f"{model.path} has the unchanged encoder of {base.path}: there is no adapter to extract")

    adapter: Tree = {}
    lost = {name: float(np.vdot(change, change)) for name, change in changes.items()}
    total = sum(lost.values())
    for target in lora.targets:
        name = f"layers.{target}.kernel"
        left, singular, right = np.linalg.svd(changes[name], full_matrices=False)
        adapter[target] = {
            "A": _padded(left[:, :, :rank] * np.sqrt(singular[:, None, :rank]), rank, axis=2),
            "B": _padded(right[:, :rank] * np.sqrt(singular[:, :rank, None]), rank, axis=1),
        }
        lost[name] = float(np.square(singular[:, rank:], dtype=np.float64).sum())
        progress()
    loss = float(np.sqrt(sum(lost.values()) / total))
    if loss > max_loss:
        worst = max(lost, key=lambda name: lost[name])
        raise UserError(
            f"an adapter of rank {rank} on {', '.join(targets)} would lose {loss:.2%} of what {model.path} changed in its "
            f"base, most of it in encoder.{worst}; accepted is {max_loss:.2%}: raise --rank, add targets, or accept the "
            "loss with --max-loss"
        )
    heads = {name: part for name, part in model.params.items() if name != "encoder"}
    provenance = make_provenance(
        ["dnabert2", "adapters", "extract"],
        run_config=model.provenance.get("run_config", {}),
        parents={"model": tree_sha256(model.params), "base": tree_sha256(base.params["encoder"])},
        metrics={"extraction_loss": loss},
        training_data=model.provenance.get("training_data"),
    )
    params = {"adapter": adapter, **heads}
    saved = SavedAdapter(base=base, params=params, lora=lora, labels=model.labels, head=model.head, provenance=provenance)
    return saved, loss


def _padded(matrix: NDArray[np.float32], rank: int, axis: int) -> NDArray[np.float32]:
    """Pad with zeros up to the rank, for projections narrower than it."""
    width = [(0, 0)] * matrix.ndim
    width[axis] = (0, rank - matrix.shape[axis])
    return np.pad(matrix, width)
