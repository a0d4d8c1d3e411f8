"""Dropout without a stored mask: whether an element is dropped is a hash of (row seed, site, token, channel).

It does not depend on batch, padding, device or host. A site is a place in the model where dropout is applied; the numbers
are part of the definition of a run.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dnabert2_jax.parallel.constraints import positions_here

SITE_EMBEDDINGS, SITE_POOLED = 0, 1
SITES_PER_BLOCK = 8  # block n, counted from 1, has those from 8 n on
BLOCK_SITES = {"attention": 0, "feed_forward": 1, "Wqkv": 2, "out": 3, "gated_layers": 4, "wo": 5}


def mix32(x: jax.Array) -> jax.Array:
    """lowbias32 (Wellons 2018): a bijection of 32-bit integers with almost no bias, in operations that XLA fuses."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _drop(x: jax.Array, rate: float, seeds: jax.Array, site: jax.Array, positions: jax.Array) -> jax.Array:
    row = mix32(seeds + site * jnp.uint32(0x9E3779B9))
    token = mix32(row[:, None] ^ positions)
    channels = jnp.arange(x.shape[2], dtype=jnp.uint32) * jnp.uint32(0x9E3779B9)
    element = mix32(token[:, :, None] + channels[None, None])
    keep = element < jnp.uint32(min(round((1 - rate) * 2**32), 2**32 - 1))
    return jnp.where(keep, x / (1 - rate), jnp.zeros((), x.dtype))


# The backward pass drops what the forward pass dropped: it computes the hash again, and no mask is kept.
_drop.defvjp(
    lambda x, rate, *where: (_drop(x, rate, *where), where),
    lambda rate, where, g: (_drop(g, rate, *where), None, None, None),
)


def dropout(
    x: jax.Array, rate: float, seeds: jax.Array | None, site: int | jax.Array, positions: jax.Array | None = None
) -> jax.Array:
    """Zero elements with probability ``rate`` and scale the others by 1 / (1 - rate).

    Args:
        x: [B, T, D].
        rate: in [0, 1).
        seeds: one 32-bit seed per row, [B]; None switches dropout off.
        site: number of the dropout site.
        positions: the position in its row of each token of ``x``, [B, T]; None: ``x`` is whole rows, or this device's share.
    """
    if seeds is None or rate == 0:
        return x
    if positions is None:
        positions = positions_here(x.shape[1])[None]
    return _drop(x, rate, seeds, jnp.asarray(site, jnp.uint32), positions.astype(jnp.uint32))


class BlockDropout(NamedTuple):
    """The dropout of one block.

    Attributes:
        seeds: one per row, [B]; None switches dropout off.
        first_site: of the block, SITES_PER_BLOCK times its number, counted from 1.
        positions: the position in its row of each token, [B, T]; None: rows are whole, or this device's share.
    """

    seeds: jax.Array | None
    first_site: jax.Array
    positions: jax.Array | None = None

    def __call__(self, x: jax.Array, rate: float, site: str) -> jax.Array:
        """:func:`dropout` of ``x`` [B, T, D] at one of BLOCK_SITES."""
        return dropout(x, rate, self.seeds, self.first_site + jnp.uint32(BLOCK_SITES[site]), self.positions)
