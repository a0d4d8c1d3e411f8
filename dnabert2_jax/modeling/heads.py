"""What stands on the encoder: the MLM head, the pooler and the classifier."""

import jax
import jax.numpy as jnp
from flax import nnx

from dnabert2_jax.config import EncoderConfig
from dnabert2_jax.modeling.layers import Dense, LayerNorm, gelu, parameter, zeros


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

    def __call__(self, hidden: jax.Array) -> jax.Array:
        """[B, T, D] -> [B, D]."""
        return jnp.tanh(self.dense(hidden[:, 0]))
