"""Attention by blocks in plain XLA: FlashAttention-2 (Dao 2023) as loops, in O(T) memory, over the blocks that matter only.

One row and head at a time, so that each visits no more blocks of keys than its own radius and segments ask for
(:mod:`~dnabert2_jax.kernels.attention.skipping`). A CPU loses nothing by that: one tile's products keep its cores busy.
Forward keeps a running maximum and sum for each block of queries. Backward recomputes the weights of the same tiles from the
log-sum-exp of their rows; nothing is saved between the two but q, k, v, the output and that log-sum-exp.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import sequential_vmap

from dnabert2_jax.kernels.attention.skipping import block_ranges, score_bound, skip_radius

BLOCK = 256
"""Longest block in tokens: of queries, and of the keys that are visited or skipped together."""

WIDE = 4
"""Key blocks in one step where as many are left: a large product runs on all cores, a small one does not."""

_FLOOR = -1e30  # where a running maximum starts
_HIDDEN = -2e30  # score of a key that does not count: its weight is exactly 0, against the floor, too

_State = TypeVar("_State")


def _block_length(tokens: int) -> int:
    """Length of a block: the fewest blocks within BLOCK, then as short as cover the tokens, in whole vectors of 8."""
    count = -(-tokens // BLOCK)
    return -(-tokens // (count * 8)) * 8


class _Head(NamedTuple):
    """One head of one row, or all of them along a leading axis, in n blocks of ``block`` tokens."""

    q: jax.Array  # [T, d]
    k: jax.Array  # [T, d]
    v: jax.Array  # [T, d]
    segments: jax.Array  # [T]
    slope: jax.Array  # []
    start: jax.Array  # [n], first block of keys that a block of queries visits
    stop: jax.Array  # [n], the one after its last

    @property
    def block(self) -> int:
        return self.q.shape[0] // self.start.shape[0]

    def scaled(self, scale: float) -> "_Head":
        """In float32, in which everything is computed, and the scale in q, where it costs least."""
        q, k, v = (x.astype(jnp.float32) for x in self[:3])
        return self._replace(q=q * scale, k=k, v=v)

    def take(self, x: jax.Array, first: jax.Array, blocks: int = 1) -> jax.Array:
        """The tokens of ``blocks`` blocks of [T, ...]."""
        return jax.lax.dynamic_slice_in_dim(x, first * self.block, blocks * self.block)

    def add(self, x: jax.Array, first: jax.Array, update: jax.Array) -> jax.Array:
        """[T, ...] with ``update`` added from block ``first`` on."""
        at = first * self.block
        here = jax.lax.dynamic_slice_in_dim(x, at, update.shape[0])
        return jax.lax.dynamic_update_slice_in_dim(x, here + update, at, 0)

    def scores(self, query: jax.Array, key: jax.Array, blocks: int) -> jax.Array:
        """Biased scores [block, blocks * block] of block ``query`` and the key blocks from ``key`` on."""
        position = jnp.arange(self.q.shape[0], dtype=jnp.float32)  # exact up to 16.7M tokens
        distance = jnp.abs(self.take(position, query)[:, None] - self.take(position, key, blocks)[None])
        scores = self.take(self.q, query) @ self.take(self.k, key, blocks).T - self.slope * distance
        # Padding has another number as a key than as a query, so that it sees and is seen by nothing.
        numbers = jnp.where(self.segments > 0, self.segments, -1)
        visible = self.take(self.segments, query)[:, None] == self.take(numbers, key, blocks)[None]
        return jnp.where(visible, scores, _HIDDEN)

    def visit(self, query: jax.Array, tile: Callable[[jax.Array, int, _State], _State], state: _State) -> _State:
        """Fold ``tile(first key block, blocks, state)`` over the key blocks that block ``query`` visits."""
        start, stop = self.start[query], self.stop[query]
        wide = min(WIDE, self.start.shape[0])
        steps = jax.lax.div(stop - start, jnp.int32(wide))
        state = jax.lax.fori_loop(0, steps, lambda n, state: tile(start + n * wide, wide, state), state)
        return jax.lax.fori_loop(start + steps * wide, stop, lambda key, state: tile(key, 1, state), state)


def _heads(
    q: jax.Array, k: jax.Array, v: jax.Array, slopes: jax.Array, segment_ids: jax.Array, scale: float, skip: bool
) -> _Head:
    """All heads of all rows along one axis, B * H long."""
    batch, heads, tokens, _ = q.shape
    radius = skip_radius(score_bound(q, k, segment_ids, scale), slopes, tokens) if skip else None
    ranges = block_ranges(segment_ids, radius, heads, _block_length(tokens), _block_length(tokens))
    segments = jnp.broadcast_to(segment_ids[:, None], (batch, heads, tokens))
    per_head = _Head(q, k, v, segments, jnp.broadcast_to(slopes, (batch, heads)), *ranges)
    return _Head(*(x.reshape(batch * heads, *x.shape[2:]) for x in per_head))


def _forward_head(head: _Head, scale: float) -> tuple[jax.Array, jax.Array]:
    """Output [T, d] and log-sum-exp [T] of one head."""
    dtype = head.v.dtype
    head = head.scaled(scale)
    rows = (head.block,)

    def one_block(query: jax.Array) -> tuple[jax.Array, jax.Array]:
        def tile(key: jax.Array, blocks: int, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            maximum, total, output = state
            scores = head.scores(query, key, blocks)
            new_maximum = jnp.maximum(maximum, scores.max(-1))
            weights = jnp.exp(scores - new_maximum[:, None])
            shrink = jnp.exp(maximum - new_maximum)
            output = output * shrink[:, None] + weights @ head.take(head.v, key, blocks)
            return new_maximum, total * shrink + weights.sum(-1), output

        start = (jnp.full(rows, _FLOOR), jnp.zeros(rows), jnp.zeros((*rows, head.v.shape[1])))
        maximum, total, output = head.visit(query, tile, start)
        # Rows that see nothing (padding) have total 0: they get output 0 and a log-sum-exp that is finite.
        safe = jnp.where(total > 0, total, 1.0)
        return (output / safe[:, None]).astype(dtype), maximum + jnp.log(safe)

    output, log_sum_exp = jax.lax.map(one_block, jnp.arange(head.start.shape[0]))
    return output.reshape(head.v.shape), log_sum_exp.reshape(-1)


def _backward_head(
    head: _Head, output: jax.Array, log_sum_exp: jax.Array, d_output: jax.Array, scale: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients of q, k and v, [T, d] each."""
    dtype = head.q.dtype
    head = head.scaled(scale)
    d_output = d_output.astype(jnp.float32)
    # FlashAttention-2, equation for D: the row sum of dO * O replaces the row sum of dP * P.
    delta = (d_output * output.astype(jnp.float32)).sum(-1)

    def one_block(d_keys: tuple[jax.Array, jax.Array], query: jax.Array) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        q, do, lse, row_delta = (head.take(x, query) for x in (head.q, d_output, log_sum_exp, delta))

        def tile(key: jax.Array, blocks: int, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            dk, dv, dq = state
            weights = jnp.exp(head.scores(query, key, blocks) - lse[:, None])
            d_scores = weights * (do @ head.take(head.v, key, blocks).T - row_delta[:, None])
            dk, dv = head.add(dk, key, d_scores.T @ q), head.add(dv, key, weights.T @ do)
            return dk, dv, dq + d_scores @ head.take(head.k, key, blocks)

        dk, dv, dq = head.visit(query, tile, (*d_keys, jnp.zeros(q.shape)))
        return (dk, dv), (dq * scale).astype(dtype)

    zeros = jnp.zeros(head.k.shape)
    (dk, dv), dq = jax.lax.scan(one_block, (zeros, zeros), jnp.arange(head.start.shape[0]))
    return dq.reshape(head.q.shape), dk.astype(dtype), dv.astype(dtype)


@partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _attention(
    q: jax.Array, k: jax.Array, v: jax.Array, slopes: jax.Array, segment_ids: jax.Array, scale: float, skip: bool
) -> jax.Array:
    return _attention_fwd(q, k, v, slopes, segment_ids, scale, skip)[0]


def _attention_fwd(
    q: jax.Array, k: jax.Array, v: jax.Array, slopes: jax.Array, segment_ids: jax.Array, scale: float, skip: bool
) -> tuple[jax.Array, Any]:
    @sequential_vmap
    def forward(*inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        output, log_sum_exp = jax.lax.map(lambda head: _forward_head(head, scale), _heads(*inputs, scale, skip))
        return output.reshape(inputs[0].shape), log_sum_exp.reshape(inputs[0].shape[:-1])

    inputs = (q, k, v, slopes, segment_ids)
    output, log_sum_exp = forward(*inputs)
    return output, (inputs, output, log_sum_exp)


def _attention_bwd(scale: float, skip: bool, saved: Any, d_output: jax.Array) -> tuple[Any, ...]:
    @sequential_vmap
    def backward(inputs: Any, *rows: jax.Array) -> tuple[jax.Array, ...]:
        heads = _heads(*inputs, scale, skip)
        rows = tuple(x.reshape(-1, *x.shape[2:]) for x in rows)
        gradients = jax.lax.map(lambda args: _backward_head(*args, scale), (heads, *rows))
        return tuple(x.reshape(inputs[0].shape) for x in gradients)

    inputs, output, log_sum_exp = saved
    # Slopes are constants of the architecture and segment ids are integers: neither has a gradient.
    slopes, segment_ids = inputs[3:]
    nothing = (jnp.zeros_like(slopes), np.zeros(segment_ids.shape, jax.dtypes.float0))
    return *backward(inputs, output, log_sum_exp, d_output), *nothing


_attention.defvjp(_attention_fwd, _attention_bwd)


def blocked_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    slopes: jax.Array,
    segment_ids: jax.Array,
    *,
    scale: float,
    skip: bool = True,
) -> jax.Array:
    """What :func:`~.reference.reference_attention` computes, in O(T) memory forward and backward.

    Arguments and result are the same. Products and sums are float32 whatever the dtype of q. Any T is padded up to whole
    blocks inside. With ``skip`` off, keys are visited however far they are.
    """
    tokens = q.shape[2]
    padding = -tokens % _block_length(tokens)
    if padding:
        q, k, v = (jnp.pad(x, ((0, 0), (0, 0), (0, padding), (0, 0))) for x in (q, k, v))
        segment_ids = jnp.pad(segment_ids, ((0, 0), (0, padding)))
    return _attention(q, k, v, slopes, segment_ids, scale, skip)[:, :, :tokens]
