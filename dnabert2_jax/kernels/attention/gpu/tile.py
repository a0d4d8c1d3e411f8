"""What the GPU kernels share: their inputs, and how a tile of products becomes scores.

Scores are kept in bits (times log2 e), because a GPU computes 2^x.

Almost all tiles of a long row are *inner* tiles: whole blocks of one sequence, entirely before or entirely after the
diagonal. There |i - j| is linear, so the bias splits into a term per key and a term per query. The first is one addition
to each score, the second is folded into the softmax's own subtraction, and no segments are compared. The other tiles
(diagonal, ends of sequences, padding) are *edge* tiles.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

FLOOR = -1e30  # initial value of a running maximum
_HIDDEN = -2e30  # score of a masked key: its weight is exactly 0, even relative to the floor
BITS = float(np.log2(np.e))

EDGE, KEYS_BEFORE, KEYS_BEHIND = 0, 1, -1
"""Kinds of tiles: all keys before the queries, all keys after them, or neither."""

BOUNDS = 6
"""Numbers that specify which blocks a block visits; see :class:`GpuInputs`."""


class GpuInputs(NamedTuple):
    """What all kernels read: arrays, or, inside a kernel, references to them.

    Attributes:
        q: queries, [B, T, H, d].
        k: keys, like q.
        v: values, like q.
        slopes: ALiBi slopes, float32 [H].
        segment_ids: 0 at padding, else the index of the sequence in its row, int32 [B, P]: T padded to whole blocks.
        bounds: int32 [B, H, n, 6], ascending: a block visits the blocks from bound 0 to bound 5, of which those from bound 1
            to 2 are inner blocks before it, and those from bound 3 to 4 are inner blocks after it.
    """

    q: Any
    k: Any
    v: Any
    slopes: Any
    segment_ids: Any
    bounds: Any


class GradientRows(NamedTuple):
    """What the gradient kernels read in addition.

    Attributes:
        d_output: like q.
        bits: the log-sum-exp in bits, float32 [B, H, P].
        delta: row sums of dO * O, float32 [B, H, P].
    """

    d_output: Any
    bits: Any
    delta: Any


def along(x: jax.Array, shape: tuple[int, ...], axis: int) -> jax.Array:
    """A vector along one axis of a tile, repeated over the other."""
    return jax.lax.broadcast_in_dim(x, shape, (axis,))


class Head(NamedTuple):
    """What turns the products q.k of one head into scores."""

    scale: float
    slope: Any  # in bits

    def scores(
        self,
        kind: int,
        products: jax.Array,
        first_query: Any,
        first_key: Any,
        numbers: Callable[[], tuple[jax.Array, jax.Array]],
        *,
        key_axis: int,
    ) -> tuple[jax.Array, jax.Array]:
        """Scores in bits except for one term per query, and that term, which is still to be subtracted.

        Args:
            kind: kind of the tile.
            products: q.k, the keys along ``key_axis``.
            first_query: position of the first query.
            first_key: position of the first key.
            numbers: returns the segment ids of the queries and of the keys; called for edge tiles.
            key_axis: 0 or 1.
        """
        shape, query_axis = products.shape, 1 - key_axis
        scaled = products * (self.scale * BITS)
        # Both are counted from the first key, which keeps them small and exact.
        key = jax.lax.iota(jnp.int32, shape[key_axis]).astype(jnp.float32)
        query = (first_query - first_key + jax.lax.iota(jnp.int32, shape[query_axis])).astype(jnp.float32)
        if kind != EDGE:
            return scaled + along(key * (kind * self.slope), shape, key_axis), query * (kind * self.slope)
        scores = scaled - self.slope * jnp.abs(along(query, shape, query_axis) - along(key, shape, key_axis))
        of_queries, of_keys = numbers()
        # Padding has different ids as key and as query, so it neither attends nor is attended to.
        of_keys = jnp.where(of_keys > 0, of_keys, -1)
        visible = along(of_queries, shape, query_axis) == along(of_keys, shape, key_axis)
        return jnp.where(visible, scores, _HIDDEN), jnp.zeros_like(query)
