"""All methods by name, for the Python API and the command line."""

from collections.abc import Callable
from inspect import signature
from typing import Any, get_args

from dnabert2_jax.config.inference import ExplainMethod
from dnabert2_jax.data.sequences import Sequences
from dnabert2_jax.errors import UserError, nearest
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.interpretation.attention import attention_maps
from dnabert2_jax.interpretation.dependency import dependency_maps
from dnabert2_jax.interpretation.ig import incomplete, integrated_gradients
from dnabert2_jax.interpretation.ism import ism
from dnabert2_jax.interpretation.results import Explanations
from dnabert2_jax.interpretation.saliency import saliency
from dnabert2_jax.progress import remark

_METHODS: dict[ExplainMethod, Callable[..., Explanations]] = {
    "ism": ism,
    "ig": integrated_gradients,
    "saliency": saliency,
    "attention": attention_maps,
    "dependency": dependency_maps,
}


def explain(
    model: InferenceModel, sequences: Sequences, method: ExplainMethod, title: str | None = None, **options: Any
) -> Explanations:
    """Explain a model's output for some sequences; warns if integrated gradients do not add up.

    Args:
        model: the model.
        sequences: single sequences.
        method: name of the method.
        title: label of the progress bar.
        **options: those of the method's function.

    Raises:
        UserError: an unknown method, an option that it does not have, or any error of the method.
    """
    if method not in _METHODS:
        accepted = get_args(ExplainMethod)
        raise UserError(f"method {method!r} is unknown; accepted are {', '.join(accepted)}{nearest(method, accepted)}")
    run = _METHODS[method]
    known = [name for name in signature(run).parameters if name not in ("model", "sequences", "title")]
    if unknown := [name for name in options if name not in known]:
        raise UserError(f"{method} has no option {unknown[0]!r}; it has {', '.join(known)}{nearest(unknown[0], known)}")
    results = run(model, sequences, title=title, **options)
    if method == "ig" and (warning := incomplete(results)):  # type: ignore[arg-type]
        remark(f"warning: {warning}")
    return results
