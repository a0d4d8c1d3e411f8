"""One device's share of the tokens of long rows, and the blocks of keys and values that visit it from other devices.

A visitor is passed from neighbor to neighbor, so that no device ever holds more than one. Everything about it is plain XLA,
in tiles of [keys, queries].
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from dnabert2_jax.kernels.attention.skipping import number_span
from dnabert2_jax.parallel.constraints import token_shards

_HIDDEN = -2e30  # score of a masked key: its weight is exactly 0

Pair = tuple[jax.Array, jax.Array]
_S = TypeVar("_S")


@dataclass(frozen=True, eq=False)
class Visitor:
    """A block of keys and values of another device.

    Attributes:
        k: [n, d, C].
        v: [n, d, C].
        segment_ids: [n, C].
        place: of its first token in its own device's share.
        offset: from the first token of the device that it visits to its own first token.
        side: 1 if it comes from earlier tokens, -1 from later ones.
        hops: how many devices it is away from its own.
    """

    k: jax.Array
    v: jax.Array
    segment_ids: jax.Array
    place: jax.Array
    offset: jax.Array
    side: int
    hops: jax.Array

    def send_home(self, arrays: Any) -> Any:
        """A tree of arrays to the visitor's own device; what arrives in return is about the block at the same place."""
        return _pass_on(arrays, self.hops, -self.side)


