"""The DNABERT-2 encoder: embeddings without positions, then post-LayerNorm blocks of ALiBi attention and GEGLU."""

import math
from collections.abc import Callable
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from dnabert2_jax.config.model import EncoderConfig, LoraConfig
from dnabert2_jax.kernels.attention import alibi_slopes, attention_at, projected_attention
from dnabert2_jax.modeling.compute import Compute
from dnabert2_jax.modeling.elementwise import dropout, geglu
from dnabert2_jax.modeling.layers import Dense, LayerNorm, LowRank, normal, parameter
from dnabert2_jax.parallel.constraints import keep_rows_spread, keep_whole, row_shards
from dnabert2_jax.types import TokenBatch, Tree

FEED_FORWARD_TOKENS = 2**15
"""Tokens of a row that the feed-forward layers take at a time where nothing is trained: its gates and values are eight times
as wide as the hidden states, and for a row of a million tokens they would not fit."""

MOST_SCORES_AT = 2**20
"""Where only some positions' hidden states are wanted, the last block builds all scores of their queries. A row with more of
them than this, positions x tokens, goes through the whole block instead."""

FEWEST_TOKENS_AT = 128
"""Tokens of a batch, for each of the other blocks, from which the last one goes its own way: that copies their weights."""


class LayerAdapter:
    """The LoRA matrices of one block, handed out by the name of the projection they belong to."""

    def __init__(self, tree: Tree | None, lora: LoraConfig | None, seeds: jax.Array | None, site: jax.Array) -> None:
        self._tree, self._lora, self._seeds, self._site = tree or {}, lora, seeds, site

    def get(self, target: str, offset: int, positions: jax.Array | None = None) -> LowRank | None:
        """The term to add to projection ``target``; ``offset`` numbers its dropout site within the block.

        ``positions`` says where the tokens stand that are projected, [B, P]; None: they are whole rows.
        """
        if target not in self._tree or self._lora is None:
            return None
        pair, lora, site = self._tree[target], self._lora, self._site + jnp.uint32(offset)
        return LowRank(pair["A"], pair["B"], lora.scale, lora.dropout, self._seeds, site, positions)


# Dropout sites: the embeddings are site 0, block n has sites 8(n+1) .. 8(n+1)+5.
_SITES_A_BLOCK = 8
_SITE_ATTENTION, _SITE_FEED_FORWARD, _SITE_WQKV, _SITE_OUT, _SITE_GATED, _SITE_WO = range(6)


class Embeddings(nnx.Module):
    """Word plus token-type embeddings, LayerNorm, dropout. Parameters: ``word`` [V, D], ``token_type`` [2, D], ``norm``."""

    def __init__(self, config: EncoderConfig, rngs: nnx.Rngs) -> None:
        init = normal(config.initializer_range)
        self.word = parameter(rngs, init, (config.vocab_size, config.hidden_size), ("vocab", "hidden"))
        self.token_type = parameter(rngs, init, (config.type_vocab_size, config.hidden_size), ("type", "hidden"))
        self.norm = LayerNorm(rngs, config.hidden_size, config.layer_norm_eps)
        self.rate = config.hidden_dropout_prob

    def __call__(self, tokens: TokenBatch, dtype: Any, seeds: jax.Array | None) -> jax.Array:
        """[B, T] ids -> [B, T, D]."""
        word, token_type = keep_whole(self.word[...]), keep_whole(self.token_type[...])
        x = word[tokens.input_ids] + token_type[tokens.token_type_ids]
        return dropout(self.norm(x.astype(dtype)), self.rate, seeds, 0)


