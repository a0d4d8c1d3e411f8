"""Attention in rows whose tokens devices share: blocks of keys and values go from neighbor to neighbor.

As in Ring Attention (Liu et al. 2023), each device keeps its queries, visits the keys and values of other devices, and folds
them into the softmax of its own; the backward pass sends the gradients of a block back to where it came from. Two things
differ, because ALiBi is symmetric and decays. Blocks come from both sides. And they come nearest first, only as far as the
radius of the widest head (:mod:`~dnabert2_jax.kernels.attention.skipping`), which in long rows is a small part of what even
a neighbor has; the number of blocks is data, and the same on all devices.

A device's own tokens are the work of any :class:`~dnabert2_jax.kernels.attention.kernel.Kernel`, whose log-sum-exp is where
the online softmax of the rest begins. The rest is plain XLA on every platform.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from dnabert2_jax.kernels.attention.kernel import Gradients, Inputs, Kernel, Saved
from dnabert2_jax.kernels.attention.skipping import bound_of_norms, longest_norm, number_span, skip_radius
from dnabert2_jax.parallel.constraints import token_shards

BLOCK = 512
"""Maximum tokens that travel together, and queries that visit them at a time."""

_HIDDEN = -2e30  # score of a masked key: its weight is exactly 0

S = TypeVar("S")


def attend(kernel: Kernel, inputs: Inputs) -> tuple[jax.Array, jax.Array]:
    """What ``kernel`` computes, over whole rows: if devices share their tokens, over those of all devices.

    The result is an :class:`~dnabert2_jax.kernels.attention.kernel.AttentionFunction`'s, for this device's tokens.
    """
    return (kernel if token_shards() == 1 else Ring(kernel.scale, kernel.skip, kernel))(inputs)


class _Shard(NamedTuple):
    """This device's tokens, in whole blocks, with the heads of all rows along one axis of n = B * H."""

    q: jax.Array  # [n, d, P], tokens last, because a TPU pads the last axis to 128
    k: jax.Array  # [n, d, P]
    v: jax.Array  # [n, d, P]
    segment_ids: jax.Array  # [n, P]
    slopes: jax.Array  # [n]
    radius: jax.Array  # [n]
    spans: tuple[jax.Array, jax.Array]  # smallest and largest segment of each block


@dataclass(frozen=True)
class _Visitor:
    """A block of keys and values of another device.

    Attributes:
        k: [n, d, C].
        v: [n, d, C].
        segment_ids: [n, C].
        place: of its first token in the shard that it comes from.
        offset: from this device's first token to its first token.
        send_home: a tree of arrays to the device that it comes from, which is as far away as the sender of what arrives.
    """

    k: jax.Array
    v: jax.Array
    segment_ids: jax.Array
    place: jax.Array
    offset: jax.Array
    send_home: Callable[[Any], Any]


