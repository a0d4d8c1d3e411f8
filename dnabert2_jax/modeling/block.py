"""One transformer block of DNABERT-2: ALiBi attention and GEGLU, each followed by a residual and a LayerNorm.

Where only a few hidden states are wanted, such as a classifier's [CLS], :func:`block_at` is the last block for those
positions: keys and values are those of all tokens, and everything else is computed at the wanted positions alone, which
takes 7 % off a fine-tuning step of the released size on a CPU.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from dnabert2_jax.config.model import EncoderConfig
from dnabert2_jax.kernels.attention import Inputs, alibi_slopes, attention_at, attention_weights, projected_attention
from dnabert2_jax.modeling.compute import Compute
from dnabert2_jax.modeling.dropout import BlockDropout
from dnabert2_jax.modeling.elementwise import geglu
from dnabert2_jax.modeling.gather import states_at
from dnabert2_jax.modeling.layers import Dense, DenseFromHeads, DenseToHeads, GatedDense, LayerNorm
from dnabert2_jax.modeling.lora import LowRank

FEED_FORWARD_TOKENS = 2**15
"""Tokens of a row that the feed-forward layers process at a time in inference: gates and values are eight times as wide as
the hidden states, and for a row of a million tokens they would not fit."""

_MIN_TOKENS = 128
"""Minimum tokens in a batch, per other block, for which a separate last block pays off: its weights are copied."""

_MAX_SCORES = 2**20
"""Positions x tokens of a row whose dense scores fit into memory."""

_MAX_SHARE = 4  # at least this many times as many tokens as positions: below, a whole block costs little more


class BlockInputs(NamedTuple):
    """What a block reads beside the hidden states.

    Attributes:
        segment_ids: [B, T].
        dropout: of this block's sites.
        low_rank: LoRA terms by the name of their projection.
    """

    segment_ids: jax.Array
    dropout: BlockDropout
    low_rank: Mapping[str, LowRank]

    def at(self, positions: jax.Array) -> "BlockInputs":
        """The same for the tokens at ``positions`` [B, P] of each row."""
        dropout = self.dropout._replace(positions=positions)
        low_rank = {target: term._replace(dropout=dropout) for target, term in self.low_rank.items()}
        return BlockInputs(jnp.take_along_axis(self.segment_ids, positions, axis=1), dropout, low_rank)


class Block(nnx.Module):
    """One post-LayerNorm transformer block, under the original's names (``Wqkv``, ``out``, ``gated_layers``, ``wo``)."""

    def __init__(self, config: EncoderConfig, rngs: nnx.Rngs) -> None:
        hidden, inner, std = config.hidden_size, config.intermediate_size, config.initializer_range
        self.Wqkv = DenseToHeads(rngs, (hidden, 3 * hidden), ("hidden", "heads"), std)
        self.out = DenseFromHeads(rngs, (hidden, hidden), ("heads", "hidden"), std)
        self.attention_norm = LayerNorm(rngs, hidden, config.layer_norm_eps)
        self.gated_layers = GatedDense(rngs, (hidden, 2 * inner), ("hidden", "intermediate"), std, use_bias=False)
        self.wo = Dense(rngs, (inner, hidden), ("intermediate", "hidden"), std)
        self.feed_forward_norm = LayerNorm(rngs, hidden, config.layer_norm_eps)
        self.config = config

    def __call__(self, x: jax.Array, inputs: BlockInputs, compute: Compute) -> jax.Array:
        """[B, T, D] -> [B, T, D]."""

        def attend(x: jax.Array) -> jax.Array:
            return self.attention(x, inputs, compute.attention)

        if compute.remat == "attention":
            attend = jax.checkpoint(attend, prevent_cse=False)  # the loop over blocks is barrier enough
        return self.add_and_norm(x, attend(x), inputs)

    def add_and_norm(self, x: jax.Array, attended: jax.Array, inputs: BlockInputs) -> jax.Array:
        """What follows attention: x = norm(x + drop(attention)), x = norm(x + drop(feed forward(x)))."""
        drop, rate = inputs.dropout, self.config.hidden_dropout_prob
        x = self.attention_norm(x + drop(attended, rate, "attention"))
        return self.feed_forward_norm(x + drop(self.feed_forward(x, inputs), rate, "feed_forward"))

    def attention(self, x: jax.Array, inputs: BlockInputs, implementation: str) -> jax.Array:
        """softmax(q k^T / sqrt(d) - slope |i - j|) v between its projections, [B, T, D]."""
        heads, low_rank = self.config.num_attention_heads, inputs.low_rank
        return projected_attention(
            lambda layout: self.Wqkv.heads(x, layout, heads, low_rank.get("Wqkv")),
            lambda output, layout: self.out.from_heads(output, layout, low_rank.get("out")),
            jnp.asarray(alibi_slopes(heads)),
            inputs.segment_ids,
            head_dim=self.config.head_dim,
            implementation=implementation,
        )

    def attention_weights(self, x: jax.Array, segment_ids: jax.Array) -> jax.Array:
        """softmax(q k^T / sqrt(d) - slope |i - j|) by definition, regardless of the backend, float32 [B, H, T, T]."""
        heads = self.config.num_attention_heads
        q, k, v = self.Wqkv.heads(x, "bhtd", heads, None)
        inputs = Inputs(q, k, v, jnp.asarray(alibi_slopes(heads)), segment_ids)
        return attention_weights(inputs, scale=self.config.head_dim**-0.5)

    def feed_forward(self, x: jax.Array, inputs: BlockInputs) -> jax.Array:
        """(GELU(x W_gate) * (x W_value)) W_o, [B, T, D]."""

        def feed(x: jax.Array) -> jax.Array:
            gate, value = self.gated_layers.halves(x, inputs.low_rank.get("gated_layers"))
            return self.wo(geglu(gate, value), inputs.low_rank.get("wo"))

        # A LoRA term's dropout is by a token's position in the row, so only rows without dropout can be cut; training has
        # rematerialization for long rows.
        whole = inputs.dropout.seeds is not None or x.shape[1] <= FEED_FORWARD_TOKENS
        return feed(x) if whole else _in_chunks(feed, x)


