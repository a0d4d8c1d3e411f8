"""Losses as sums over examples, so that accumulation, fill rows and several devices all add up to the same mean."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dnabert2_jax.config import LoraConfig
from dnabert2_jax.modeling.models import MaskedLM, Network, SequenceClassifier
from dnabert2_jax.types import ClassificationBatch, MlmBatch, Tree


class Sums(NamedTuple):
    """Weighted sums over the predictions of a batch; scalars in float32.

    Attributes:
        loss: cross-entropy in nats.
        correct: right predictions.
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


def classification_logits(
    network: Network[SequenceClassifier], params: Tree, batch: ClassificationBatch, lora: LoraConfig | None, training: bool
) -> jax.Array:
    """Class logits [B, C] from a parameter tree that may hold an ``"adapter"`` beside the model's own parts."""
    model = network.bind({name: part for name, part in params.items() if name != "adapter"})
    seeds = batch.dropout_seeds if training else None
    return model.logits(batch.tokens, dropout_seeds=seeds, adapter=params.get("adapter"), lora=lora)


def classification_loss(network: Network[SequenceClassifier], lora: LoraConfig | None = None) -> Loss:
    """Cross-entropy of the labels; fill rows weigh nothing."""

    def loss(trainable: Tree, frozen: Tree, batch: ClassificationBatch, training: bool) -> Sums:
        logits = classification_logits(network, {**trainable, **frozen}, batch, lora, training)
        return _cross_entropy(logits, batch.labels, batch.weights)

    return loss
