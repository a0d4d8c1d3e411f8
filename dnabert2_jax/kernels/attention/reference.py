"""Dense attention in float32: the definition of every other backend, and the fastest for short rows on a CPU."""

import jax
import jax.numpy as jnp


def reference_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    slopes: jax.Array,
    segment_ids: jax.Array,
    *,
    scale: float,
    skip: bool = True,
) -> tuple[jax.Array, jax.Array]:
    """softmax(scale * q k^T - slope |i - j|) v over the tokens of one's own segment.

    Args:
        q: queries, [B, H, T, d].
        k: keys, [B, H, T, d].
        v: values, [B, H, T, d].
        slopes: ALiBi slopes, [H].
        segment_ids: 0 at padding, else the sequence's number in its row, [B, T].
        scale: factor of the dot products.
        skip: ignored; the definition visits every key.

    Returns:
        The output, [B, H, T, d] in the dtype of ``q``, zeros at padding; and the log-sum-exp of the scores, float32
        [B, H, T], of no meaning at padding.
    """
    del skip
    position = jnp.arange(q.shape[2])[None]
    return _dense_attention(q, k, v, slopes, segment_ids, segment_ids, position, scale)


def attention_at(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    slopes: jax.Array,
    segment_ids: jax.Array,
    positions: jax.Array,
    *,
    scale: float,
) -> jax.Array:
    """The output of :func:`reference_attention` for the tokens at some positions only, which see the whole row.

    Args:
        q: their queries, [B, H, P, d].
        k: keys, [B, H, T, d].
        v: values, [B, H, T, d].
        slopes: ALiBi slopes, [H].
        segment_ids: 0 at padding, else the sequence's number in its row, [B, T].
        positions: where in its row each query stands, [B, P].
        scale: factor of the dot products.

    Returns:
        [B, H, P, d] in the dtype of ``q``.
    """
    own = jnp.take_along_axis(segment_ids, positions, axis=1)
    return _dense_attention(q, k, v, slopes, own, segment_ids, positions, scale)[0]


def _dense_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    slopes: jax.Array,
    own: jax.Array,
    segment_ids: jax.Array,
    positions: jax.Array,
    scale: float,
) -> tuple[jax.Array, jax.Array]:
    """Output and log-sum-exp of queries at ``positions`` [B or 1, P], in the segments ``own`` [B, P]."""
    distance = jnp.abs(positions[:, :, None] - jnp.arange(k.shape[2])[None, None]).astype(jnp.float32)
    # Like the kernels: matrix units would otherwise round float32 factors.
    precision = "highest" if q.dtype == jnp.float32 else None
    scores = jnp.einsum("bhqd,bhkd->bhqk", q, k, preferred_element_type=jnp.float32, precision=precision) * scale
    scores = scores - slopes[None, :, None, None] * distance[:, None]
    visible = (own[:, :, None] == segment_ids[:, None, :]) & (segment_ids[:, None, :] > 0)
    # A finite floor keeps rows without any visible key (padding) free of NaN; their output is then set to zero.
    scores = jnp.where(visible[:, None], scores, -1e30)
    weights = jax.nn.softmax(scores, axis=-1)
    output = jnp.einsum("bhqk,bhkd->bhqd", weights, v.astype(jnp.float32), precision=precision)
    output = jnp.where((own > 0)[:, None, :, None], output, 0.0).astype(q.dtype)
    return output, jax.nn.logsumexp(scores, axis=-1)
