"""Attention by blocks in plain XLA: FlashAttention-2 (Dao 2023) as two nested loops; memory grows with T, not T^2.

Forward keeps a running maximum and sum for each block of queries. Backward recomputes the weights of each tile from the
log-sum-exp of its rows; nothing is saved between the two but q, k, v, the output and that log-sum-exp.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

BLOCK = 256
"""Tokens of a query or key block. 256 x 256 float32 scores of one head fill 256 KiB, which stays in a core's L2 cache."""

_FLOOR = -1e30

_Running = tuple[jax.Array, jax.Array, jax.Array]  # maximum, sum and unnormalised output of a block of queries so far


class _Block(NamedTuple):
    """One block of queries or keys with what its tiles need."""

    rows: tuple[jax.Array, ...]  # [B, H, block, ...] each
    segments: jax.Array  # [B, block]
    positions: jax.Array  # [block]


def _split(arrays: tuple[jax.Array, ...], segment_ids: jax.Array, block: int) -> _Block:
    """Cut [B, H, T, ...] arrays into blocks along T, block number first, for scanning."""
    count = segment_ids.shape[1] // block

    def cut(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x.reshape(*x.shape[:2], count, block, *x.shape[3:]), 2, 0)

    segments = jnp.moveaxis(segment_ids.reshape(-1, count, block), 1, 0)
    return _Block(tuple(cut(x) for x in arrays), segments, jnp.arange(count * block).reshape(count, block))


def _join(blocks: jax.Array) -> jax.Array:
    """Undo :func:`_split` for one array: [n, B, H, block, ...] -> [B, H, n * block, ...]."""
    x = jnp.moveaxis(blocks, 0, 2)
    return x.reshape(*x.shape[:2], -1, *x.shape[4:])


def _scores(
    q: jax.Array, k: jax.Array, query: _Block, key: _Block, slopes: jax.Array, scale: float
) -> tuple[jax.Array, jax.Array]:
    """Biased scores [B, H, bq, bk] of one tile in float32, and which of them count [B, 1, bq, bk]."""
    distance = jnp.abs(query.positions[:, None] - key.positions[None, :]).astype(jnp.float32)
    scores = jnp.einsum("bhqd,bhkd->bhqk", q, k, preferred_element_type=jnp.float32) * scale
    scores = scores - slopes[None, :, None, None] * distance[None, None]
    visible = (query.segments[:, :, None] == key.segments[:, None, :]) & (key.segments[:, None, :] > 0)
    return scores, visible[:, None]


def _forward(
    q: jax.Array, k: jax.Array, v: jax.Array, slopes: jax.Array, segment_ids: jax.Array, scale: float, block: int
) -> tuple[jax.Array, jax.Array]:
    queries, keys = _split((q,), segment_ids, block), _split((k, v), segment_ids, block)

    def one_query_block(_: None, query: _Block) -> tuple[None, tuple[jax.Array, jax.Array]]:
        (q_block,) = query.rows

        def one_tile(carry: _Running, key: _Block) -> tuple[_Running, None]:
            maximum, total, output = carry
            k_block, v_block = key.rows
            scores, visible = _scores(q_block, k_block, query, key, slopes, scale)
            new_maximum = jnp.maximum(maximum, jnp.where(visible, scores, _FLOOR).max(-1))
            weights = jnp.where(visible, jnp.exp(scores - new_maximum[..., None]), 0.0)
            shrink = jnp.exp(maximum - new_maximum)
            update = jnp.einsum("bhqk,bhkd->bhqd", weights.astype(v.dtype), v_block, preferred_element_type=jnp.float32)
            return (new_maximum, total * shrink + weights.sum(-1), output * shrink[..., None] + update), None

        rows = q_block.shape[:3]
        start = (jnp.full(rows, _FLOOR, jnp.float32), jnp.zeros(rows, jnp.float32), jnp.zeros(q_block.shape, jnp.float32))
        (maximum, total, output), _ = jax.lax.scan(one_tile, start, keys)
        # Rows that see nothing (padding) have total 0: they get output 0 and a log-sum-exp that is finite.
        safe = jnp.where(total > 0, total, 1.0)
        return None, ((output / safe[..., None]).astype(q.dtype), maximum + jnp.log(safe))

    _, (output, log_sum_exp) = jax.lax.scan(one_query_block, None, queries)
    return _join(output), _join(log_sum_exp)