@dataclass(frozen=True, eq=False)
class Shard:
    """This device's tokens, in whole blocks, with the heads of all rows along one axis of n = B * H.

    Tokens come last, because a TPU pads the last axis of an array to 128.

    Attributes:
        q: queries, [n, d, P].
        k: keys, [n, d, P].
        v: values, [n, d, P].
        segment_ids: 0 at padding, else the index of the sequence in its row, [n, P].
        slopes: ALiBi slopes, [n].
        radius: R of :mod:`~dnabert2_jax.kernels.attention.skipping`, [n].
        spans: the smallest and the largest segment of each block, [n, blocks] each.
        scale: factor of the dot products.
        tokens: T, of a row on this device; the others up to P are padding.
        block: C, tokens per block.
    """

    q: jax.Array
    k: jax.Array
    v: jax.Array
    segment_ids: jax.Array
    slopes: jax.Array
    radius: jax.Array
    spans: Pair
    scale: float
    tokens: int
    block: int

    @property
    def blocks(self) -> int:
        """Blocks per share."""
        return self.segment_ids.shape[1] // self.block

    def visit(self, fold: Callable[[Visitor, _S], _S], state: _S) -> _S:
        """Fold over the blocks of other devices that any device has to see: from either side, the nearest first."""
        # Devices that do not share rows run the same program, too, and have to agree on the number of blocks.
        everyone = jax.sharding.get_abstract_mesh().axis_names
        reach = jax.lax.pmax(self.radius.max(), everyone)  # type: ignore[no-untyped-call]
        shares, rest = jax.lax.div(reach, self.tokens), jax.lax.rem(reach, self.tokens)
        padding = self.blocks * self.block - self.tokens
        count = shares * self.blocks + jax.lax.div(rest + padding + self.block - 1, self.block)
        count = jnp.minimum(count, (token_shards() - 1) * self.blocks)

        for side in (1, -1):

            def step(number: jax.Array, state: _S, side: int = side) -> _S:
                return fold(self._visitor(side, number), state)

            state = jax.lax.fori_loop(0, count, step, state)
        return state

    def _visitor(self, side: int, number: jax.Array) -> Visitor:
        """Block ``number`` of one side, counted from the nearest."""
        hops, index = jax.lax.div(number, self.blocks) + 1, jax.lax.rem(number, self.blocks)
        place = (self.blocks - 1 - index if side == 1 else index) * self.block
        sent = tuple(jax.lax.dynamic_slice_in_dim(x, place, self.block, -1) for x in (self.k, self.v, self.segment_ids))
        k, v, segment_ids = _pass_on(sent, hops, side)
        return Visitor(k, v, segment_ids, place, place - side * hops * self.tokens, side, hops)

    def fold_in(self, visitor: Visitor, state: Pair) -> Pair:
        """Outputs [n, d, P] and log-sum-exps [n, P] that know of a visitor: for each block, a step of the online softmax.

        An output and its log-sum-exp are such a softmax's state, with a maximum of the log-sum-exp and a sum of 1.
        """

        def one_block(head: jax.Array, at: jax.Array, state: Pair) -> Pair:
            output, log_sum_exp = (self._take(x, head, at) for x in state)
            scores = self._scores(visitor, head, at)
            maximum = jnp.maximum(log_sum_exp, scores.max(0))
            weights, before = jnp.exp(scores - maximum[None]), jnp.exp(log_sum_exp - maximum)
            total = before + weights.sum(0)
            output = output * before[None] + _dot(visitor.v[head], weights.astype(visitor.v.dtype), 1, 0)
            return _put(state[0], head, at, output / total[None]), _put(state[1], head, at, maximum + jnp.log(total))

        visits = self._visits(visitor, one_block)
        return jax.lax.fori_loop(0, len(self.slopes), visits, state)

    def gradients(self, visitor: Visitor, dq: jax.Array, rows: tuple[jax.Array, ...]) -> tuple[jax.Array, Pair]:
        """The sum dQ [n, d, P] with a visitor's part, and the visitor's own dK and dV, [n, d, C] each; all in float32.

        Args:
            visitor: the keys and values.
            dq: the sum so far.
            rows: cotangents of the outputs [n, d, P], and of each query the log-sum-exp and the sum of dO * O, [n, P].
        """

        def one_block(head: jax.Array, at: jax.Array, sums: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            dq, dk, dv = sums
            q, so_far, do, log_sum_exp, delta = (self._take(x, head, at) for x in (self.q, dq, *rows))
            weights = jnp.exp(self._scores(visitor, head, at) - log_sum_exp[None])
            d_scores = self.scale * weights * (_dot(visitor.v[head], do, 0, 0) - delta[None])
            d_scores, weights = d_scores.astype(q.dtype), weights.astype(q.dtype)
            dq = _put(dq, head, at, so_far + _dot(visitor.k[head], d_scores, 1, 0))
            return dq, dk + _dot(q, d_scores, 1, 1), dv + _dot(do, weights, 1, 1)

        visits = self._visits(visitor, one_block)

        def one_head(dq: jax.Array, head: jax.Array) -> tuple[jax.Array, Pair]:
            zeros = jnp.zeros(visitor.k.shape[1:], jnp.float32)
            dq, dk, dv = visits(head, (dq, zeros, zeros))
            return dq, (dk, dv)

        return jax.lax.scan(one_head, dq, jnp.arange(len(self.slopes), dtype=jnp.int32))

    def _visits(
        self, visitor: Visitor, one_block: Callable[[jax.Array, jax.Array, _S], _S]
    ) -> Callable[[jax.Array, _S], _S]:
        """``(head, state) -> state`` over the blocks of queries that a visitor's keys in that head concern."""
        (low, high), (visitor_low, visitor_high) = self.spans, number_span(visitor.segment_ids, self.block)
        meets, index = (low <= visitor_high) & (visitor_low <= high), jnp.arange(self.blocks, dtype=jnp.int32)
        first, last = visitor.offset - self.radius, visitor.offset + (self.block - 1) + self.radius
        start = jnp.maximum(jnp.where(meets, index, self.blocks).min(1), first // self.block)
        stop = jnp.minimum(jnp.where(meets, index + 1, 0).max(1), last // self.block + 1)

        def visits(head: jax.Array, state: _S) -> _S:
            return jax.lax.fori_loop(
                start[head], stop[head], lambda number, state: one_block(head, number * self.block, state), state
            )

        return visits

    def _scores(self, visitor: Visitor, head: jax.Array, at: jax.Array) -> jax.Array:
        """Biased scores [keys, queries] of a visitor with the block of queries from ``at`` on."""
        token = jnp.arange(self.block, dtype=jnp.int32)
        distance = jnp.abs((visitor.offset + token)[:, None] - (at + token)[None]).astype(jnp.float32)
        products = _dot(visitor.k[head], self._take(self.q, head, at), 0, 0)
        keys, queries = visitor.segment_ids[head][:, None], self._take(self.segment_ids, head, at)[None]
        visible = (keys == queries) & (keys > 0)
        return jnp.where(visible, products * self.scale - self.slopes[head] * distance, _HIDDEN)

    def _take(self, x: jax.Array, head: jax.Array, at: jax.Array) -> jax.Array:
        """The block from token ``at`` on of a head of [n, ..., P]."""
        between = [0] * (x.ndim - 2)
        return jax.lax.dynamic_slice(x, (head, *between, at), (1, *x.shape[1:-1], self.block))[0]


def _put(x: jax.Array, head: jax.Array, at: jax.Array, update: jax.Array) -> jax.Array:
    """[n, ..., P] with tokens of a head replaced from ``at`` on."""
    between = [0] * (x.ndim - 2)
    return jax.lax.dynamic_update_slice(x, update[None], (head, *between, at))


def _dot(a: jax.Array, b: jax.Array, axis_a: int, axis_b: int) -> jax.Array:
    """The product over ``axis_a`` of a and ``axis_b`` of b, float32; float32 factors are not rounded."""
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    dimensions = (((axis_a,), (axis_b,)), ((), ()))
    return jax.lax.dot_general(a, b, dimensions, precision=precision, preferred_element_type=jnp.float32)


def _pass_on(arrays: Any, hops: jax.Array, side: int) -> Any:
    """A tree of each device's arrays, ``hops`` devices further on; where there is no sender, zeros arrive: padding."""
    shards = token_shards()
    pairs = [(i, i + side) for i in range(shards) if 0 <= i + side < shards]

    def hop(_: jax.Array, arrays: Any) -> Any:
        return jax.lax.ppermute(arrays, "sequence", pairs)  # type: ignore[no-untyped-call]

    return jax.lax.fori_loop(0, hops, hop, arrays)
