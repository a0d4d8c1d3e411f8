"""Shared code of saliency and integrated gradients: gradients along the path from an empty baseline to the sequence.

The baseline has the word embedding of [MASK] in place of every token except [CLS] and [SEP]. Gradients are per token; a
token's value is divided evenly over its bases, so it does not resolve single bases: only ism does.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.data.packing import padded_width
from dnabert2_jax.data.sequences import Sequences
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.inference.predictor import Forward, default_batch_tokens, memory_explained
from dnabert2_jax.interpretation.inputs import Ids, tokens_of
from dnabert2_jax.interpretation.target import Target, choose_target, target_values
from dnabert2_jax.progress import ProgressBar
from dnabert2_jax.tokenizer.special import CLS, MASK, PAD, SEP, with_template
from dnabert2_jax.types import HostOrDevice, TokenBatch, Tree

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Attributions:
    """The contribution of each token of one sequence to the target.

    Attributes:
        name: name of the sequence.
        sequence: its letters.
        unit: unit of the values.
        token_ids: its tokens, without [CLS] and [SEP]. [tokens].
        token_bases: bases of each token. [tokens].
        token_values: contribution of each token. [tokens].
        value: f of the sequence.
        baseline_value: f of the baseline; NaN where it was not computed (saliency).
    """

    name: str
    sequence: str
    unit: str
    token_ids: Ids
    token_bases: NDArray[np.int32]
    token_values: NDArray[np.float32]
    value: float
    baseline_value: float

    @property
    def contributions(self) -> NDArray[np.float32]:
        """Each token's value divided evenly over its bases. [L]."""
        shares = self.token_values / self.token_bases
        return np.repeat(shares, self.token_bases).astype(np.float32)

    @property
    def completeness_error(self) -> float:
        """The deviation of the sum of the values from f(sequence) - f(baseline), as a fraction of that difference."""
        difference = self.value - self.baseline_value
        missing = abs(float(self.token_values.sum(dtype=np.float64)) - difference)
        return missing / abs(difference) if difference else float(missing > 0)


class PathPoint(NamedTuple):
    """A point on the path: ``alpha`` is 0 at the baseline and 1 at the sequence; ``weight`` multiplies its gradients."""

    alpha: float
    weight: float


def attributions(
    method: str,
    model: InferenceModel,
    sequences: Sequences,
    target: str | None,
    points: Sequence[PathPoint],
    max_tokens: int | None,
    batch_tokens: int | None,
    title: str | None,
) -> list[Attributions]:
    """The contributions of the tokens of some sequences: weighted sums of gradient x step at points of the path to each.

    Args:
        method: the method that asks, for messages.
        model: a classifier of single sequences.
        sequences: single sequences, read whole.
        target: the class; may be omitted for a regression.
        points: points of the path; the last one is the sequence, and the first may be the baseline.
        max_tokens: longest sequence in tokens, special tokens included.
        batch_tokens: tokens of a batch; by default 4,096 on a CPU, 65,536 for each device elsewhere.
        title: label of the progress bar, in points of all sequences.

    Raises:
        UserError: not a classifier, no such class, a sequence that cannot be explained, or out of memory.
    """
    chosen = choose_target(model, target, method)
    token_ids = tokens_of(model, sequences, max_tokens)
    sums = _sums_along_path(chosen, token_ids, points, batch_tokens, title)
    return [
        Attributions(
            name,
            letters,
            chosen.unit,
            ids,
            model.tokenizer.token_bases(ids),
            own.token_sums.astype(np.float32),
            value=float(own.values[-1]),
            baseline_value=float(own.values[0]) if points[0].alpha == 0 else math.nan,
        )
        for name, letters, ids, own in zip(sequences.names, sequences.sequences, token_ids, sums, strict=True)
    ]


class _PathSums(NamedTuple):
    """For one sequence, f at each point, [points], and each token's weighted sum of gradient x step, [tokens]."""

    values: Floats
    token_sums: Floats


def _sums_along_path(
    target: Target, token_ids: Sequence[Ids], points: Sequence[PathPoint], batch_tokens: int | None, title: str | None
) -> list[_PathSums]:
    """Values of f and its gradients at some points of the path to each sequence."""
    tokens_at_once = batch_tokens or default_batch_tokens()
    forward, params = target.model.predictor.forward, target.model.predictor.params
    # At the released model size, activations of a few thousand tokens take gigabytes unless the blocks recompute them.
    forward = replace(forward, compute=replace(forward.compute, remat="full"))
    results = [_PathSums(np.zeros(len(points)), np.zeros(len(ids))) for ids in token_ids]
    widths = np.array([padded_width(len(ids) + 2) for ids in token_ids])
    with ProgressBar(title, len(token_ids) * len(points)) as bar, memory_explained():
        for width in np.unique(widths).tolist():
            rows = [(n, p) for n in np.flatnonzero(widths == width).tolist() for p in range(len(points))]
            height = min(max(1, tokens_at_once // width), 1 << (len(rows) - 1).bit_length())
            for first in range(0, len(rows), height):
                some = rows[first : first + height]
                padded = [*some, *[some[-1]] * (height - len(some))]  # keep the compiled shape
                batch = _batch([token_ids[n] for n, _ in padded], width)
                alphas = np.array([points[p].alpha for _, p in padded], np.float32)
                values, products = map(np.asarray, _at_points(forward, params, batch, target.number, alphas))
                for row, (n, p) in enumerate(some):
                    own = products[row, 1 : 1 + len(token_ids[n])]  # after [CLS]
                    results[n].values[p] = values[row]
                    results[n].token_sums[:] += points[p].weight * own.astype(np.float64)
                bar.advance(len(some))
    return results


def _batch(token_ids: Sequence[Ids], width: int) -> TokenBatch:
    ids = np.full((len(token_ids), width), PAD, np.int32)
    for row, own in zip(ids, token_ids, strict=True):
        row[: len(own) + 2] = with_template(own)
    return TokenBatch(ids, (ids != PAD).astype(np.int32), np.zeros_like(ids))


@partial(jax.jit, static_argnums=0)
def _at_points(
    forward: Forward, params: Tree, tokens: TokenBatch, number: HostOrDevice, alphas: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The value f of each row at its point, [B], and each token's gradient x (sequence - baseline), [B, T]."""

    def at_points(given: tuple[Tree, HostOrDevice], tokens: TokenBatch, alphas: jax.Array) -> tuple[jax.Array, jax.Array]:
        params, number = given
        ids, words = tokens.input_ids, params["encoder"]["embeddings"]["word"]
        special = (ids == CLS) | (ids == SEP) | (ids == PAD)
        start = words[jnp.where(special, ids, MASK)]
        way = words[ids] - start

        def total(vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
            values = target_values(forward, params, tokens, None, number, vectors)
            return values.sum(), values  # rows are independent: one gradient for all of them

        (_, values), gradients = jax.value_and_grad(total, has_aux=True)(start + alphas[:, None, None] * way)
        return values, (gradients * way).sum(-1)

    return forward.divided(at_points)((params, number), tokens, alphas)
