"""The model that --model or --adapter names, or several."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dnabert2_jax.config.model import PrecisionOption
from dnabert2_jax.errors import UserError

if TYPE_CHECKING:
    from dnabert2_jax.inference.model import InferenceModel


def open_named(
    model: Path | None, adapter: Path | None, base: Path | None, precision: PrecisionOption, attention: str
) -> "InferenceModel":
    """Read a model, or an adapter with its base.

    Raises:
        UserError: both or neither are given, or it cannot be read.
    """
    from dnabert2_jax.inference.model import InferenceModel
    from dnabert2_jax.modeling.compute import resolve_compute

    if (model is None) == (adapter is None):
        raise UserError("give either --model (a model or adapter directory) or --adapter (an adapter directory)")
    return InferenceModel.load(model or adapter or Path(), resolve_compute(precision, attention), base)


def open_ensemble(
    models: Sequence[Path] | None,
    adapter: Path | None,
    base: Path | None,
    precision: PrecisionOption,
    attention: str = "auto",
    task: str = "prediction",
) -> "list[InferenceModel]":
    """Read one classifier, or several that predict the same.

    Raises:
        UserError: as :func:`open_named`, or they do not predict the same.
    """
    from dnabert2_jax.inference.prediction import check_ensemble

    first, others = (models[0], models[1:]) if models else (None, ())
    opened = [open_named(first, adapter, base, precision, attention)]
    opened += [open_named(other, None, base, precision, attention) for other in others]
    check_ensemble(opened, task)
    return opened
