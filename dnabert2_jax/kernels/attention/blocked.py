"""Blocked attention in plain XLA: FlashAttention-2 (Dao 2023) as loops over only the blocks that matter, in O(T) memory.

Rows and heads are processed one at a time, so that each visits no more blocks of keys than its own radius and segments
require (:mod:`~dnabert2_jax.kernels.attention.skipping`). This costs a CPU nothing: the products of a single tile keep its
cores busy. The forward pass keeps a running maximum and sum for each block of queries. The backward pass recomputes the
weights of the same tiles from the log-sum-exp of their rows; only q, k, v, the output and that log-sum-exp are saved between
the two.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dnabert2_jax.kernels.attention.kernel import Gradients, Inputs, Kernel, Saved
from dnabert2_jax.kernels.attention.ring import attend
from dnabert2_jax.kernels.attention.skipping import block_ranges, score_bound, skip_radius

BLOCK = 256
"""Maximum block length in tokens, for queries and for the keys that are visited or skipped together."""

WIDE = 4
"""Key blocks per step, if that many are left: a large product runs on all cores, a small one does not."""

_FLOOR = -1e30  # initial value of a running maximum
_HIDDEN = -2e30  # score of a masked key: its weight is exactly 0, even relative to the floor

_Three = tuple[jax.Array, jax.Array, jax.Array]


def _block_length(tokens: int) -> int:
    """Block length: fewest blocks of at most BLOCK tokens, then the shortest multiple of 8 that covers the tokens."""
    count = -(-tokens // BLOCK)
    return -(-tokens // (count * 8)) * 8


class _Head(NamedTuple):
    """One head of one row, or all heads of all rows along a leading axis, in n blocks of ``block`` tokens."""

    q: jax.Array  # [T, d]
    k: jax.Array  # [T, d]
    v: jax.Array  # [T, d]
    segments: jax.Array  # [T]
    slope: jax.Array  # []
    start: jax.Array  # [n], first block of keys visited by each block of queries
    stop: jax.Array  # [n], one past the last

    @property
    def block(self) -> int:
        return self.q.shape[0] // self.start.shape[0]

    def scaled(self, scale: float) -> "_Head":
        """Everything in float32, as all computation here, with the scale folded into q, where it is cheapest."""
        q, k, v = (x.astype(jnp.float32) for x in self[:3])
        return self._replace(q=q * scale, k=k, v=v)

    def take(self, x: jax.Array, first: jax.Array, blocks: int = 1) -> jax.Array:
        """The tokens in ``blocks`` blocks of [T, ...]."""
        return jax.lax.dynamic_slice_in_dim(x, first * self.block, blocks * self.block)

    def add(self, x: jax.Array, first: jax.Array, update: jax.Array) -> jax.Array:
        """[d, T] with ``update`` [d, tokens] added starting at block ``first``."""
        at = first * self.block
        here = jax.lax.dynamic_slice_in_dim(x, at, update.shape[1], axis=1)
        return jax.lax.dynamic_update_slice_in_dim(x, here + update, at, axis=1)

    def scores(self, query: jax.Array, key: jax.Array, blocks: int) -> jax.Array:
        """Biased scores [block, blocks * block] of query block ``query`` and ``blocks`` key blocks starting at ``key``."""
        position = jnp.arange(self.q.shape[0], dtype=jnp.float32)  # exact up to 16.7M tokens
        distance = jnp.abs(self.take(position, query)[:, None] - self.take(position, key, blocks)[None])
        scores = self.take(self.q, query) @ self.take(self.k, key, blocks).T - self.slope * distance
        # Padding has different ids as key and as query, so it neither attends nor is attended to.
        numbers = jnp.where(self.segments > 0, self.segments, -1)
        visible = self.take(self.segments, query)[:, None] == self.take(numbers, key, blocks)[None]
        return jnp.where(visible, scores, _HIDDEN)

    def visit(self, query: jax.Array, tile: Callable[[jax.Array, int, _Three], _Three], state: _Three) -> _Three:
        """Fold ``tile(first key block, blocks, state)`` over the key blocks that query block ``query`` visits."""
        first, stop = self.start[query], self.stop[query]
        for blocks in sorted({min(WIDE, self.start.shape[0]), 1}, reverse=True):

            def step(n: jax.Array, state: _Three, first: jax.Array = first, blocks: int = blocks) -> _Three:
                return tile(first + n * blocks, blocks, state)

            steps = jax.lax.div(stop - first, jnp.int32(blocks))
            state = jax.lax.fori_loop(0, steps, step, state)
            first = first + steps * blocks
        return state


def _forward_head(head: _Head, scale: float) -> tuple[jax.Array, jax.Array]:
    """Output [T, d] and log-sum-exp [T] of one head."""
    dtype = head.v.dtype
    head = head.scaled(scale)

    def one_block(query: jax.Array) -> tuple[jax.Array, jax.Array]:
        def tile(key: jax.Array, blocks: int, state: _Three) -> _Three:
            maximum, total, output = state
            scores = head.scores(query, key, blocks)
            new_maximum = jnp.maximum(maximum, scores.max(-1))
            weights = jnp.exp(scores - new_maximum[:, None])
            shrink = jnp.exp(maximum - new_maximum)
            output = output * shrink[:, None] + weights @ head.take(head.v, key, blocks)
            return new_maximum, total * shrink + weights.sum(-1), output

        # "like" also in the mesh axes over which the inputs vary inside shard_map: loops require it.
        q = head.take(head.q, query)
        start = (jnp.full_like(q[:, 0], _FLOOR), jnp.zeros_like(q[:, 0]), jnp.zeros_like(q))
        maximum, total, output = head.visit(query, tile, start)
        # Rows with no visible key (padding) have total 0: they get output 0 and a finite log-sum-exp.
        safe = jnp.where(total > 0, total, 1.0)
        return (output / safe[:, None]).astype(dtype), maximum + jnp.log(safe)

    output, log_sum_exp = jax.lax.map(one_block, jnp.arange(head.start.shape[0]))
    return output.reshape(head.v.shape), log_sum_exp.reshape(-1)


def _backward_head(head: _Head, rows: tuple[jax.Array, ...], scale: float) -> _Three:
    """Gradients of q, k and v, [T, d] each, from each row's log-sum-exp, dO and delta."""
    log_sum_exp, d_output, delta = rows
    dtype = head.q.dtype
    head = head.scaled(scale)
    d_output = d_output.astype(jnp.float32)

    def one_block(d_keys: tuple[jax.Array, jax.Array], query: jax.Array) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        q, do, lse, row_delta = (head.take(x, query) for x in (head.q, d_output, log_sum_exp, delta))

        def tile(key: jax.Array, blocks: int, state: _Three) -> _Three:
            dk, dv, dq = state
            weights = jnp.exp(head.scores(query, key, blocks) - lse[:, None])
            d_scores = weights * (do @ head.take(head.v, key, blocks).T - row_delta[:, None])
            # Head width first: on a CPU, a product with a tile runs at half the speed if the tile has to be transposed.
            dk, dv = head.add(dk, key, q.T @ d_scores), head.add(dv, key, do.T @ weights)
            return dk, dv, dq + d_scores @ head.take(head.k, key, blocks)

        dk, dv, dq = head.visit(query, tile, (*d_keys, jnp.zeros_like(q)))
        return (dk, dv), (dq * scale).astype(dtype)

    zeros = jnp.zeros_like(head.k.T)
    (dk, dv), dq = jax.lax.scan(one_block, (zeros, zeros), jnp.arange(head.start.shape[0]))
    return dq.reshape(head.q.shape), dk.T.astype(dtype), dv.T.astype(dtype)