def pays_off(at: jax.Array, x: jax.Array, num_layers: int) -> bool:
    """Whether the last of ``num_layers`` blocks is cheaper at positions ``at`` [B, P] than for all of ``x`` [B, T, D]."""
    (rows, wanted), tokens = at.shape, x.shape[1]
    enough = rows * tokens >= _MIN_TOKENS * (num_layers - 1)
    return enough and wanted * _MAX_SHARE <= tokens and wanted * tokens <= _MAX_SCORES


def block_at(block: Block, x: jax.Array, inputs: BlockInputs, at: jax.Array, compute: Compute) -> jax.Array:
    """``states_at(block(x, inputs, compute), at)``, [B, P, D]."""
    heads, head_dim, layout = block.config.num_attention_heads, block.config.head_dim, "bhtd"
    wanted = inputs.at(at)

    def attend(x: jax.Array) -> jax.Array:
        (q,) = block.Wqkv.heads(states_at(x, at), layout, heads, wanted.low_rank.get("Wqkv"), "q")
        k, v = block.Wqkv.heads(x, layout, heads, inputs.low_rank.get("Wqkv"), "kv")
        arrays = Inputs(q, k, v, jnp.asarray(alibi_slopes(heads)), inputs.segment_ids)
        output = attention_at(arrays, at, scale=head_dim**-0.5)
        return block.out.from_heads(output, layout, wanted.low_rank.get("out"))

    attended = (jax.checkpoint(attend) if compute.remat == "attention" else attend)(x)
    return block.add_and_norm(states_at(x, at), attended, wanted)


def _in_chunks(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """``function`` of [B, T, D], each token independently, on FEED_FORWARD_TOKENS tokens of the rows at a time."""

    def one_token(x: jax.Array) -> jax.Array:
        return function(x[:, None])[:, 0]

    mapped = jax.lax.map(one_token, jnp.moveaxis(x, 1, 0), batch_size=FEED_FORWARD_TOKENS)
    return jnp.moveaxis(mapped, 0, 1)
