"""The model that --model or --adapter names."""

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
