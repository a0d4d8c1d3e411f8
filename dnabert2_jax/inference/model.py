"""A trained model opened for use: its parts on the device, and its outputs as jitted functions of packed batches."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.artifacts.adapter import load_adapter
from dnabert2_jax.artifacts.directory import is_adapter_directory
from dnabert2_jax.artifacts.model import ModelKind, load_model
from dnabert2_jax.config.model import ORIGINAL_HEAD, EncoderConfig, HeadConfig
from dnabert2_jax.data.packing import PackedBatch, PackedBatches
from dnabert2_jax.errors import UserError
from dnabert2_jax.modeling.compute import Compute
from dnabert2_jax.modeling.encoder import Encoder
from dnabert2_jax.modeling.heads import head_outputs, own_slots, slot_means
from dnabert2_jax.modeling.lora import merge_adapter
from dnabert2_jax.modeling.models import Network, SequenceClassifier, masked_lm, sequence_classifier
from dnabert2_jax.progress import ProgressBar
from dnabert2_jax.tokenizer.base import Tokenizer
from dnabert2_jax.types import HostOrDevice, TokenBatch, Tree

SlotPooling = Literal["mean", "cls", "max"]
"""How a sequence's tokens become one vector: mean or maximum over its own tokens, or the hidden state of its [CLS]."""


@dataclass(frozen=True)
class InferenceModel:
    """A model directory, or an adapter merged into its base, ready to use.

    Attributes:
        path: the directory it came from.
        kind: ``masked_lm`` or ``classifier``.
        config: sizes of the encoder.
        params: on the device; ``{"encoder", "mlm"}`` or ``{"encoder", "pooler", "classifier"}``.
        tokenizer: makes its ids.
        labels: class names by class number; the measurement's of a regression; empty for a masked language model.
        compute: precision and attention backend.
        head: how a classifier reads a sequence, and what its outputs mean.
    """

    path: Path
    kind: ModelKind
    config: EncoderConfig
    params: Tree
    tokenizer: Tokenizer
    labels: tuple[str, ...]
    compute: Compute
    head: HeadConfig = ORIGINAL_HEAD

    @classmethod
    def load(cls, path: Path, compute: Compute, base: Path | None = None) -> "InferenceModel":
        """Read a model directory, or an adapter directory, which is merged into its base.

        Args:
            path: the directory.
            compute: precision and attention backend.
            base: the adapter's base, where it is not where the adapter says.

        Raises:
            UserError: neither of the two, damaged, or not the adapter's base.
        """
        if not is_adapter_directory(path):
            if base is not None:
                raise UserError(f"{path} is a whole model, not an adapter; leave the base out")
            model = load_model(path)
            params = jax.device_put(model.params)
            return cls(Path(path), model.kind, model.config, params, model.tokenizer, model.labels, compute, model.head)
        adapter = load_adapter(path, load_model(base) if base else None)
        parts = jax.device_put({**adapter.params, "encoder": adapter.base.params["encoder"]})
        parts["encoder"] = merge_adapter(parts["encoder"], parts.pop("adapter"), adapter.lora)
        base_model, labels, head = adapter.base, adapter.labels, adapter.head
        return cls(Path(path), "classifier", base_model.config, parts, base_model.tokenizer, labels, compute, head)

    def need(self, kind: ModelKind, task: str, remedy: str) -> None:
        """Check that this is a model for ``task``.

        Raises:
            UserError: it is of the other kind.
        """
        if self.kind != kind:
            raise UserError(f"{self.path} is a {self.kind}; {task} needs a {kind}: {remedy}")

    @property
    def classifier(self) -> Network[SequenceClassifier]:
        """The network that a classifier's parameters belong to."""
        return sequence_classifier(self.config, len(self.labels), self.compute, self.head.pooling)

    @cached_property
    def _encoder(self) -> Network[Encoder]:
        return Network(lambda rngs: Encoder(self.config, rngs, self.compute))

    @cached_property
    def hidden_states(self) -> Callable[[Tree, TokenBatch], jax.Array]:
        """``(params, tokens) -> float32 [B, T, D]``, jitted: hidden states of the last block."""

        def hidden_states(params: Tree, tokens: TokenBatch) -> jax.Array:
            return self._encoder.bind(params["encoder"])(tokens).astype(jnp.float32)

        return jax.jit(hidden_states)

    @cached_property
    def pooled_slots(self) -> Callable[..., jax.Array]:
        """``(params, tokens, starts, *, pooling) -> float32 [B, P, D]``, jitted: one vector for each slot."""

        def pooled_slots(params: Tree, tokens: TokenBatch, starts: jax.Array, *, pooling: SlotPooling) -> jax.Array:
            encoder = self._encoder.bind(params["encoder"])
            if pooling == "cls":
                return encoder(tokens, at=starts).astype(jnp.float32)
            return pool_slots(encoder(tokens).astype(jnp.float32), tokens, starts.shape[1], pooling)

        return jax.jit(pooled_slots, static_argnames="pooling")

    @cached_property
    def outputs(self) -> Callable[[Tree, TokenBatch, HostOrDevice], jax.Array]:
        """``(params, tokens, starts) -> float32 [B, P, C]``, jitted: what a classifier says of each slot.

        See :func:`~dnabert2_jax.modeling.heads.head_outputs`.
        """
        network = self.classifier

        def outputs(params: Tree, tokens: TokenBatch, starts: jax.Array) -> jax.Array:
            return head_outputs(network.bind(params).logits(tokens, starts), self.head)

        return jax.jit(outputs)

    @cached_property
    def token_probabilities(self) -> Callable[[Tree, TokenBatch, HostOrDevice], jax.Array]:
        """``(params, tokens, positions [B, K]) -> float32 [B, K, V]``, jitted: the MLM head's probabilities."""
        network = masked_lm(self.config, self.compute)

        def token_probabilities(params: Tree, tokens: TokenBatch, positions: jax.Array) -> jax.Array:
            return jax.nn.softmax(network.bind(params).logits(tokens, positions))

        return jax.jit(token_probabilities)


