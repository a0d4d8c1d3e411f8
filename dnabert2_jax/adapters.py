"""Adapters as directories: merging one into its base, and taking one out of a model that was trained from a base."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import jax
import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.config.model import LoraConfig, LoraTarget
from dnabert2_jax.errors import UserError
from dnabert2_jax.model_directory import (
    ADAPTER,
    SavedAdapter,
    SavedModel,
    flatten_tree,
    is_adapter_directory,
    make_provenance,
    tree_sha256,
)
from dnabert2_jax.modeling.lora import merge_adapter
from dnabert2_jax.types import Tree


def merged(adapter: SavedAdapter) -> SavedModel:
    """The classifier that an adapter and its base make together, with W + scale A B in place of each W; not saved yet."""
    encoder = merge_adapter(
        jax.device_put(adapter.base.params["encoder"]), jax.device_put(adapter.params["adapter"]), adapter.lora
    )
    heads = {name: part for name, part in adapter.params.items() if name != "adapter"}
    made = adapter.provenance
    return SavedModel(
        kind="classifier",
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
        ),
    )


def find_adapters(directories: Iterable[Path]) -> list[Path]:
    """The adapter directories among and below some directories, in order.

    Raises:
        UserError: one of them does not exist, or holds no adapter.
    """
    found: list[Path] = []
    for directory in directories:
        if not directory.is_dir():
            raise UserError(f"{directory} is not a directory; name adapter directories, or one that holds some")
        here = (
            [directory]
            if is_adapter_directory(directory)
            else sorted(file.parent for file in directory.rglob(ADAPTER) if not file.parent.name.startswith("."))
        )
        if not here:
            raise UserError(
                f"{directory}: no adapter in or below it (a directory with {ADAPTER}); `dnabert2 finetune --set "
                "training.method=lora` makes one"
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
    1936). A merged adapter comes back whole; of a model that was fine-tuned in full, whatever the targets and the rank
    cannot express is lost, and that share is measured.

    Args:
        model: a classifier.
        base: the model it was trained from.
        rank: r of the adapter.
        targets: projections to give one.
        max_loss: largest share of the encoder's change, as a Frobenius norm, that may be lost, in [0, 1].
        progress: called after each target.

    Returns:
        The adapter, not saved yet, with scale 1; and the share that it loses.

    Raises:
        UserError: not a classifier, not one of this base's sizes and tokenizer, or more would be lost.
    """
    if model.kind != "classifier":
        raise UserError(f"{model.path} is a {model.kind}; an adapter directory holds a classifier's heads")
    if model.config != base.config or model.tokenizer.sha256 != base.tokenizer.sha256:
        raise UserError(
            f"{model.path} has other sizes or another tokenizer than {base.path}; name the base it was made from"
        )
    lora = LoraConfig(rank=rank, alpha=float(rank), dropout=0.0, targets=tuple(targets))
    of_model, of_base = (flatten_tree(part.params["encoder"]) for part in (model, base))
    changes = {name: of_model[name].astype(np.float32) - of_base[name] for name in of_base}
    if not any(change.any() for change in changes.values()):
        raise UserError(f"{model.path} has the encoder of {base.path}, unchanged: there is no adapter to take out")

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
    )
    params = {"adapter": adapter, **heads}
    saved = SavedAdapter(base=base, params=params, lora=lora, labels=model.labels, head=model.head, provenance=provenance)
    return saved, loss


def _padded(matrix: NDArray[np.float32], rank: int, axis: int) -> NDArray[np.float32]:
    """Zeros up to the rank where a projection is narrower than it."""
    width = [(0, 0)] * matrix.ndim
    width[axis] = (0, rank - matrix.shape[axis])
    return np.pad(matrix, width)