@dataclass(frozen=True)
class Ring(Kernel):
    """Another kernel for a device's own tokens, and the blocks of other devices. The log-sum-exp is in nats, 0 at padding.

    Attributes:
        own: the kernel.
        block: as :data:`BLOCK`.
    """

    own: Kernel
    block: int = BLOCK

    @property
    def layout(self) -> str:  # noqa: D102
        return self.own.layout

    @property
    def saves_bound(self) -> bool:  # noqa: D102
        return self.own.saves_bound

    def pad(self, inputs: Inputs) -> Inputs:
        """Nothing: positions go on from one device to the next. Each pads what it has."""
        return inputs

    def forward(self, inputs: Inputs) -> Saved:  # noqa: D102
        tokens = inputs.segment_ids.shape[1]
        saved = self.own.forward(self.own.pad(inputs))
        output = saved.output[tuple(map(slice, inputs.q.shape))]
        real = inputs.segment_ids[:, None] > 0
        log_sum_exp = jnp.where(real, saved.log_sum_exp[:, :, :tokens] * self.own.nats, 0.0)
        shard = self._shard(inputs)

        def visit(visitor: _Visitor, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            return self._fold_in(shard, visitor, state)

        start = self._flat(output).astype(jnp.float32), self._padded(log_sum_exp.reshape(-1, tokens))
        wide, sums = self._visit_others(shard, tokens, visit, start)
        return Saved(self._unflat(wide, inputs.q), sums[:, :tokens].reshape(log_sum_exp.shape), saved.bound)

    def backward(  # noqa: D102
        self, inputs: Inputs, saved: Saved, d_output: jax.Array, d_log_sum_exp: jax.Array | None
    ) -> Gradients:
        tokens = inputs.segment_ids.shape[1]
        padded, results = self.own.pad(inputs), self.own.pad(inputs._replace(q=saved.output, k=d_output))
        missing = padded.segment_ids.shape[1] - tokens

        def rows(x: jax.Array) -> jax.Array:
            return jnp.pad(x, ((0, 0), (0, 0), (0, missing)))

        own_saved = Saved(results.q, rows(saved.log_sum_exp / self.own.nats), saved.bound)
        cotangent = None if d_log_sum_exp is None else rows(d_log_sum_exp)
        own = self.own.backward(padded, own_saved, results.k, cotangent)

        shard = self._shard(inputs)
        do, output = self._flat(d_output), self._flat(saved.output)
        delta = (do.astype(jnp.float32) * output.astype(jnp.float32)).sum(1)
        if d_log_sum_exp is not None:
            delta = delta - self._padded(d_log_sum_exp.reshape(-1, tokens))
        log_sum_exp = self._padded(saved.log_sum_exp.reshape(-1, tokens))

        def visit(visitor: _Visitor, sums: Gradients) -> Gradients:
            dq, parts = self._gradients(shard, visitor, sums.q, (do, log_sum_exp, delta))
            dk, dv = (
                jax.lax.dynamic_update_slice_in_dim(
                    x, jax.lax.dynamic_slice_in_dim(x, visitor.place, self._length(tokens), 2) + part, visitor.place, 2
                )
                for x, part in zip(sums[1:], visitor.send_home(parts), strict=True)
            )
            return Gradients(dq, dk, dv)

        start = Gradients(*(self._flat(x[tuple(map(slice, inputs.q.shape))]).astype(jnp.float32) for x in own))
        return Gradients(*(self._unflat(x, inputs.q) for x in self._visit_others(shard, tokens, visit, start)))

    def _length(self, tokens: int) -> int:
        """Tokens per block in a shard of so many."""
        return min(self.block, -(-tokens // 8) * 8)

    def _padded(self, x: jax.Array) -> jax.Array:
        """[..., T] with zeros up to whole blocks, [..., P]."""
        missing = -x.shape[-1] % self._length(x.shape[-1])
        return jnp.pad(x, (*((0, 0) for _ in x.shape[1:]), (0, missing)))

    def _flat(self, x: jax.Array) -> jax.Array:
        """An array in the kernel's layout as [n, d, P]."""
        x = jnp.einsum(f"{self.layout}->bhdt", x)
        return self._padded(x.reshape(-1, *x.shape[2:]))

    def _unflat(self, x: jax.Array, like: jax.Array) -> jax.Array:
        """[n, d, P] in the kernel's layout, and of the shape and dtype of ``like``."""
        size = dict(zip(self.layout, like.shape, strict=True))
        whole = x[:, :, : size["t"]].reshape([size[axis] for axis in "bhdt"])
        return jnp.einsum(f"bhdt->{self.layout}", whole).astype(like.dtype)

    def _shard(self, inputs: Inputs) -> _Shard:
        q, k, v, slopes, segment_ids = inputs
        (rows, tokens), heads = segment_ids.shape, len(slopes)
        radius = jnp.full((rows, heads), token_shards() * tokens, jnp.int32)
        if self.skip:
            longest = jnp.stack([longest_norm(x, segment_ids, self.layout) for x in (q, k)])
            bound = bound_of_norms(*jax.lax.pmax(longest, "sequence"), self.scale)
            radius = skip_radius(bound, slopes, token_shards() * tokens)
        segments = jnp.broadcast_to(segment_ids[:, None], (rows, heads, tokens)).reshape(-1, tokens)
        each = jnp.broadcast_to(slopes, (rows, heads)).reshape(-1)
        segments = self._padded(segments)
        spans = number_span(segments, self._length(tokens))
        return _Shard(*map(self._flat, (q, k, v)), segments, each, radius.reshape(-1), spans)

    def _visit_others(self, shard: _Shard, tokens: int, visit: Callable[[_Visitor, S], S], state: S) -> S:
        """Fold ``visit`` over the blocks of other devices that anyone has to see, from either side the nearest first."""
        padded, block = shard.segment_ids.shape[1], self._length(tokens)
        # Devices that do not share rows run the same program, too, and have to agree on the number of blocks.
        reach = jax.lax.pmax(shard.radius.max(), jax.sharding.get_abstract_mesh().axis_names)
        whole, rest = jax.lax.div(reach, tokens), jax.lax.rem(reach, tokens)
        count = whole * (padded // block) + jax.lax.div(rest + (padded - tokens) + (block - 1), block)
        count = jnp.minimum(count, (token_shards() - 1) * (padded // block))
        for side in (1, -1):  # devices with earlier tokens, and those with later ones
            visitor = partial(self._visitor, shard, tokens, side)
            state = jax.lax.fori_loop(0, count, lambda number, state, visitor=visitor: visit(visitor(number), state), state)
        return state

    def _visitor(self, shard: _Shard, tokens: int, side: int, number: jax.Array) -> _Visitor:
        """Block ``number`` of one side, counted from the nearest."""
        block = self._length(tokens)
        blocks = shard.segment_ids.shape[1] // block
        hops, index = jax.lax.div(number, blocks) + 1, jax.lax.rem(number, blocks)
        place = (blocks - 1 - index if side == 1 else index) * block
        sent = tuple(jax.lax.dynamic_slice_in_dim(x, place, block, -1) for x in (shard.k, shard.v, shard.segment_ids))
        return _Visitor(
            *_pass_on(sent, hops, side),
            place=place,
            offset=place - side * hops * tokens,
            send_home=lambda x: _pass_on(x, hops, -side),
        )

    def _visiting_blocks(self, shard: _Shard, visitor: _Visitor) -> tuple[jax.Array, jax.Array]:
        """The blocks of queries ``start <= block < stop`` that a visitor concerns, [n] each."""
        block = visitor.k.shape[2]
        low, high = shard.spans
        visitor_low, visitor_high = number_span(visitor.segment_ids, block)
        meets, index = (low <= visitor_high) & (visitor_low <= high), jnp.arange(low.shape[1], dtype=jnp.int32)
        start = jnp.where(meets, index, low.shape[1]).min(1)
        stop = jnp.where(meets, index + 1, 0).max(1)
        first, last = visitor.offset - shard.radius, visitor.offset + (block - 1) + shard.radius
        return jnp.maximum(start, first // block), jnp.minimum(stop, last // block + 1)

    def _scores(self, shard: _Shard, visitor: _Visitor, head: jax.Array, at: jax.Array, q: jax.Array) -> jax.Array:
        """Biased scores [keys, queries] of a visitor with the queries ``q`` [d, C] from ``at`` on."""
        token = jnp.arange(q.shape[1], dtype=jnp.int32)
        distance = jnp.abs((visitor.offset + token)[:, None] - (at + token)[None]).astype(jnp.float32)
        scores = _dot(visitor.k[head], q, 0, 0) * self.scale - shard.slopes[head] * distance
        keys, queries = visitor.segment_ids[head][:, None], _take(shard.segment_ids, head, at, len(token))[None]
        return jnp.where((keys == queries) & (keys > 0), scores, _HIDDEN)

    def _fold_in(
        self, shard: _Shard, visitor: _Visitor, state: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        """Outputs [n, d, P] and log-sum-exps [n, P] that know of a visitor: a step of the online softmax from each."""
        start, stop = self._visiting_blocks(shard, visitor)
        block = visitor.k.shape[2]

        def one_head(head: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            def one_block(number: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
                at = number * block
                output, log_sum_exp = (_take(x, head, at, block) for x in state)
                scores = self._scores(shard, visitor, head, at, _take(shard.q, head, at, block))
                maximum = jnp.maximum(log_sum_exp, scores.max(0))
                weights, before = jnp.exp(scores - maximum[None]), jnp.exp(log_sum_exp - maximum)
                total = before + weights.sum(0)
                output = (output * before[None] + _dot(visitor.v[head], weights.astype(visitor.v.dtype), 1, 0)) / total[None]
                return _put(state[0], head, at, output), _put(state[1], head, at, maximum + jnp.log(total))

            return jax.lax.fori_loop(start[head], stop[head], one_block, state)

        return jax.lax.fori_loop(0, len(start), one_head, state)

    def _gradients(
        self, shard: _Shard, visitor: _Visitor, dq: jax.Array, rows: tuple[jax.Array, ...]
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """dQ [n, d, P] with a visitor's part added, and the visitor's own dK and dV, [n, d, C] each."""
        start, stop = self._visiting_blocks(shard, visitor)
        block, dtype = visitor.k.shape[2], visitor.k.dtype

        def one_head(dq: jax.Array, head: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            k, v = visitor.k[head], visitor.v[head]

            def one_block(number: jax.Array, sums: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
                dq, dk, dv = sums
                at = number * block
                q, do, log_sum_exp, delta = (_take(x, head, at, block) for x in (shard.q, *rows))
                weights = jnp.exp(self._scores(shard, visitor, head, at, q) - log_sum_exp[None])
                d_scores = (weights * (_dot(v, do, 0, 0) - delta[None])).astype(dtype)
                dk = dk + _dot(q, d_scores, 1, 1) * self.scale
                dv = dv + _dot(do, weights.astype(dtype), 1, 1)
                return _put(dq, head, at, _take(dq, head, at, block) + _dot(k, d_scores, 1, 0) * self.scale), dk, dv

            zeros = jnp.zeros(k.shape, jnp.float32)
            dq, dk, dv = jax.lax.fori_loop(start[head], stop[head], one_block, (dq, zeros, zeros))
            return dq, (dk, dv)

        return jax.lax.scan(one_head, dq, jnp.arange(len(start), dtype=jnp.int32))


def _pass_on(x: Any, hops: jax.Array, side: int) -> Any:
    """A tree of arrays of each device, ``hops`` devices further on; where there is no sender, zeros arrive: padding."""
    shards = token_shards()
    pairs = [(i, i + side) for i in range(shards) if 0 <= i + side < shards]
    return jax.lax.fori_loop(0, hops, lambda _, x: jax.lax.ppermute(x, "sequence", pairs), x)


def _take(x: jax.Array, head: jax.Array, at: jax.Array, block: int) -> jax.Array:
    """The ``block`` tokens from ``at`` on of a head of [n, ..., P]."""
    between = [0] * (x.ndim - 2)
    return jax.lax.dynamic_slice(x, (head, *between, at), (1, *x.shape[1:-1], block))[0]


def _put(x: jax.Array, head: jax.Array, at: jax.Array, update: jax.Array) -> jax.Array:
    """[n, ..., P] with tokens of a head replaced from ``at`` on."""
    between = [0] * (x.ndim - 2)
    return jax.lax.dynamic_update_slice(x, update[None], (head, *between, at))


def _dot(a: jax.Array, b: jax.Array, axis_a: int, axis_b: int) -> jax.Array:
    """The product over ``axis_a`` of a and ``axis_b`` of b, float32; float32 factors are not rounded."""
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    dimensions = (((axis_a,), (axis_b,)), ((), ()))
    return jax.lax.dot_general(a, b, dimensions, precision=precision, preferred_element_type=jnp.float32)
