"""Gathers whose gradients are sums in a fixed order on every platform.

The gradient of a gather adds up cotangents by the row that each came from. XLA writes that as a scatter, which on a GPU is
atomic additions in no particular order: two runs of the same step then differ in rounding. (Up to jax 0.11.0 an A100 even
gets loops of compare-and-swap, slow where many tokens share a row, as all token types do.) On a GPU, the sum is a product
with one-hot rows instead, which takes about 1 % of the arithmetic of a training step of the released size.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from dnabert2_jax.parallel.constraints import positions_here, token_shards
from dnabert2_jax.platform import PerPlatform

_MAX_ONE_HOT = 2**28
"""Elements of a matrix of one-hot rows. Where masked tokens x tokens of a long row are more, it is made in parts."""


@PerPlatform
def rows_of(table: jax.Array, ids: jax.Array, dtype: DTypeLike) -> jax.Array:
    """``table`` [V, D] at ``ids`` [...], [..., D] in the dtype of the table.

    Args:
        table: weights.
        ids: rows, in range.
        dtype: what the caller computes in, and hence a dtype that holds every cotangent without loss.
    """
    return table[ids]


@rows_of.on("gpu")
def _rows_of_in_order(table: jax.Array, ids: jax.Array, dtype: DTypeLike) -> jax.Array:
    return _rows_of(table, ids, len(table), jnp.dtype(dtype))


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _rows_of(table: jax.Array, ids: jax.Array, size: int, dtype: jnp.dtype) -> jax.Array:
    return table[ids]


def _rows_of_forward(table: jax.Array, ids: jax.Array, size: int, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
    return table[ids], ids


def _rows_of_backward(size: int, dtype: jnp.dtype, ids: jax.Array, g: jax.Array) -> tuple[jax.Array, None]:
    chosen = jax.nn.one_hot(ids, size, dtype=dtype)
    sums = jnp.einsum("...v,...d->vd", chosen, g.astype(dtype), preferred_element_type=jnp.float32, precision=_exact(dtype))
    return sums.astype(g.dtype), None


_rows_of.defvjp(_rows_of_forward, _rows_of_backward)


@PerPlatform
def states_at(hidden: jax.Array, positions: jax.Array) -> jax.Array:
    """[B, T, D] and positions [B, P] in each row -> the hidden states there, [B, P, D]."""
    return jnp.take_along_axis(hidden, positions[:, :, None], axis=1)


@states_at.on("gpu")
def _states_at_in_order(hidden: jax.Array, positions: jax.Array) -> jax.Array:
    return _states_at(hidden, positions, hidden.shape[1])


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _states_at(hidden: jax.Array, positions: jax.Array, tokens: int) -> jax.Array:
    return jnp.take_along_axis(hidden, positions[:, :, None], axis=1)


def _states_at_backward(tokens: int, positions: jax.Array, g: jax.Array) -> tuple[jax.Array, None]:
    def some(first: jax.Array | int, count: int) -> jax.Array:
        chosen = jax.nn.one_hot(positions - first, count, dtype=g.dtype)
        sums = jnp.einsum("bpt,bpd->btd", chosen, g, preferred_element_type=jnp.float32, precision=_exact(g.dtype))
        return sums.astype(g.dtype)

    parts = -(-positions.size * tokens // _MAX_ONE_HOT)
    if parts <= 1:
        return some(0, tokens), None
    each = -(-tokens // parts)
    sums = jax.lax.map(lambda part: some(part * each, each), jnp.arange(parts))
    return jnp.moveaxis(sums, 0, 1).reshape(len(g), -1, g.shape[2])[:, :tokens], None


_states_at.defvjp(lambda hidden, positions, tokens: (_states_at(hidden, positions, tokens), positions), _states_at_backward)


def states_in_row(hidden: jax.Array, positions: jax.Array) -> jax.Array:
    """:func:`states_at` where devices may share the tokens of a row: each has T of them and wants K, which may be anywhere.

    Each device looks up what it has of all that are wanted, and receives the sum of what it wants: [B, K, D] of all devices
    together cross them, and hidden states nobody wants do not.

    Args:
        hidden: states of this device's tokens, [B, T, D].
        positions: in the whole row, [B, K].
    """
    if token_shards() == 1:
        return states_at(hidden, positions)
    wanted = jax.lax.all_gather(positions, "sequence", axis=1, tiled=True)
    places = wanted - positions_here(hidden.shape[1])[0]
    here = (places >= 0) & (places < hidden.shape[1])
    found = jnp.where(here[:, :, None], states_at(hidden, jnp.where(here, places, 0)), 0)
    share: jax.Array = jax.lax.psum_scatter(  # type: ignore[no-untyped-call]
        found, "sequence", scatter_dimension=1, tiled=True
    )
    return share


@PerPlatform
def values_at(x: jax.Array, numbers: jax.Array) -> jax.Array:
    """``x`` [..., C] at one of its C numbers each, [...] -> [...]."""
    return jnp.take_along_axis(x, numbers[..., None], axis=-1)[..., 0]


@values_at.on("gpu")
def _values_at_by_comparison(x: jax.Array, numbers: jax.Array) -> jax.Array:
    return jnp.where(jnp.arange(x.shape[-1]) == numbers[..., None], x, 0).sum(-1)


def _exact(dtype: DTypeLike) -> jax.lax.Precision | None:
    """The precision at which products of ``dtype`` with zeros and ones lose nothing."""
    return jax.lax.Precision.HIGHEST if jnp.dtype(dtype) == jnp.float32 else None
