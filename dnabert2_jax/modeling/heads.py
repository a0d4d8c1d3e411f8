"""Heads on top of the encoder: the MLM head, the pooler, means over tokens, and convolutions over bases."""

import jax
import jax.numpy as jnp
from flax import nnx

from dnabert2_jax.config.model import EncoderConfig, HeadConfig
from dnabert2_jax.genome.letters import BASES
from dnabert2_jax.modeling.elementwise import gelu
from dnabert2_jax.modeling.gather import states_at
from dnabert2_jax.modeling.layers import Dense, LayerNorm, normal, parameter, zeros
from dnabert2_jax.modeling.matmul import einsum
from dnabert2_jax.tokenizer.special import CLS, PAD, SEP
from dnabert2_jax.types import RowBases, TokenBatch


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


BASE_CHANNELS = 64
"""Channels of the convolutions over bases."""

_TAPS = 9
_OFFSETS = 16
"""Places within a token that a head of bases tells apart; longer tokens share the last."""


class Taps(nnx.Module):
    """A convolution along bases, of ``_TAPS`` bases. Parameters: ``kernel`` [in, taps, out], ``bias`` [out]."""

    def __init__(self, rngs: nnx.Rngs, inputs: int, axis: str) -> None:
        stddev = (_TAPS * inputs) ** -0.5
        self.kernel = parameter(rngs, normal(stddev), (inputs, _TAPS, BASE_CHANNELS), (axis, "taps", "channels"))
        self.bias = parameter(rngs, zeros, (BASE_CHANNELS,), ("channels",))

    def of_tokens(self, hidden: jax.Array, bases: RowBases) -> jax.Array:
        """Token states [B, T, D], each repeated over the bases of its token -> [B, L, channels].

        All bases of a token have its state, so the products are computed once for a token.
        """
        there = (bases.letters >= 0).astype(hidden.dtype)[:, :, None]
        return self._add_up(states_at(self._products(hidden), bases.tokens) * there)

    def of_bases(self, x: jax.Array) -> jax.Array:
        """[B, L, in], zeros where there is no base -> [B, L, channels]."""
        return self._add_up(self._products(x))

    def _products(self, x: jax.Array) -> jax.Array:
        """The output of each tap at each position. [B, T, in] -> [B, T, taps x channels]."""
        kernel = self.kernel[...]
        return einsum("bti,ic->btc", x, kernel.reshape(len(kernel), -1))

    def _add_up(self, products: jax.Array) -> jax.Array:
        """The sum of the taps' outputs for a base and its neighbors, zeros beyond the ends. -> [B, L, channels]."""
        length, reach = products.shape[1], _TAPS // 2
        padded = jnp.pad(products, ((0, 0), (reach, reach), (0, 0)))
        taps = jnp.split(padded, _TAPS, axis=-1)
        return sum((tap[:, at : at + length] for at, tap in enumerate(taps)), start=self.bias[...])


class BaseHead(nnx.Module):
    """Two convolutions along bases; the first reads token states, letters, and places within tokens."""

    def __init__(self, config: EncoderConfig, rngs: nnx.Rngs) -> None:
        self.states = Taps(rngs, config.hidden_size, "hidden")
        self.letters = Taps(rngs, len(BASES) + _OFFSETS, "letters")
        self.second = Taps(rngs, BASE_CHANNELS, "hidden_channels")

    def __call__(self, hidden: jax.Array, bases: RowBases) -> jax.Array:
        """Token states [B, T, D] -> features of bases, [B, L, channels]; in float32.

        Where there is no base, features have no meaning, and those of other bases do not depend on it.
        """
        there = (bases.letters >= 0).astype(jnp.float32)[:, :, None]
        letters = jax.nn.one_hot(bases.letters, len(BASES), dtype=jnp.float32)  # zeros for N and other codes
        offsets = jax.nn.one_hot(jnp.minimum(bases.offsets, _OFFSETS - 1), _OFFSETS, dtype=jnp.float32)
        given = jnp.concatenate([letters, offsets], axis=-1) * there
        first = gelu(self.states.of_tokens(hidden, bases) + self.letters.of_bases(given))
        return gelu(self.second.of_bases(first * there))


def head_outputs(logits: jax.Array, head: HeadConfig) -> jax.Array:
    """Predictions from a classifier's logits [..., C], float32 of the same shape.

    Returns:
        For one label (of a sequence, or at a base), the probabilities of all classes, which sum to 1; for several labels,
        the probability of each; for a regression, the measurement in its own unit.
    """
    if head.task == "regression":
        return head.mean + head.deviation * logits
    return jax.nn.sigmoid(logits) if head.independent else jax.nn.softmax(logits)


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
