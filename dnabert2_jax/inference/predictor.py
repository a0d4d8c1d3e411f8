"""A network with its parameters, applied to batches: the basis of prediction, evaluation and probe features."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.config.model import ORIGINAL_HEAD, EncoderConfig, HeadConfig, LoraConfig
from dnabert2_jax.config.sections import MeshOptions
from dnabert2_jax.data.batches import Batches, EncodedBatch
from dnabert2_jax.modeling.compute import Compute
from dnabert2_jax.modeling.encoder import Encoder
from dnabert2_jax.modeling.heads import head_outputs, own_slots, slot_means
from dnabert2_jax.modeling.models import (
    Classifier,
    Network,
    SequenceClassifier,
    class_logits,
    classifier_of,
    masked_lm,
    sequence_classifier,
)
from dnabert2_jax.parallel.layout import spread_rows
from dnabert2_jax.platform import explaining_out_of_memory
from dnabert2_jax.progress import ProgressBar
from dnabert2_jax.types import HostOrDevice, TokenBatch, Tree

SlotPooling = Literal["mean", "cls", "max", "head"]
"""How a sequence's tokens become one vector: mean or maximum over its own tokens, the hidden state of its [CLS], or the
input of the classification head's linear layer."""

Compiled = Callable[..., jax.Array]

Rowwise = Callable[..., Any]
"""A function of ``(params, *arrays)`` that returns a row for each row of the arrays."""


def _shared(make: Callable[["Forward"], Compiled]) -> property:
    """A property computed once for all equal instances."""
    return property(lru_cache(make))


@dataclass(frozen=True)
class Forward:
    """The forward passes of a network as jitted functions of parameters and tokens; they hold no parameters.

    Equal instances share their compiled functions.

    Attributes:
        config: sizes of the encoder.
        compute: precision and attention backend.
        classes: C, outputs of the classification head; 0 if there is none.
        head: how a classifier reads a sequence, and what its outputs mean.
        lora: settings of the adapter, if the parameters hold one (``"adapter"``) next to the encoder.
        by_rows: splits a function of (parameters, batch) by rows among several devices; see
            :class:`~dnabert2_jax.parallel.layout.Layout`.
    """

    config: EncoderConfig
    compute: Compute
    classes: int = 0
    head: HeadConfig = ORIGINAL_HEAD
    lora: LoraConfig | None = None
    by_rows: Callable[[Rowwise], Rowwise] | None = None

    @property
    def classifier(self) -> Network[SequenceClassifier]:
        """The network of a sequence classifier."""
        return sequence_classifier(self.config, self.classes, self.compute, self.head.pooling)

    @property
    def network(self) -> Classifier:
        """The network of any fine-tuned model."""
        return classifier_of(self.config, self.classes, self.head, self.compute)

    @cached_property
    def encoder(self) -> Network[Encoder]:
        """The network of ``params["encoder"]``."""
        return Network(lambda rngs: Encoder(self.config, rngs, self.compute))

    @_shared
    def hidden_states(self) -> Compiled:
        """``(params, tokens) -> float32 [B, T, D]``: hidden states of the last block."""

        def hidden_states(params: Tree, tokens: TokenBatch) -> jax.Array:
            return self.encoder.bind(params["encoder"])(tokens).astype(jnp.float32)

        return self._compiled(hidden_states)

    @_shared
    def pooled(self) -> Compiled:
        """``(params, batch, pooling) -> float32 [B, P, D]``: one vector for each slot."""

        def of_rows(pooling: SlotPooling, params: Tree, batch: EncodedBatch) -> jax.Array:
            if pooling == "head":
                return self.classifier.bind(params).features(batch.tokens, batch.starts)
            encoder = self.encoder.bind(params["encoder"])
            if pooling == "cls":
                return encoder(batch.tokens, at=batch.starts).astype(jnp.float32)
            return pool_slots(encoder(batch.tokens).astype(jnp.float32), batch.tokens, batch.starts.shape[1], pooling)

        def pooled(params: Tree, batch: EncodedBatch, pooling: SlotPooling) -> jax.Array:
            return self.divided(partial(of_rows, pooling))(params, batch)

        return jax.jit(pooled, static_argnums=2)

    @_shared
    def class_outputs(self) -> Compiled:
        """``(params, batch) -> float32 [B, C], [B, P, C] or [B, L, C]``: ``head_outputs`` of the logits."""

        def class_outputs(params: Tree, batch: EncodedBatch) -> jax.Array:
            return head_outputs(class_logits(self.network, params, batch, self.lora), self.head)

        return self._compiled(class_outputs)

    @_shared
    def token_probabilities(self) -> Compiled:
        """``(params, tokens, positions [B, K]) -> float32 [B, K, V]``: the MLM head's probabilities."""
        network = masked_lm(self.config, self.compute)

        def token_probabilities(params: Tree, tokens: TokenBatch, positions: jax.Array) -> jax.Array:
            return jax.nn.softmax(network.bind(params).logits(tokens, positions))

        return self._compiled(token_probabilities)

    @_shared
    def token_log_probabilities(self) -> Compiled:
        """``(params, tokens, positions [B, K]) -> float32 [B, K, V]``: logarithms of :attr:`token_probabilities`."""
        network = masked_lm(self.config, self.compute)

        def token_log_probabilities(params: Tree, tokens: TokenBatch, positions: jax.Array) -> jax.Array:
            return jax.nn.log_softmax(network.bind(params).logits(tokens, positions))

        return self._compiled(token_log_probabilities)

    @_shared
    def weighted_means(self) -> Compiled:
        """``(params, tokens, weights [B, T]) -> float32 [B, D]``: mean hidden state of each row, weighted by token."""

        def weighted_means(params: Tree, tokens: TokenBatch, weights: jax.Array) -> jax.Array:
            hidden = self.encoder.bind(params["encoder"])(tokens).astype(jnp.float32)
            sums = jnp.einsum("bt,btd->bd", weights, hidden, precision="highest")
            return sums / jnp.maximum(weights.sum(1), 1)[:, None]

        return self._compiled(weighted_means)

    def divided(self, function: Rowwise) -> Rowwise:
        """``function``, split by rows among the devices; to be called inside jit."""
        return self.by_rows(function) if self.by_rows else function

    def _compiled(self, function: Rowwise) -> Compiled:
        return jax.jit(self.divided(function))