class Block(nnx.Module):
    """One post-LayerNorm transformer block, under the original's names (``Wqkv``, ``out``, ``gated_layers``, ``wo``)."""

    def __init__(self, config: EncoderConfig, rngs: nnx.Rngs) -> None:
        hidden, inner, std = config.hidden_size, config.intermediate_size, config.initializer_range
        self.Wqkv = Dense(rngs, (hidden, 3 * hidden), ("hidden", "heads"), std)
        self.out = Dense(rngs, (hidden, hidden), ("heads", "hidden"), std)
        self.attention_norm = LayerNorm(rngs, hidden, config.layer_norm_eps)
        self.gated_layers = Dense(rngs, (hidden, 2 * inner), ("hidden", "intermediate"), std, use_bias=False)
        self.wo = Dense(rngs, (inner, hidden), ("intermediate", "hidden"), std)
        self.feed_forward_norm = LayerNorm(rngs, hidden, config.layer_norm_eps)
        self.config = config

    def __call__(
        self,
        x: jax.Array,
        segment_ids: jax.Array,
        seeds: jax.Array | None,
        site: jax.Array,
        adapter: LayerAdapter,
        compute: Compute,
        at: jax.Array | None = None,
    ) -> jax.Array:
        """[B, T, D] -> [B, T, D]; with positions ``at`` [B, P], what comes out there, [B, P, D]."""
        rate = self.config.hidden_dropout_prob

        def attend(x: jax.Array) -> jax.Array:
            if at is not None:
                return self._attend_at(x, segment_ids, adapter, at)
            return self._attend(x, segment_ids, adapter, compute.attention)

        if compute.remat == "attention":
            attend = jax.checkpoint(attend, prevent_cse=at is not None)  # the loop over blocks is barrier enough
        attended = attend(x)
        if at is not None:
            x = states_at(x, at)
        x = self.attention_norm(x + dropout(attended, rate, seeds, site + jnp.uint32(_SITE_ATTENTION), at))

        def feed(x: jax.Array) -> jax.Array:
            gate, value = self.gated_layers.halves(x, adapter.get("gated_layers", _SITE_GATED, at))
            return self.wo(geglu(gate, value), adapter.get("wo", _SITE_WO, at))

        # Dropout is by a token's place in the row, so only rows without it can be cut; training has remat for long rows.
        fed = _by_parts(feed, x) if seeds is None and x.shape[1] > FEED_FORWARD_TOKENS else feed(x)
        return self.feed_forward_norm(x + dropout(fed, rate, seeds, site + jnp.uint32(_SITE_FEED_FORWARD), at))

    def _attend(self, x: jax.Array, segment_ids: jax.Array, adapter: LayerAdapter, implementation: str) -> jax.Array:
        heads = self.config.num_attention_heads

        def project_in(layout: str) -> tuple[jax.Array, jax.Array, jax.Array]:
            q, k, v = self.Wqkv.heads(x, layout, "qkv", heads, adapter.get("Wqkv", _SITE_WQKV))
            return q, k, v

        return projected_attention(
            project_in,
            lambda o, layout: self.out.from_heads(o, layout, heads, adapter.get("out", _SITE_OUT)),
            jnp.asarray(alibi_slopes(heads)),
            segment_ids,
            head_dim=self.config.head_dim,
            implementation=implementation,
        )

    def _attend_at(self, x: jax.Array, segment_ids: jax.Array, adapter: LayerAdapter, at: jax.Array) -> jax.Array:
        """Queries at positions [B, P] only, keys and values of all tokens."""
        heads, layout = self.config.num_attention_heads, "bhtd"
        (q,) = self.Wqkv.heads(states_at(x, at), layout, "q", heads, adapter.get("Wqkv", _SITE_WQKV, at))
        k, v = self.Wqkv.heads(x, layout, "kv", heads, adapter.get("Wqkv", _SITE_WQKV))
        slopes, scale = jnp.asarray(alibi_slopes(heads)), self.config.head_dim**-0.5
        output = attention_at(q, k, v, slopes, segment_ids, at, scale=scale)
        return self.out.from_heads(output, layout, heads, adapter.get("out", _SITE_OUT, at))


def states_at(hidden: jax.Array, positions: jax.Array) -> jax.Array:
    """[B, T, D] and positions [B, P] in each row -> the hidden states there, [B, P, D]."""
    return jnp.take_along_axis(hidden, positions[:, :, None], axis=1)


