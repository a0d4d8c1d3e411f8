"""Saliency: gradient x (input - baseline) of each token, from one backward pass per sequence.

A first-order estimate of what :mod:`~dnabert2_jax.interpretation.ig` integrates; contributions need not add up.
"""

from dnabert2_jax.data.sequences import Sequences
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.interpretation.gradients import Attributions, PathPoint, attributions


def saliency(
    model: InferenceModel,
    sequences: Sequences,
    target: str | None = None,
    *,
    max_tokens: int | None = None,
    batch_tokens: int | None = None,
    title: str | None = None,
) -> list[Attributions]:
    """Saliency of some sequences.

    Arguments, result and errors are those of :func:`~dnabert2_jax.interpretation.ig.integrated_gradients`.
    """
    return attributions("saliency", model, sequences, target, [PathPoint(1, 1)], max_tokens, batch_tokens, title)