@dataclass(frozen=True)
class Predictor:
    """A network with its parameters; one with other parameters, ``Predictor(forward, params)``, does not recompile.

    Attributes:
        forward: the forward passes.
        params: the parameters, on every device that shares the rows: ``{"encoder", "mlm"}``,
            ``{"encoder", "pooler", "classifier"}``, ``{"encoder", "bases", "classifier"}``, or
            ``{"encoder"}`` alone for hidden states and their means.
    """

    forward: Forward
    params: Tree

    @classmethod
    def on_local_devices(cls, forward: Forward, params: Tree, devices: int | None = None) -> "Predictor":
        """A predictor that splits the rows of every batch among devices.

        Args:
            forward: the forward passes, on one device.
            params: the parameters.
            devices: number of this process's devices to use; by default :func:`default_devices`.
        """
        devices = devices or default_devices()
        if devices == 1:
            return cls(forward, jax.device_put(params))
        layout = spread_rows(MeshOptions(data=devices), devices, params)
        return cls(replace(forward, by_rows=layout.by_rows), layout.copy(params))

    @property
    def params_on_one(self) -> Tree:
        """The parameters on the first device, for functions that do not split their rows."""
        return jax.tree.map(lambda leaf: leaf.addressable_data(0), self.params)

    def class_outputs(self, batches: Batches, title: str | None = None) -> NDArray[np.float32]:
        """Outputs of a classifier for every encoded row, [rows, C], or for its bases, [rows, L, C].

        Raises:
            UserError: out of memory on the device.
        """
        shape = (*batches.encoded.places, self.forward.classes)
        return _by_row(batches, shape, lambda batch: self.forward.class_outputs(self.params, batch), title)

    def pooled(self, batches: Batches, pooling: SlotPooling, title: str | None = None) -> NDArray[np.float32]:
        """One vector for every encoded row, [rows, D]; the batches must have slots.

        Raises:
            UserError: out of memory on the device.
        """
        shape = (self.forward.config.hidden_size,)
        return _by_row(batches, shape, lambda batch: self.forward.pooled(self.params, batch, pooling), title)

    def hidden_states(
        self, batches: Batches, title: str | None = None
    ) -> Iterator[tuple[EncodedBatch, NDArray[np.float32]]]:
        """Each batch with its hidden states, [B, T, D].

        Raises:
            UserError: out of memory on the device.
        """
        return run_batches(lambda batch: self.forward.hidden_states(self.params, batch.tokens), batches, title)

    def token_probabilities(self, tokens: TokenBatch, positions: HostOrDevice) -> NDArray[np.float32]:
        """The MLM head's probabilities at the given positions [B, K] of a batch, [B, K, V].

        Raises:
            UserError: out of memory on the device.
        """
        with memory_explained():
            return np.asarray(self.forward.token_probabilities(self.params, tokens, positions))