def _by_parts(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """``function`` of [B, T, D], each token by itself, on FEED_FORWARD_TOKENS tokens of the rows at a time."""

    def one_token(x: jax.Array) -> jax.Array:
        return function(x[:, None])[:, 0]

    mapped = jax.lax.map(one_token, jnp.moveaxis(x, 1, 0), batch_size=FEED_FORWARD_TOKENS)
    return jnp.moveaxis(mapped, 0, 1)


def stack(build: Callable[[nnx.Rngs], nnx.Module], count: int, rngs: nnx.Rngs) -> nnx.Module:
    """``count`` independent modules as one whose parameters carry a leading layer axis, ready to be scanned over."""

    def initialise(key: jax.Array) -> Any:
        return nnx.to_pure_dict(nnx.state(build(nnx.Rngs(params=key))))

    graphdef = nnx.graphdef(nnx.eval_shape(lambda: build(nnx.Rngs(params=0))))
    return nnx.merge(graphdef, nnx.State(jax.vmap(initialise)(jax.random.split(rngs.params(), count))))


class Encoder(nnx.Module):
    """Embeddings and a scanned stack of blocks: compile time does not grow with depth."""

    def __init__(self, config: EncoderConfig, rngs: nnx.Rngs, compute: Compute) -> None:
        self.embeddings = Embeddings(config, rngs)
        self.layers = stack(lambda r: Block(config, r), config.num_hidden_layers, rngs)
        self.num_layers = config.num_hidden_layers
        self.compute = compute

    def __call__(
        self,
        tokens: TokenBatch,
        *,
        dropout_seeds: jax.Array | None = None,
        adapter: Tree | None = None,
        lora: LoraConfig | None = None,
        at: jax.Array | None = None,
    ) -> jax.Array:
        """Hidden states of the last block.

        Args:
            tokens: ids, segments and token types, [B, T] each.
            dropout_seeds: one a row, [B]; None (evaluation) switches dropout off.
            adapter: LoRA matrices by target, stacked over layers: ``{"Wqkv": {"A": [N, D, r], "B": [N, r, 3D]}, ...}``.
            lora: the adapter's settings.
            at: positions whose hidden states are wanted, [B, P]; None: all. The last block has little to do for a few.

        Returns:
            [B, T, D] in the compute dtype, with ``at`` [B, P, D]. Values at padding carry no meaning.
        """
        x = keep_rows_spread(self.embeddings(tokens, jnp.dtype(self.compute.precision), dropout_seeds))
        graphdef, state = nnx.split(self.layers)
        count = math.gcd(self.compute.parts, max(1, len(x) // row_shards()))
        rows = _in_parts((x, tokens.segment_ids, dropout_seeds), count)

        def one_layer(parts: list[jax.Array], scanned: tuple[Any, Tree | None, jax.Array]) -> tuple[list[jax.Array], None]:
            layer_state, layer_adapter, site = scanned
            block = nnx.merge(graphdef, layer_state)

            def through(x: jax.Array, segment_ids: jax.Array, seeds: jax.Array | None) -> jax.Array:
                matrices = LayerAdapter(layer_adapter, lora, seeds, site)
                return keep_rows_spread(block(x, segment_ids, seeds, site, matrices, self.compute))

            return [through(x, *rest) for x, (_, *rest) in zip(parts, rows, strict=True)], None

        if self.compute.remat == "full":
            one_layer = jax.checkpoint(one_layer, prevent_cse=False)  # a scan's body needs no barrier against CSE
        sites = jnp.arange(1, self.num_layers + 1, dtype=jnp.uint32) * jnp.uint32(_SITES_A_BLOCK)
        layers, last = (state, adapter, sites), None
        if at is not None and self._worth_it(at, x):
            layers, last = jax.tree.map(itemgetter(slice(-1)), layers), jax.tree.map(itemgetter(-1), layers)
        parts, _ = jax.lax.scan(one_layer, [x for x, *_ in rows], layers, unroll=self.compute.unroll)
        x = keep_rows_spread(jnp.stack(parts, axis=1).reshape(x.shape))
        if last is None:
            return x if at is None else states_at(x, at)

        def last_layer(x: jax.Array, last: tuple[Any, Tree | None, jax.Array]) -> jax.Array:
            layer_state, layer_adapter, site = last
            matrices = LayerAdapter(layer_adapter, lora, dropout_seeds, site)
            block = nnx.merge(graphdef, layer_state)
            return keep_rows_spread(block(x, tokens.segment_ids, dropout_seeds, site, matrices, self.compute, at))

        return (jax.checkpoint(last_layer) if self.compute.remat == "full" else last_layer)(x, last)

    def _worth_it(self, at: jax.Array, x: jax.Array) -> bool:
        """Is the last block cheaper at positions ``at`` [B, P] than for all of ``x`` [B, T, D]?"""
        (rows, wanted), tokens = at.shape, x.shape[1]
        enough = rows * tokens >= FEWEST_TOKENS_AT * (self.num_layers - 1)
        return enough and wanted * _FEW <= tokens and wanted * tokens <= MOST_SCORES_AT


_FEW = 4  # times as many tokens as positions: below that the last block's whole rows cost little more


def _in_parts(rows: Any, count: int) -> list[Any]:
    """A tree of [B, ...] as ``count`` of [B / count, ...].

    Part i has the rows i, i + count, ...: where devices share the rows, each has as many of each part, and none moves.
    """
    cut = jax.tree.map(lambda x: x.reshape(-1, count, *x.shape[1:]), rows)
    return [jax.tree.map(itemgetter((slice(None), part)), cut) for part in range(count)]
