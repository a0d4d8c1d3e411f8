"""Losses as sums over examples, so that accumulation, fill rows and multiple devices all yield the same mean."""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.config.model import LoraConfig
from dnabert2_jax.config.runs import Epochs
from dnabert2_jax.data.labels import Measurements, Target
from dnabert2_jax.modeling.gather import values_at
from dnabert2_jax.modeling.models import Classifier, MaskedLM, Network, class_logits
from dnabert2_jax.types import ClassificationBatch, MlmBatch, Tree


class Sums(NamedTuple):
    """Weighted sums over the predictions of a batch; scalars in float32.

    Attributes:
        loss: cross-entropy in nats; for a regression, the squared error in squared standard deviations.
        correct: correct predictions; with several labels per row, the fraction of them that is correct; 0 for a regression.
        weight: number of predictions that count.
    """

    loss: jax.Array
    correct: jax.Array
    weight: jax.Array


Loss = Callable[[Tree, Tree, Any, bool], Sums]
"""(trainable, frozen, batch, training) -> sums. The two trees together are the parameters, split by top-level name."""


def masked_lm_means(total: Sums) -> dict[str, float]:
    """Means from sums over masked tokens: ``loss``, ``perplexity`` and ``masked_accuracy``."""
    loss = float(total.loss) / float(total.weight)
    # The perplexity of a diverged run overflows to infinity.
    return {
        "loss": loss,
        "perplexity": math.exp(loss) if loss < 700 else math.inf,
        "masked_accuracy": float(total.correct) / float(total.weight),
    }


def _cross_entropy(logits: jax.Array, labels: jax.Array, weights: jax.Array, gamma: float = 0.0) -> Sums:
    log_probabilities = jax.nn.log_softmax(logits)
    chosen = values_at(log_probabilities, labels)
    if gamma:
        others = labels[..., None] != jnp.arange(logits.shape[-1])
        missing = jax.nn.logsumexp(logits, axis=-1, where=others) - jax.nn.logsumexp(logits, axis=-1)
        chosen = _focal(chosen, missing, gamma)
    correct = (logits.argmax(-1) == labels).astype(jnp.float32)
    return Sums(-(chosen * weights).sum(), (correct * weights).sum(), weights.sum())


def _binary_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
    class_weights: tuple[tuple[float, ...], ...] | None = None,
    gamma: float = 0.0,
) -> Sums:
    right = jnp.where(labels > 0, logits, -logits)
    log_p = jax.nn.log_sigmoid(right)
    if gamma:
        log_p = _focal(log_p, jax.nn.log_sigmoid(-right), gamma)
    if class_weights is not None:
        absent, present = jnp.asarray(class_weights, jnp.float32)
        log_p = log_p * jnp.where(labels > 0, present, absent)
    correct = (right > 0).astype(jnp.float32).mean(-1)
    return Sums((-log_p.mean(-1) * weights).sum(), (correct * weights).sum(), weights.sum())


def _focal(log_p: jax.Array, log_rest: jax.Array, gamma: float) -> jax.Array:
    """(1 - p)^gamma ln p, from ln p and ln(1 - p), both of which are finite where p rounds to 1, as are the gradients."""
    return jnp.exp(gamma * log_rest) * log_p


@lru_cache
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


def _logits(
    network: Classifier, params: Tree, batch: ClassificationBatch, lora: LoraConfig | None, training: bool
) -> jax.Array:
    return class_logits(network, params, batch, lora, batch.dropout_seeds if training else None)


@lru_cache
def classification_loss(
    network: Classifier,
    lora: LoraConfig | None = None,
    *,
    label_smoothing: float = 0.0,
    class_weights: tuple[float, ...] | None = None,
    focal_gamma: float = 0.0,
) -> Loss:
    """Cross-entropy of the labels, or their focal loss; fill rows have no weight.

    Args:
        network: the model.
        lora: settings of the adapter, if there is one.
        label_smoothing: fraction of each label that is spread evenly over all classes (Szegedy et al. 2016).
        class_weights: factor of each class's loss, [C]. The sum is still divided by rows: weights with a mean of 1 over the
            table then give the same gradient on average, regardless of which rows a batch holds.
        focal_gamma: the exponent of (1 - p), by which the loss of a label of probability p is multiplied (Lin et al. 2017).
    """

    def loss(trainable: Tree, frozen: Tree, batch: ClassificationBatch, training: bool) -> Sums:
        logits = _logits(network, {**trainable, **frozen}, batch, lora, training)
        weights = (
            batch.weights if class_weights is None else batch.weights * jnp.asarray(class_weights, jnp.float32)[batch.labels]
        )
        sums = _cross_entropy(logits, batch.labels, weights, focal_gamma)
        if label_smoothing:
            evenly = -(jax.nn.log_softmax(logits).mean(-1) * weights).sum()
            sums = sums._replace(loss=(1 - label_smoothing) * sums.loss + label_smoothing * evenly)
        if class_weights is not None:
            rows = _cross_entropy(logits, batch.labels, batch.weights)
            sums = Sums(sums.loss, rows.correct, rows.weight)
        return sums

    return loss


