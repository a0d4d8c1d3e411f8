"""Integrated gradients (Sundararajan et al. 2017): contributions of tokens that add up to f(sequence) - f(baseline).

The path is a straight line from [MASK] embeddings to those of the sequence; the integral is a Gauss-Legendre sum.
"""

import numpy as np

from dnabert2_jax.data.sequences import Sequences
from dnabert2_jax.errors import UserError
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.interpretation.gradients import Attributions, PathPoint, attributions

POINTS = 64
"""Default number of points; the sum is then exact for polynomials of degree 127."""

LARGEST_ERROR = 0.01
"""Maximum completeness error without a warning, as a fraction of f(sequence) - f(baseline)."""


def integrated_gradients(
    model: InferenceModel,
    sequences: Sequences,
    target: str | None = None,
    *,
    points: int = POINTS,
    max_tokens: int | None = None,
    batch_tokens: int | None = None,
    title: str | None = None,
) -> list[Attributions]:
    """Integrated gradients of some sequences.

    Args:
        model: a classifier of single sequences.
        sequences: single sequences, read whole.
        target: the class; may be omitted for a regression.
        points: number of points of the sum; increase it if contributions do not add up.
        max_tokens: longest sequence in tokens, special tokens included.
        batch_tokens: tokens of a batch; by default 4,096 on a CPU, 65,536 for each device elsewhere.
        title: label of the progress bar, in points of the paths.

    Returns:
        One result for each sequence; see :func:`incomplete`.

    Raises:
        UserError: not a classifier, no such class, no points, a sequence that cannot be explained, or out of memory.
    """
    if points < 1:
        raise UserError(f"--points {points}: the sum needs at least 1 point")
    nodes, weights = np.polynomial.legendre.leggauss(points)  # on [-1, 1]
    inner = [PathPoint((1 + node) / 2, weight / 2) for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True)]
    path = [PathPoint(0, 0), *inner, PathPoint(1, 0)]
    return attributions("ig", model, sequences, target, path, max_tokens, batch_tokens, title)


def incomplete(results: list[Attributions]) -> str | None:
    """A warning if contributions of some sequences do not add up to within 1 %; None if all do."""
    errors = {result.name: result.completeness_error for result in results}
    if not (bad := {name: error for name, error in errors.items() if not error <= LARGEST_ERROR}):
        return None
    worst = max(bad, key=bad.__getitem__)
    return (
        f"contributions of {len(bad):,} of {len(results):,} sequences miss f(sequence) - f(baseline) by more than "
        f"{LARGEST_ERROR:.0%}, the worst {worst!r} by {bad[worst]:.1%}: raise --points (points=), and compute in float32; "
        "if f(sequence) is near f(baseline), there is little to divide"
    )
