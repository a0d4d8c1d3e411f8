"""The DNABERT-2 encoder: embeddings without positions, then post-LayerNorm blocks of ALiBi attention and GEGLU.

The blocks are one module whose parameters are stacked, and scanned over: compile time does not grow with depth. What trades
memory and traffic for arithmetic belongs to that loop: rematerialization, microbatches and unrolling.
"""

import math
from collections.abc import Callable
from operator import itemgetter
from typing import Any, TypedDict, TypeVar

import chex
import jax
import jax.numpy as jnp
from flax import nnx

from dnabert2_jax.config.model import EncoderConfig, LoraConfig
from dnabert2_jax.modeling.block import Block, BlockInputs, block_at, pays_off
from dnabert2_jax.modeling.compute import Compute
from dnabert2_jax.modeling.dropout import SITE_EMBEDDINGS, SITES_PER_BLOCK, BlockDropout, dropout
from dnabert2_jax.modeling.gather import rows_of, states_at
from dnabert2_jax.modeling.layers import LayerNorm, normal, parameter
from dnabert2_jax.modeling.lora import low_rank_terms
from dnabert2_jax.parallel.constraints import keep_rows_spread, keep_whole, row_shards
from dnabert2_jax.types import TokenBatch, Tree

M = TypeVar("M", bound=nnx.Module)


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
        self.layers = _stack(lambda r: Block(config, r), config.num_hidden_layers, rngs)
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
                x = _scan_layers(one_block, x, shared, layers, self.compute)
                return x if at is None else states_at(x, at)
            others, last = (jax.tree.map(itemgetter(index), layers) for index in (slice(-1), -1))
            x = _scan_layers(one_block, x, shared, others, self.compute)
            return (jax.checkpoint(last_block) if self.compute.remat == "full" else last_block)(x, at, last)


def _stack(build: Callable[[nnx.Rngs], M], count: int, rngs: nnx.Rngs) -> M:
    """``count`` independent modules as one whose parameters carry a leading layer axis, ready to be scanned over."""

    def initialize(key: jax.Array) -> Any:
        return nnx.to_pure_dict(nnx.state(build(nnx.Rngs(params=key))))

    graphdef = nnx.graphdef(nnx.eval_shape(lambda: build(nnx.Rngs(params=0))))
    return nnx.merge(graphdef, nnx.State(jax.vmap(initialize)(jax.random.split(rngs.params(), count))))


def _scan_layers(
    apply: Callable[[jax.Array, Any, Any], jax.Array], x: jax.Array, rows: Any, layers: Any, compute: Compute
) -> jax.Array:
    """``x = apply(x, rows, layer)`` for each layer in turn.

    Args:
        apply: one layer.
        x: hidden states, [B, T, D].
        rows: what else belongs to the rows, a tree of [B, ...].
        layers: a tree of [N, ...].
        compute: how.
    """
    count = math.gcd(compute.microbatches, max(1, len(x) // row_shards()))
    hidden, others = zip(*_microbatches((x, rows), count), strict=True)

    def one_layer(hidden: Any, layer: Any) -> tuple[Any, None]:
        return tuple(keep_rows_spread(apply(x, rows, layer)) for x, rows in zip(hidden, others, strict=True)), None

    if compute.remat == "full":
        one_layer = jax.checkpoint(one_layer, prevent_cse=False)  # a scan's body needs no barrier against CSE
    hidden, _ = jax.lax.scan(one_layer, hidden, layers, unroll=compute.unroll)
    return keep_rows_spread(jnp.stack(hidden, axis=1).reshape(x.shape))


def _microbatches(rows: Any, count: int) -> list[Any]:
    """A tree of [B, ...] as ``count`` of [B / count, ...].

    Number i has the rows i, i + count, ...: if devices share the rows, each has as many in every microbatch, and none moves.
    """
    cut = jax.tree.map(lambda x: x.reshape(-1, count, *x.shape[1:]), rows)
    return [jax.tree.map(itemgetter((slice(None), index)), cut) for index in range(count)]
