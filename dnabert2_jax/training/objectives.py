"""Losses as sums over examples, so that accumulation, fill rows and several devices all add up to the same mean."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.config.model import LoraConfig
from dnabert2_jax.modeling.models import MaskedLM, Network, SequenceClassifier, classification_logits
from dnabert2_jax.types import ClassificationBatch, MlmBatch, Tree


class Sums(NamedTuple):
    """Weighted sums over the predictions of a batch; scalars in float32.

    Attributes:
        loss: cross-entropy in nats; of a regression the squared error in squared deviations.
        correct: right predictions; with several labels a row, the share of them that is right; 0 of a regression.
        weight: predictions that counted.
    """

    loss: jax.Array
    correct: jax.Array
    weight: jax.Array


Loss = Callable[[Tree, Tree, Any, bool], Sums]
"""(trainable, frozen, batch, training) -> sums. The two trees together are the parameters, split by top-level name."""


def _cross_entropy(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> Sums:
    log_probabilities = jax.nn.log_softmax(logits)
    chosen = jnp.take_along_axis(log_probabilities, labels[..., None], axis=-1)[..., 0]
    correct = (logits.argmax(-1) == labels).astype(jnp.float32)
    return Sums(-(chosen * weights).sum(), (correct * weights).sum(), weights.sum())


def mlm_loss(network: Network[MaskedLM]) -> Loss:
    """Cross-entropy of the masked tokens."""

    def loss(trainable: Tree, frozen: Tree, batch: MlmBatch, training: bool) -> Sums:
        model = network.bind({**trainable, **frozen})
        seeds = batch.dropout_seeds if training else None
        logits = model.logits(batch.tokens, batch.masked_positions, dropout_seeds=seeds)
        return _cross_entropy(logits, batch.masked_labels, batch.masked_weights)

    return loss


def mlm_loss_by_species(network: Network[MaskedLM], species: int) -> Loss:
    """The sums of :func:`mlm_loss` for each species, [species]; a batch is (rows, species number of each row [B])."""

    def loss(trainable: Tree, frozen: Tree, batch: tuple[MlmBatch, jax.Array], training: bool) -> Sums:
        rows, numbers = batch
        seeds = rows.dropout_seeds if training else None
        logits = network.bind({**trainable, **frozen}).logits(rows.tokens, rows.masked_positions, dropout_seeds=seeds)
        by_row = jax.vmap(_cross_entropy)(logits, rows.masked_labels, rows.masked_weights)
        return jax.tree.map(lambda sums: jax.ops.segment_sum(sums, numbers, species), by_row)

    return loss


def classification_loss(
    network: Network[SequenceClassifier],
    lora: LoraConfig | None = None,
    *,
    label_smoothing: float = 0.0,
    class_weights: NDArray[np.float32] | None = None,
) -> Loss:
    """Cross-entropy of the labels; fill rows weigh nothing.

    Args:
        network: the model.
        lora: settings of the adapter, where there is one.
        label_smoothing: share of each label that is spread evenly over all classes (Szegedy et al. 2016).
        class_weights: factor of each class's loss, [C]. The sum is still divided by rows: weights with a mean of 1 over the
            table then give the same gradient on average whatever rows a batch happens to hold.
    """

    def loss(trainable: Tree, frozen: Tree, batch: ClassificationBatch, training: bool) -> Sums:
        logits = classification_logits(network, {**trainable, **frozen}, batch, lora, training)
        weights = batch.weights if class_weights is None else batch.weights * jnp.asarray(class_weights)[batch.labels]
        sums = _cross_entropy(logits, batch.labels, weights)
        if label_smoothing:
            evenly = -(jax.nn.log_softmax(logits).mean(-1) * weights).sum()
            sums = sums._replace(loss=(1 - label_smoothing) * sums.loss + label_smoothing * evenly)
        if class_weights is not None:
            rows = _cross_entropy(logits, batch.labels, batch.weights)
            sums = Sums(sums.loss, rows.correct, rows.weight)
        return sums

    return loss


def multi_label_loss(network: Network[SequenceClassifier], lora: LoraConfig | None = None) -> Loss:
    """Binary cross-entropy, the mean over a row's labels; fill rows weigh nothing."""

    def loss(trainable: Tree, frozen: Tree, batch: ClassificationBatch, training: bool) -> Sums:
        logits = classification_logits(network, {**trainable, **frozen}, batch, lora, training)
        right = jnp.where(batch.labels > 0, logits, -logits)
        nats = -jax.nn.log_sigmoid(right).mean(-1)
        correct = (right > 0).astype(jnp.float32).mean(-1)
        return Sums((nats * batch.weights).sum(), (correct * batch.weights).sum(), batch.weights.sum())

    return loss


def regression_loss(
    network: Network[SequenceClassifier], lora: LoraConfig | None = None, *, mean: float, deviation: float
) -> Loss:
    """Squared error in units of the training table's deviation; fill rows weigh nothing."""

    def loss(trainable: Tree, frozen: Tree, batch: ClassificationBatch, training: bool) -> Sums:
        outputs = classification_logits(network, {**trainable, **frozen}, batch, lora, training)[..., 0]
        squares = jnp.square(outputs - (batch.labels - mean) / deviation)
        return Sums((squares * batch.weights).sum(), jnp.zeros(()), batch.weights.sum())

    return loss
