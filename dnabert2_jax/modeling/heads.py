"""Heads on top of the encoder: the MLM head, the pooler and means over tokens."""

import jax
import jax.numpy as jnp
from flax import nnx

from dnabert2_jax.config.model import EncoderConfig, HeadConfig
from dnabert2_jax.modeling.elementwise import gelu
from dnabert2_jax.modeling.layers import Dense, LayerNorm, parameter, zeros
from dnabert2_jax.tokenizer.special import CLS, PAD, SEP
from dnabert2_jax.types import TokenBatch


class MlmHead(nnx.Module):
    """dense, GELU, LayerNorm, then a decoder tied to the word embeddings with a bias of its own."""

    def __init__(self, config: EncoderConfig, rngs: nnx.Rngs) -> None:
        hidden = config.hidden_size
        self.dense = Dense(rngs, (hidden, hidden), ("hidden", "hidden_out"), config.initializer_range)
        self.norm = LayerNorm(rngs, hidden, config.layer_norm_eps)
        self.bias = parameter(rngs, zeros, (config.vocab_size,), ("vocab",))

    def __call__(self, hidden: jax.Array, word_embeddings: jax.Array) -> jax.Array:
        """[..., D] and the tied [V, D] -> float32 logits [..., V]."""
        x = self.norm(gelu(self.dense(hidden)))
        logits = jnp.einsum("...d,vd->...v", x, word_embeddings.astype(x.dtype), preferred_element_type=jnp.float32)
        return logits + self.bias[...]


class Pooler(nnx.Module):
    """tanh(dense(hidden state of [CLS]))."""

    def __init__(self, config: EncoderConfig, rngs: nnx.Rngs) -> None:
        hidden = config.hidden_size
        self.dense = Dense(rngs, (hidden, hidden), ("hidden", "hidden_out"), config.initializer_range)

    def __call__(self, cls: jax.Array) -> jax.Array:
        """[..., D] -> [..., D]."""
        return jnp.tanh(self.dense(cls))


def head_outputs(logits: jax.Array, head: HeadConfig) -> jax.Array:
    """Predictions from a classifier's logits [..., C], float32 of the same shape.

    Returns:
        For a single label, the probabilities of all classes, which sum to 1; for several labels, the probability of each;
        for a regression, the measurement in its own unit.
    """
    if head.task == "single_label":
        return jax.nn.softmax(logits)
    if head.task == "multi_label":
        return jax.nn.sigmoid(logits)
    return head.mean + head.deviation * logits


def own_slots(tokens: TokenBatch) -> jax.Array:
    """The slot that each token belongs to, -1 at [CLS], [SEP] and padding; [UNK] stands for a base and counts. [B, T]."""
    special = (tokens.input_ids == CLS) | (tokens.input_ids == SEP) | (tokens.input_ids == PAD)
    return jnp.where(special, -1, tokens.segment_ids - 1)


def slot_means(hidden: jax.Array, tokens: TokenBatch, slots: int) -> jax.Array:
    """Mean hidden state of each slot's own tokens, [B, P, D] in float32; zero for an empty slot.

    Args:
        hidden: hidden states, [B, T, D].
        tokens: the batch; segment s of a row is its slot s - 1.
        slots: P.
    """
    member = own_slots(tokens)[:, :, None] == jnp.arange(slots, dtype=jnp.int32)[None, None]
    weights = member.astype(jnp.float32)
    sums = jnp.einsum("btp,btd->bpd", weights, hidden.astype(jnp.float32), precision="highest")
    return sums / jnp.maximum(weights.sum(1), 1)[:, :, None]