@dataclass(frozen=True)
class BlockedKernel(Kernel):
    """Maps over heads. The log-sum-exp is in nats."""

    layout = "bhtd"

    def pad(self, inputs: Inputs) -> Inputs:
        """Pad to whole blocks of tokens."""
        tokens = inputs.segment_ids.shape[1]
        if not (padding := -tokens % _block_length(tokens)):
            return inputs
        q, k, v = (jnp.pad(x, ((0, 0), (0, 0), (0, padding), (0, 0))) for x in inputs[:3])
        return Inputs(q, k, v, inputs.slopes, jnp.pad(inputs.segment_ids, ((0, 0), (0, padding))))

    def forward(self, inputs: Inputs) -> Saved:  # noqa: D102
        with jax.default_matmul_precision("highest"):  # matrix units would round float32 factors
            output, log_sum_exp = jax.lax.map(lambda head: _forward_head(head, self.scale), self._heads(inputs))
        return Saved(output.reshape(inputs.q.shape), log_sum_exp.reshape(inputs.q.shape[:-1]))

    def backward(  # noqa: D102
        self, inputs: Inputs, saved: Saved, d_output: jax.Array, d_log_sum_exp: jax.Array | None
    ) -> Gradients:
        delta = jnp.einsum(
            "bhtd,bhtd->bht", d_output.astype(jnp.float32), saved.output.astype(jnp.float32), precision="highest"
        )
        if d_log_sum_exp is not None:
            delta = delta - d_log_sum_exp
        rows = tuple(x.reshape(-1, *x.shape[2:]) for x in (saved.log_sum_exp, d_output, delta))
        with jax.default_matmul_precision("highest"):
            gradients = jax.lax.map(lambda x: _backward_head(x[0], x[1], self.scale), (self._heads(inputs), rows))
        return Gradients(*(x.reshape(inputs.q.shape) for x in gradients))

    def _heads(self, inputs: Inputs) -> _Head:
        """All heads of all rows along one axis of length B * H, and the blocks that each visits."""
        q, k, v, slopes, segment_ids = inputs
        batch, heads, tokens, _ = q.shape
        block = _block_length(tokens)
        radius = None
        if self.skip and tokens > WIDE * block:  # a shorter row is one step, cheaper than a loop over blocks
            radius = skip_radius(score_bound(q, k, segment_ids, self.scale), slopes, tokens)
        ranges = block_ranges(segment_ids, radius, heads, block, block)
        segments = jnp.broadcast_to(segment_ids[:, None], (batch, heads, tokens))
        per_head = (q, k, v, segments, jnp.broadcast_to(slopes, (batch, heads)), *ranges)
        return _Head(*(x.reshape(batch * heads, *x.shape[2:]) for x in per_head))


def blocked_attention(inputs: Inputs, *, scale: float, skip: bool = True) -> tuple[jax.Array, jax.Array]:
    """The :class:`~dnabert2_jax.kernels.attention.kernel.AttentionFunction` in O(T) memory, in layout bhtd.

    Products and sums are float32 regardless of the dtype of q. Without ``skip``, and in rows of up to WIDE blocks, keys are
    visited regardless of their distance.
    """
    return attend(BlockedKernel(scale, skip), inputs)
