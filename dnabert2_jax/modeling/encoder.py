"""The DNABERT-2 encoder: embeddings without positions, then post-LayerNorm blocks of ALiBi attention and GEGLU."""

from operator import itemgetter
from typing import Any, TypedDict

import chex
import jax
import jax.numpy as jnp
from flax import nnx

from dnabert2_jax.config.model import EncoderConfig, LoraConfig
from dnabert2_jax.modeling.block import Block, BlockInputs
from dnabert2_jax.modeling.compute import Compute
from dnabert2_jax.modeling.dropout import SITE_EMBEDDINGS, SITES_PER_BLOCK, BlockDropout, dropout
from dnabert2_jax.modeling.gather import rows_of, states_at
from dnabert2_jax.modeling.last_block import block_at, pays_off
from dnabert2_jax.modeling.layers import LayerNorm, normal, parameter
from dnabert2_jax.modeling.lora import low_rank_terms
from dnabert2_jax.modeling.stack import scan_layers, stack
from dnabert2_jax.parallel.constraints import keep_rows_spread, keep_whole
from dnabert2_jax.types import TokenBatch, Tree


class Embeddings(nnx.Module):
    """Word plus token-type embeddings, LayerNorm, dropout. Parameters: ``word`` [V, D], ``token_type`` [2, D], ``norm``."""

    def __init__(self, config: EncoderConfig, rngs: nnx.Rngs) -> None:
        init = normal(config.initializer_range)
        self.word = parameter(rngs, init, (config.vocab_size, config.hidden_size), ("vocab", "hidden"))
        self.token_type = parameter(rngs, init, (config.type_vocab_size, config.hidden_size), ("type", "hidden"))
        self.norm = LayerNorm(rngs, config.hidden_size, config.layer_norm_eps)
        self.rate = config.hidden_dropout_prob

    def __call__(
        self, tokens: TokenBatch, dtype: Any, seeds: jax.Array | None, word_vectors: jax.Array | None = None
    ) -> jax.Array:
        """[B, T] ids -> [B, T, D]; ``word_vectors`` [B, T, D] take the place of the words' own."""
        word, token_type = keep_whole(self.word[...]), keep_whole(self.token_type[...])
        words = rows_of(word, tokens.input_ids, dtype) if word_vectors is None else word_vectors
        x = words + rows_of(token_type, tokens.token_type_ids, dtype)
        return dropout(self.norm(x.astype(dtype)), self.rate, seeds, SITE_EMBEDDINGS)


class EncoderOptions(TypedDict, total=False):
    """What training and interpretation change about a forward pass.

    Attributes:
        dropout_seeds: one per row, [B]; None (evaluation) switches dropout off.
        adapter: LoRA matrices by target, stacked over layers: ``{"Wqkv": {"A": [N, D, r], "B": [N, r, 3D]}, ...}``.
        lora: the adapter's settings.
        word_vectors: in place of the embeddings of the words, float32 [B, T, D]: the ids then only say which tokens are
            special.
    """

    dropout_seeds: jax.Array | None
    adapter: Tree | None
    lora: LoraConfig | None
    word_vectors: jax.Array | None


class Encoder(nnx.Module):
    """Embeddings and a scanned stack of blocks."""

    def __init__(self, config: EncoderConfig, rngs: nnx.Rngs, compute: Compute) -> None:
        self.embeddings = Embeddings(config, rngs)
        self.layers = stack(lambda r: Block(config, r), config.num_hidden_layers, rngs)
        self.num_layers = config.num_hidden_layers
        self.compute = compute

    def __call__(
        self,
        tokens: TokenBatch,
        at: jax.Array | None = None,
        *,
        dropout_seeds: jax.Array | None = None,
        adapter: Tree | None = None,
        lora: LoraConfig | None = None,
        word_vectors: jax.Array | None = None,
    ) -> jax.Array:
        """Hidden states of the last block.

        Args:
            tokens: ids, segments and token types, [B, T] each.
            at: positions whose hidden states are wanted, [B, P]; None: all.
            dropout_seeds: see :class:`EncoderOptions`, like the three below.
            adapter: LoRA matrices.
            lora: the adapter's settings.
            word_vectors: in place of the embeddings of the words.

        Returns:
            [B, T, D] in the compute dtype, with ``at`` [B, P, D]. Values at padding have no meaning.
        """
        rows, length = tokens.input_ids.shape
        chex.assert_shape(list(tokens), (rows, length))
        if dropout_seeds is not None:
            chex.assert_shape(dropout_seeds, (rows,))
        if at is not None:
            chex.assert_shape(at, (rows, None))
        if word_vectors is not None:
            chex.assert_shape(word_vectors, (rows, length, None))

        definition, state = nnx.split(self.layers)
        sites = jnp.arange(1, self.num_layers + 1, dtype=jnp.uint32) * jnp.uint32(SITES_PER_BLOCK)
        layers = state, adapter, sites

        def block_and_inputs(rows: Any, layer: Any) -> tuple[Block, BlockInputs]:
            (segment_ids, seeds), (parameters, matrices, site) = rows, layer
            drop = BlockDropout(seeds, site)
            return nnx.merge(definition, parameters), BlockInputs(segment_ids, drop, low_rank_terms(matrices, lora, drop))

        def one_block(x: jax.Array, rows: Any, layer: Any) -> jax.Array:
            block, inputs = block_and_inputs(rows, layer)
            return block(x, inputs, self.compute)

        def last_block(x: jax.Array, at: jax.Array, layer: Any) -> jax.Array:
            block, inputs = block_and_inputs(shared, layer)
            return keep_rows_spread(block_at(block, x, inputs, at, self.compute))

        shared = tokens.segment_ids, dropout_seeds
        with self.compute.products():
            x = keep_rows_spread(self.embeddings(tokens, self.compute.dtype, dropout_seeds, word_vectors))
            if at is None or not pays_off(at, x, self.num_layers):
                x = scan_layers(one_block, x, shared, layers, self.compute)
                return x if at is None else states_at(x, at)
            others, last = (jax.tree.map(itemgetter(index), layers) for index in (slice(-1), -1))
            x = scan_layers(one_block, x, shared, others, self.compute)
            return (jax.checkpoint(last_block) if self.compute.remat == "full" else last_block)(x, at, last)