def pool_slots(hidden: jax.Array, tokens: TokenBatch, slots: int, pooling: Literal["mean", "max"]) -> jax.Array:
    """One vector for each slot of a packed batch.

    Args:
        hidden: hidden states, [B, T, D].
        tokens: the batch.
        slots: P, slots of a row.
        pooling: over the slot's tokens without [CLS] and [SEP]; [UNK] stands for a base and counts.

    Returns:
        [B, P, D]; unused slots carry no meaning.
    """
    batch = len(hidden)
    if pooling == "mean":
        return slot_means(hidden, tokens, slots)
    slot = own_slots(tokens)
    first = jnp.arange(batch, dtype=jnp.int32)[:, None] * slots
    index = jnp.where(slot < 0, batch * slots, first + slot)  # an index past the end takes part in nothing
    flat = hidden.reshape(-1, hidden.shape[-1])
    return jax.ops.segment_max(flat, index.reshape(-1), batch * slots).reshape(batch, slots, -1)


def default_batch_tokens() -> int:
    """Tokens of a batch: what fills the platform without crowding its memory at 117 million parameters."""
    return 4096 if jax.default_backend() == "cpu" else 65_536


def run_batches(
    function: Callable[[PackedBatch], jax.Array], batches: PackedBatches, title: str | None
) -> Iterator[tuple[PackedBatch, NDArray[Any]]]:
    """Each batch with what ``function`` makes of it, on the host; the device is always one batch ahead.

    Args:
        function: dispatches the work and returns without waiting.
        batches: the batches.
        title: shows progress in sequences; None shows nothing.

    Raises:
        UserError: the device has not enough memory.
    """
    total = len(batches.rows)
    bar = ProgressBar(title, total) if title else None
    with bar or nullcontext(), memory_explained():
        for batch, result in _one_ahead(function, batches):
            yield batch, np.asarray(result)
            if bar:
                bar.advance(int(batch.used.sum()))


def _one_ahead(
    function: Callable[[PackedBatch], jax.Array], batches: Iterable[PackedBatch]
) -> Iterator[tuple[PackedBatch, jax.Array]]:
    ahead: tuple[PackedBatch, jax.Array] | None = None
    for batch in batches:
        current, ahead = ahead, (batch, function(batch))
        if current:
            yield current
    if ahead:
        yield ahead


@contextmanager
def memory_explained() -> Iterator[None]:
    """Turn the device's lack of memory into an error that says what to do.

    Raises:
        UserError: there was not enough.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(
            f"the {jax.default_backend()} device has not enough memory ({str(error).splitlines()[0]}); make batches smaller "
            "(--batch-tokens, batch_tokens=), or cut very long sequences"
        ) from error
