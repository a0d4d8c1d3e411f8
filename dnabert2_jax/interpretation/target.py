"""The output to explain: the log-odds of a class, or a measurement."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from dnabert2_jax.config.model import HeadConfig
from dnabert2_jax.data.batches import EncodedBatch
from dnabert2_jax.errors import UserError, nearest
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.inference.predictor import Forward
from dnabert2_jax.types import HostOrDevice, TokenBatch, Tree


@dataclass(frozen=True)
class Target:
    """One output of a classifier, on an unbounded scale, on which contributions can add up.

    For a class this is ln(p / (1 - p)), as in the score ``delta`` of variants, computed from the logits so that it does not
    saturate where p is 1 in float32; for a regression, the measurement in its own unit.

    Attributes:
        model: the classifier.
        number: index of the class.
    """

    model: InferenceModel
    number: int

    @property
    def name(self) -> str:
        """The class, or the name of the measurement."""
        return self.model.labels[self.number]

    @property
    def unit(self) -> str:
        """Description of the values, for the axes of pictures."""
        return self.name if self.model.head.task == "regression" else f"log-odds of {self.name}"

    def of_batch(self, batch: EncodedBatch) -> jax.Array:
        """The values of a batch's slots, float32 [B, P]."""
        predictor = self.model.predictor
        return _values_of_batch(predictor.forward, predictor.params, batch.tokens, batch.starts, self.number)


def choose_target(model: InferenceModel, name: str | None, method: str) -> Target:
    """The target with the given name; a regression has only one.

    Args:
        model: a classifier.
        name: name of a class, or None.
        method: the method that needs it, for error messages.

    Raises:
        UserError: not a classifier, a classifier of pairs, no such class, or a missing name.
    """
    model.need("classifier", method, "train one with `dnabert2 finetune`, or use ism, attention or dependency")
    trained = model.provenance.get("training_data")
    if trained is not None and trained["pairs"]:
        raise UserError(f"{model.path} was trained on pairs of sequences; {method} explains classifiers of single sequences")
    if name is None and len(model.labels) == 1:
        return Target(model, 0)
    accepted = ", ".join(model.labels)
    if name is None:
        raise UserError(f"{method} explains one class of {model.path}; name it with --target (target=): {accepted}")
    if name not in model.labels:
        raise UserError(
            f"--target {name}: {model.path} has no such class; accepted are {accepted}{nearest(name, model.labels)}"
        )
    return Target(model, model.labels.index(name))


def target_values(
    forward: Forward,
    params: Tree,
    tokens: TokenBatch,
    starts: HostOrDevice,
    number: HostOrDevice,
    word_vectors: jax.Array | None = None,
) -> jax.Array:
    """The values of class ``number``, [B], with ``starts`` [B, P]; to be called inside jit.

    Args:
        forward: the classifier.
        params: its parameters.
        tokens: the rows.
        starts: where the sequences of a row begin, [B, P], or None.
        number: index of the class.
        word_vectors: replace the word embeddings of the tokens, [B, T, D].
    """
    logits = forward.classifier.bind(params).logits(tokens, starts, word_vectors=word_vectors)
    return unbounded(logits, number, forward.head)


def unbounded(logits: jax.Array, number: HostOrDevice, head: HeadConfig) -> jax.Array:
    """The log-odds of a class from all logits, [..., C] -> [...]; for a regression, the measurement."""
    wanted = jnp.arange(logits.shape[-1]) == number
    own = jnp.sum(jnp.where(wanted, logits, 0), -1)
    if head.task == "regression":
        return head.mean + head.deviation * own
    if head.task == "multi_label":
        return own
    return own - jax.nn.logsumexp(jnp.where(wanted, -jnp.inf, logits), axis=-1)


@partial(jax.jit, static_argnums=0)
def _values_of_batch(forward: Forward, params: Tree, tokens: TokenBatch, starts: jax.Array, number: jax.Array) -> jax.Array:
    def values(given: tuple[Tree, HostOrDevice], tokens: TokenBatch, starts: HostOrDevice) -> jax.Array:
        return target_values(forward, given[0], tokens, starts, given[1])

    return forward.divided(values)((params, number), tokens, starts)
