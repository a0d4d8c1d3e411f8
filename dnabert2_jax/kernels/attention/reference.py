"""Dense attention in float32: the definition for every other backend, and the fastest for short rows on a CPU."""

import jax
import jax.numpy as jnp

from dnabert2_jax.kernels.attention.kernel import Inputs


def reference_attention(inputs: Inputs, *, scale: float, skip: bool = True) -> tuple[jax.Array, jax.Array]:
    """The :class:`~dnabert2_jax.kernels.attention.kernel.AttentionFunction` exactly as defined, in layout bhtd.

    ``skip`` is ignored: the definition visits every key.
    """
    del skip
    position = jnp.arange(inputs.q.shape[2])[None]
    return dense_attention(inputs, inputs.segment_ids, position, scale)


def attention_at(inputs: Inputs, positions: jax.Array, *, scale: float) -> jax.Array:
    """The output of :func:`reference_attention` only for the tokens at some positions, which attend to the whole row.

    Args:
        inputs: the arrays, with only the queries at ``positions``, [B, H, P, d].
        positions: position of each query in its row, [B, P].
        scale: factor of the dot products.

    Returns:
        [B, H, P, d] in the dtype of ``q``.
    """
    own = jnp.take_along_axis(inputs.segment_ids, positions, axis=1)
    return dense_attention(inputs, own, positions, scale)[0]


def dense_attention(inputs: Inputs, own: jax.Array, positions: jax.Array, scale: float) -> tuple[jax.Array, jax.Array]:
    """Output and log-sum-exp of queries at ``positions`` [B or 1, P], in the segments ``own`` [B, P]."""
    precision = _precision(inputs.q)
    scores = _scores(inputs, own, positions, scale)
    weights = jax.nn.softmax(scores, axis=-1)
    output = jnp.einsum("bhqk,bhkd->bhqd", weights, inputs.v.astype(jnp.float32), precision=precision)
    output = jnp.where((own > 0)[:, None, :, None], output, 0.0).astype(inputs.q.dtype)
    return output, jax.nn.logsumexp(scores, axis=-1)


def attention_weights(inputs: Inputs, *, scale: float) -> jax.Array:
    """How much each token attends to each other one by definition, float32 [B, H, T, T]; a row of the last axis sums to 1.

    Args:
        inputs: the arrays; ``v`` is not used.
        scale: factor of the dot products.
    """
    position = jnp.arange(inputs.q.shape[2])[None]
    return jax.nn.softmax(_scores(inputs, inputs.segment_ids, position, scale), axis=-1)


def _scores(inputs: Inputs, own: jax.Array, positions: jax.Array, scale: float) -> jax.Array:
    """Logarithms of the weights up to a constant, float32 [B, H, P, T]."""
    q, k, _, slopes, segment_ids = inputs
    distance = jnp.abs(positions[:, :, None] - jnp.arange(k.shape[2])[None, None]).astype(jnp.float32)
    product = jnp.einsum("bhqd,bhkd->bhqk", q, k, preferred_element_type=jnp.float32, precision=_precision(q)) * scale
    scores = product - slopes[None, :, None, None] * distance[:, None]
    visible = (own[:, :, None] == segment_ids[:, None, :]) & (segment_ids[:, None, :] > 0)
    # A finite floor keeps rows without any visible key (padding) free of NaNs; their output is then set to zero.
    return jnp.where(visible[:, None], scores, -1e30)


def _precision(q: jax.Array) -> str | None:
    """As in the kernels: matrix units would otherwise round float32 operands. A caller may have chosen a precision."""
    chosen = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    return (chosen or "highest") if q.dtype == jnp.float32 else None