def pool_slots(hidden: jax.Array, tokens: TokenBatch, slots: int, pooling: Literal["mean", "max"]) -> jax.Array:
    """One vector for each slot of a packed batch.

    Args:
        hidden: hidden states, [B, T, D].
        tokens: the batch.
        slots: P, slots of a row.
        pooling: over the slot's tokens without [CLS] and [SEP]; [UNK] counts, since it stands for a base.

    Returns:
        [B, P, D]; the values of unused slots are meaningless.
    """
    batch = len(hidden)
    if pooling == "mean":
        return slot_means(hidden, tokens, slots)
    slot = own_slots(tokens)
    first = jnp.arange(batch, dtype=jnp.int32)[:, None] * slots
    index = jnp.where(slot < 0, batch * slots, first + slot)  # an index past the end is ignored
    flat = hidden.reshape(-1, hidden.shape[-1])
    return jax.ops.segment_max(flat, index.reshape(-1), batch * slots).reshape(batch, slots, -1)


def default_devices() -> int:
    """The number of devices that share the rows of a batch: all accelerators of this process.

    The CPU counts as one, regardless of how many devices JAX divides it into: XLA uses all cores for one.
    """
    return 1 if jax.default_backend() == "cpu" else jax.local_device_count()


def default_batch_tokens(devices: int | None = None) -> int:
    """Tokens per batch: enough to keep each device busy, with memory to spare at 117 million parameters.

    Args:
        devices: number of devices that share its rows; by default :func:`default_devices`.
    """
    return (4096 if jax.default_backend() == "cpu" else 65_536) * (devices or default_devices())


def run_batches(
    function: Callable[[EncodedBatch], jax.Array], batches: Batches, title: str | None
) -> Iterator[tuple[EncodedBatch, NDArray[Any]]]:
    """Each batch with its result of ``function``, on the host; the device is always one batch ahead.

    Args:
        function: dispatches the work and returns without waiting.
        batches: the batches.
        title: title of a progress bar that counts sequences; None shows none.

    Raises:
        UserError: out of memory on the device.
    """
    bar = ProgressBar(title, len(batches.encoded)) if title else None
    with bar or nullcontext(), memory_explained():
        for batch, result in _one_ahead(function, batches):
            yield batch, np.asarray(result)
            if bar:
                bar.advance(int((batch.rows >= 0).sum()))


def _one_ahead(
    function: Callable[[EncodedBatch], jax.Array], batches: Iterable[EncodedBatch]
) -> Iterator[tuple[EncodedBatch, jax.Array]]:
    ahead: tuple[EncodedBatch, jax.Array] | None = None
    for batch in batches:
        current, ahead = ahead, (batch, function(batch))
        if current:
            yield current
    if ahead:
        yield ahead


def _by_row(
    batches: Batches, shape: tuple[int, ...], function: Callable[[EncodedBatch], jax.Array], title: str | None
) -> NDArray[np.float32]:
    """Results of all encoded rows in their original order, ``[rows, *shape]``."""
    results = np.empty((len(batches.encoded), *shape), np.float32)
    for batch, values in run_batches(function, batches, title):
        used = batch.rows >= 0
        results[batch.rows[used]] = values[used]
    return results


@contextmanager
def memory_explained() -> Iterator[None]:
    """Turn an out-of-memory error of the device into one that says what to do.

    Raises:
        UserError: out of memory on the device.
    """
    remedy = "make batches smaller (--batch-tokens, batch_tokens=), or cut very long sequences"
    with explaining_out_of_memory("", remedy):
        yield
