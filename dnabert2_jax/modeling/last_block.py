"""The last block for the few positions whose hidden states are wanted, as a classifier's [CLS].

Keys and values are those of all tokens; everything else is computed at the wanted positions alone, which takes 7 % off a
fine-tuning step of the released size on a CPU.
"""

import jax
import jax.numpy as jnp

from dnabert2_jax.kernels.attention import Inputs, alibi_slopes, attention_at
from dnabert2_jax.modeling.block import Block, BlockInputs
from dnabert2_jax.modeling.compute import Compute
from dnabert2_jax.modeling.gather import states_at

_MIN_TOKENS = 128
"""Minimum tokens in a batch, per other block, for which a separate last block pays off: its weights are copied."""

_MAX_SCORES = 2**20
"""Positions x tokens of a row whose dense scores fit into memory."""

_MAX_SHARE = 4  # at least this many times as many tokens as positions: below, a whole block costs little more


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
