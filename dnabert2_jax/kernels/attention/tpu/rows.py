"""Per-token sums over the head width: the two passes that attention needs before its kernels can start.

Each reads its arrays once, at memory bandwidth. XLA's own reduction over this axis of a token-minor array takes four times
as long.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from dnabert2_jax.kernels.attention.tpu import tile
from dnabert2_jax.kernels.attention.tpu.tile import LANES

_LONGEST = 4096  # tokens in one step


def _chunk(tokens: int) -> int:
    """Tokens in one step: the largest number of whole registers that divides the row."""
    registers = tokens // LANES
    return LANES * max(n for n in range(1, _LONGEST // LANES + 1) if registers % n == 0)


def _products(a: Any, b: Any) -> jax.Array:
    """Two arrays [1, 1, d, n] -> sums over d of their products, float32 [1, n]."""
    return jnp.sum(a[0, 0].astype(jnp.float32) * b[0, 0].astype(jnp.float32), axis=0, keepdims=True)


def _longest_kernel(segments_ref: Any, q_ref: Any, k_ref: Any, longest_ref: Any) -> None:
    @pl.when(pl.program_id(2) == 0)
    def _() -> None:
        longest_ref[...] = jnp.zeros_like(longest_ref)

    for index, ref in enumerate((q_ref, k_ref)):
        squares = jnp.where(segments_ref[0] > 0, _products(ref, ref), 0.0)
        longest = longest_ref[0, 0, index : index + 1, :]
        for start in range(0, squares.shape[1], LANES):
            longest = jnp.maximum(longest, squares[:, start : start + LANES])
        longest_ref[0, 0, index : index + 1, :] = longest


def longest_rows(
    q: jax.Array, k: jax.Array, segment_ids: jax.Array, *, interpret: Any = False
) -> tuple[jax.Array, jax.Array]:
    """Largest norms of the queries and of the keys of real tokens, float32 [B, H] each.

    Args:
        q: queries, [B, H, d, T], T in whole registers.
        k: keys, [B, H, d, T].
        segment_ids: 0 at padding, [B, T].
        interpret: for `pallas_call`.
    """
    batch, heads, head_dim, tokens = q.shape
    chunk = _chunk(tokens)
    array = pl.BlockSpec((1, 1, head_dim, chunk), lambda b, h, i: (b, h, 0, i))
    squares = pl.pallas_call(
        _longest_kernel,
        grid=(batch, heads, tokens // chunk),
        in_specs=[pl.BlockSpec((1, 1, chunk), lambda b, h, i: (b, 0, i)), array, array],
        out_specs=pl.BlockSpec((1, 1, 2, LANES), lambda b, h, i: (b, h, 0, 0)),
        out_shape=tile.result((batch, heads, 2, LANES), jnp.float32),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
        interpret=interpret,
        name="alibi_attention_longest",
    )(segment_ids[:, None], q, k)
    norms = jnp.sqrt(squares.max(axis=-1))
    return norms[..., 0], norms[..., 1]


def _products_kernel(a_ref: Any, b_ref: Any, products_ref: Any) -> None:
    products_ref[0, 0] = _products(a_ref, b_ref)


def row_products(a: jax.Array, b: jax.Array, *, interpret: Any = False) -> jax.Array:
    """Sums of a * b over the head width, float32 [B, H, 1, T].

    Args:
        a: [B, H, d, T], T in whole registers.
        b: [B, H, d, T].
        interpret: for `pallas_call`.
    """
    batch, heads, head_dim, tokens = a.shape
    chunk = _chunk(tokens)
    array = pl.BlockSpec((1, 1, head_dim, chunk), lambda b, h, i: (b, h, 0, i))
    return pl.pallas_call(
        _products_kernel,
        grid=(batch, heads, tokens // chunk),
        in_specs=[array, array],
        out_specs=pl.BlockSpec((1, 1, 1, chunk), lambda b, h, i: (b, h, 0, i)),
        out_shape=tile.result((batch, heads, 1, tokens), jnp.float32),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",) * 3),
        interpret=interpret,
        name="alibi_attention_products",
    )(a, b)
