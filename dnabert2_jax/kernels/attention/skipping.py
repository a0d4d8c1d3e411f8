"""Which blocks of keys a block of queries has to visit: exact skipping, shared by all backends.

ALiBi subtracts ``slope * |i - j|`` from every score, so the weight of a key far enough away is below float32 resolution. Let
S bound |scale * q.k| in one row and head. A query's own key scores at least -S and a key at distance r at most
S - slope * r; beyond

    R = (2 S + ln 2^25 + ln L) / slope

each of the L keys has at most 2^-25 / L of the own key's weight. Dropping them all drops at most 2^-25 of the softmax
mass, which changes the output by at most 2^-24 max|v|: once for the mass and once for the renormalization. S is computed
from the norms of q and k (Cauchy-Schwarz), so it costs one pass over them and no gradient.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_MARGIN = float(25 * np.log(2))

_NORM_SLACK = 1.0 + 1e-4
"""Norms are summed in float32, with a relative error well under 1e-4; rounding must not make the bound too small."""


class BlockRanges(NamedTuple):
    """For each batch row, head and block of queries, the blocks of keys ``start <= block < stop`` to visit.

    Both are int32 [B, H, n]; ``start == stop`` where nothing is visible. Visibility is symmetric, so with the block sizes
    swapped, the same function gives the blocks of queries that a block of keys has to visit in the backward pass.
    """

    start: jax.Array
    stop: jax.Array


def score_bound(q: jax.Array, k: jax.Array, segment_ids: jax.Array, scale: float, *, layout: str = "bhtd") -> jax.Array:
    """S: an upper bound of |scale * q.k| over all pairs of real tokens, per row and head; no gradient flows through it.

    Args:
        q: queries, in ``layout``.
        k: keys, in ``layout``.
        segment_ids: 0 at padding, [B, T]; padding may hold any values and is ignored.
        scale: factor of the dot products.
        layout: axis order of q and k (b batch, t tokens, h heads, d head width).

    Returns:
        float32 [B, H].
    """
    return bound_of_norms(longest_norm(q, segment_ids, layout), longest_norm(k, segment_ids, layout), scale)


def longest_norm(x: jax.Array, segment_ids: jax.Array, layout: str) -> jax.Array:
    """The largest norm of a query or key per row and head, float32 [B, H]; arguments as for :func:`score_bound`."""
    x = jax.lax.stop_gradient(x).astype(jnp.float32)
    squares = jnp.einsum(f"{layout},{layout}->bht", x, x, precision="highest")
    return jnp.sqrt(jnp.where((segment_ids > 0)[:, None, :], squares, 0.0).max(axis=-1))


def bound_of_norms(longest_q: jax.Array, longest_k: jax.Array, scale: float) -> jax.Array:
    """S from the largest norms of a query and of a key."""
    return abs(scale) * _NORM_SLACK * longest_q * longest_k


def skip_radius(bound: jax.Array, slopes: jax.Array, tokens: int) -> jax.Array:
    """R in tokens: keys farther than this from a query are dropped.

    Args:
        bound: S from :func:`score_bound`, [B, H].
        slopes: ALiBi slopes, [H].
        tokens: L, keys in a row.

    Returns:
        int32 [B, H], at most ``tokens``, which means that nothing is dropped; this is also the result for heads without a
        positive slope and scores without a finite bound.
    """
    radius = (2.0 * bound + _MARGIN + float(np.log(tokens))) / jnp.where(slopes > 0, slopes, 1.0)
    local = (slopes > 0) & (radius < tokens)  # also false for NaN
    return jnp.where(local, jnp.ceil(jnp.where(local, radius, 0.0)), tokens).astype(jnp.int32)


def block_ranges(segment_ids: jax.Array, radius: jax.Array | None, heads: int, block: int, other: int) -> BlockRanges:
    """The blocks of ``other`` tokens that lie within the radius and the segments of each block of ``block`` tokens.

    Args:
        segment_ids: 0 at padding, else the index of the sequence in its row, [B, T], T a multiple of both block sizes. Any
            order is allowed; contiguous sequences with ascending indices give the narrowest ranges.
        radius: R from :func:`skip_radius`, int32 [B, H]; None disables skipping by distance.
        heads: H.
        block: tokens per visiting block: queries in the forward pass.
        other: tokens per visited block: keys in the forward pass.
    """
    batch, tokens = segment_ids.shape
    if tokens % block or tokens % other:
        raise ValueError(f"{tokens} tokens are not whole blocks of {block} and of {other}")

    low, high = number_span(segment_ids, block)
    other_low, other_high = number_span(segment_ids, other)
    # Blocks whose index spans do not overlap share no sequence. [B, n, m] booleans, reduced as they are computed.
    meets = (low[:, :, None] <= other_high[:, None, :]) & (other_low[:, None, :] <= high[:, :, None])
    index = jnp.arange(tokens // other, dtype=jnp.int32)
    start = jnp.where(meets, index, tokens // other).min(axis=-1)
    stop = jnp.where(meets, index + 1, 0).max(axis=-1)

    start, stop = (jnp.broadcast_to(x[:, None, :], (batch, heads, tokens // block)) for x in (start, stop))
    if radius is not None:
        first = jnp.arange(0, tokens, block, dtype=jnp.int32)
        reach = radius[:, :, None]
        start = jnp.maximum(start, jax.lax.div(jnp.maximum(first - reach, 0), jnp.int32(other)))
        stop = jnp.minimum(stop, jax.lax.div(first + (block - 1) + reach, jnp.int32(other)) + 1)
    return BlockRanges(jnp.minimum(start, stop), stop)


def number_span(segment_ids: jax.Array, block: int) -> tuple[jax.Array, jax.Array]:
    """Smallest and largest sequence index in each block, [B, n] each; the span of a padding block overlaps no other."""
    numbers = segment_ids.reshape(segment_ids.shape[0], -1, block)
    largest = np.iinfo(np.int32).max
    return jnp.where(numbers > 0, numbers, largest).min(axis=-1), numbers.max(axis=-1)


def visited_share(ranges: BlockRanges) -> jax.Array:
    """Fraction of the blocks in a square grid of equal blocks that are visited, float32 scalar."""
    visited = (ranges.stop - ranges.start).astype(jnp.float32).sum()
    return visited / (ranges.start.size * ranges.start.shape[-1])