@lru_cache
def multi_label_loss(
    network: Classifier,
    lora: LoraConfig | None = None,
    *,
    class_weights: tuple[tuple[float, ...], ...] | None = None,
    focal_gamma: float = 0.0,
) -> Loss:
    """Binary cross-entropy, or focal loss, averaged over the labels of a row or base; fill rows have no weight.

    Args:
        network: the model.
        lora: settings of the adapter, if there is one.
        class_weights: factors of each label's loss where it is absent and where it is present, [2, C].
        focal_gamma: as for :func:`classification_loss`, for each label.
    """

    def loss(trainable: Tree, frozen: Tree, batch: ClassificationBatch, training: bool) -> Sums:
        logits = _logits(network, {**trainable, **frozen}, batch, lora, training)
        return _binary_cross_entropy(logits, batch.labels, batch.weights, class_weights, focal_gamma)

    return loss


@lru_cache
def regression_loss(network: Classifier, lora: LoraConfig | None = None, *, mean: float, deviation: float) -> Loss:
    """Squared error in units of the training table's standard deviation; fill rows have no weight."""

    def loss(trainable: Tree, frozen: Tree, batch: ClassificationBatch, training: bool) -> Sums:
        outputs = _logits(network, {**trainable, **frozen}, batch, lora, training)[..., 0]
        squares = jnp.square(outputs - (batch.labels - mean) / deviation)
        return Sums((squares * batch.weights).sum(), jnp.zeros(()), batch.weights.sum())

    return loss


def table_loss(network: Classifier, labels: Target, train: NDArray[Any], schedule: Epochs, lora: LoraConfig | None) -> Loss:
    """The training loss of a fine-tuning run, by kind of labels; where every base has a label, means are over bases.

    Args:
        network: the model.
        labels: what is to be predicted.
        train: the encoded labels of the training rows.
        schedule: holds the smoothing, the class weights, and the exponent of focal loss.
        lora: settings of the adapter, if there is one.
    """
    if isinstance(labels, Measurements):
        return regression_loss(network, lora, mean=labels.mean, deviation=labels.deviation)
    balanced, gamma = schedule.class_weights == "balanced", schedule.focal_gamma
    if labels.head.independent:
        by_label = tuple(map(tuple, balanced_label_weights(train).tolist())) if balanced else None
        return multi_label_loss(network, lora, class_weights=by_label, focal_gamma=gamma)
    weights = tuple(balanced_weights(train, len(labels)).tolist()) if balanced else None
    smoothing = schedule.label_smoothing
    return classification_loss(network, lora, label_smoothing=smoothing, class_weights=weights, focal_gamma=gamma)


def table_means(labels: Target) -> Callable[[Sums], dict[str, float]]:
    """Converts the sums of :func:`table_loss` to means: ``loss`` and, except for a regression, ``accuracy``."""

    def means(total: Sums) -> dict[str, float]:
        loss = {"loss": float(total.loss) / float(total.weight)}
        return loss if labels.head.task == "regression" else {**loss, "accuracy": float(total.correct) / float(total.weight)}

    return means


def frequency_logits(labels: NDArray[Any], target: Target) -> NDArray[np.float32]:
    """The bias with which a classifier of features 0 predicts how often each class or label occurs, [C].

    Without it, the first steps learn that most bases have no label, with gradients so large that AdamW scales down what
    follows for hundreds of steps (Lin et al. 2017, section 4.1, for the same in detectors of objects).

    Args:
        labels: of the training rows; negative ones do not count. [rows, L], or [rows, L, C] with several labels.
        target: what is to be predicted.
    """
    if target.head.independent:
        flat = labels.reshape(-1, labels.shape[-1])
        absent, present = ((flat == value).sum(0) for value in (0, 1))
        return np.log(np.maximum(present, 1) / np.maximum(absent, 1)).astype(np.float32)
    counts = np.maximum(np.bincount(labels[labels >= 0], minlength=len(target)), 1)
    return np.log(counts / counts.sum()).astype(np.float32)


def balanced_weights(labels: NDArray[np.integer], num_classes: int) -> NDArray[np.float32]:
    """Class weights n / (C n_c): every class contributes equally to the loss, and the mean over the table is 1. [C].

    Args:
        labels: class numbers; negative ones do not count. [rows] or [rows, L].
        num_classes: C.
    """
    counts = np.bincount(labels[labels >= 0], minlength=num_classes)
    return (counts.sum() / (num_classes * np.maximum(counts, 1))).astype(np.float32)


def balanced_label_weights(labels: NDArray[Any]) -> NDArray[np.float32]:
    """Weights of the absence and the presence of each label, n / (2 n_absent) and n / (2 n_present); see above. [2, C].

    Args:
        labels: 0 and 1; negative ones do not count. [rows, C] or [rows, L, C].
    """
    flat = labels.reshape(-1, labels.shape[-1])
    counts = np.stack([(flat == 0).sum(0), (flat == 1).sum(0)])
    return (counts.sum(0) / (2 * np.maximum(counts, 1))).astype(np.float32)