def _backward(
    residuals: tuple[jax.Array, ...],
    slopes: jax.Array,
    segment_ids: jax.Array,
    d_output: jax.Array,
    scale: float,
    block: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    q, k, v, output, log_sum_exp = residuals
    # FlashAttention-2, equation for D: the row sum of dO * O replaces the row sum of dP * P.
    delta = jnp.einsum("bhqd,bhqd->bhq", d_output.astype(jnp.float32), output.astype(jnp.float32))
    queries = _split((q, d_output, log_sum_exp, delta), segment_ids, block)
    keys = _split((k, v), segment_ids, block)

    def one_key_block(dq: jax.Array, key: _Block) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        k_block, v_block = key.rows

        def one_tile(carry: tuple[jax.Array, jax.Array], item: tuple[_Block, jax.Array]) -> tuple[Any, jax.Array]:
            dk, dv = carry
            query, dq_block = item
            q_block, do_block, lse, row_delta = query.rows
            scores, visible = _scores(q_block, k_block, query, key, slopes, scale)
            weights = jnp.where(visible, jnp.exp(scores - lse[..., None]), 0.0)
            tile = partial(jnp.einsum, preferred_element_type=jnp.float32)
            d_weights = tile("bhqd,bhkd->bhqk", do_block, v_block)
            d_scores = (weights * (d_weights - row_delta[..., None]) * scale).astype(q.dtype)
            dk = dk + tile("bhqk,bhqd->bhkd", d_scores, q_block)
            dv = dv + tile("bhqk,bhqd->bhkd", weights.astype(q.dtype), do_block)
            return (dk, dv), dq_block + tile("bhqk,bhkd->bhqd", d_scores, k_block)

        zeros = jnp.zeros(k_block.shape, jnp.float32)
        (dk, dv), dq = jax.lax.scan(one_tile, (zeros, zeros), (queries, dq))
        return dq, (dk, dv)

    dq_start = jnp.zeros(queries.rows[0].shape, jnp.float32)
    dq, (dk, dv) = jax.lax.scan(one_key_block, dq_start, keys)
    return _join(dq).astype(q.dtype), _join(dk).astype(k.dtype), _join(dv).astype(v.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _attention(
    q: jax.Array, k: jax.Array, v: jax.Array, slopes: jax.Array, segment_ids: jax.Array, scale: float, block: int
) -> jax.Array:
    return _forward(q, k, v, slopes, segment_ids, scale, block)[0]


def _attention_fwd(
    q: jax.Array, k: jax.Array, v: jax.Array, slopes: jax.Array, segment_ids: jax.Array, scale: float, block: int
) -> tuple[jax.Array, Any]:
    output, log_sum_exp = _forward(q, k, v, slopes, segment_ids, scale, block)
    return output, ((q, k, v, output, log_sum_exp), slopes, segment_ids)


def _attention_bwd(scale: float, block: int, saved: Any, d_output: jax.Array) -> tuple[Any, ...]:
    residuals, slopes, segment_ids = saved
    dq, dk, dv = _backward(residuals, slopes, segment_ids, d_output, scale, block)
    # Slopes are constants of the architecture and segment ids are integers: neither has a gradient.
    return dq, dk, dv, jnp.zeros_like(slopes), np.zeros(segment_ids.shape, jax.dtypes.float0)


_attention.defvjp(_attention_fwd, _attention_bwd)


def blocked_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, slopes: jax.Array, segment_ids: jax.Array, *, scale: float, block: int = BLOCK
) -> jax.Array:
    """What :func:`~.reference.reference_attention` computes, in O(T) memory forward and backward.

    Arguments and result are the same; ``block`` is the tile's edge in tokens. Any T is padded up to whole blocks inside.
    """
    tokens = q.shape[2]
    block = min(block, -(-tokens // 8) * 8)
    padding = -tokens % block
    if padding:
        q, k, v = (jnp.pad(x, ((0, 0), (0, 0), (0, padding), (0, 0))) for x in (q, k, v))
        segment_ids = jnp.pad(segment_ids, ((0, 0), (0, padding)))
    return _attention(q, k, v, slopes, segment_ids, scale, block)[:, :, :tokens]
