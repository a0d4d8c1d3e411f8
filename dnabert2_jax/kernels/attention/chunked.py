"""Dense attention for a chunk of queries at a time: for GPUs that no fused kernel runs on.

All rows and heads of a chunk are one product, which keeps a GPU busy, and one chunk's scores are in memory. By contrast,
`blocked` takes one row and head after the other, which suits the few cores of a CPU.
"""

import jax
import jax.numpy as jnp

from dnabert2_jax.kernels.attention.kernel import Inputs
from dnabert2_jax.kernels.attention.reference import dense_attention

_QUERIES = 128
"""Tokens of a chunk; its scores take 4 bytes for each of rows x heads x 128 x tokens."""


def chunked_attention(inputs: Inputs, *, scale: float, skip: bool = True) -> tuple[jax.Array, jax.Array]:
    """The :class:`~dnabert2_jax.kernels.attention.kernel.AttentionFunction` in O(T) memory, in layout bhtd.

    ``skip`` is ignored: every chunk visits every key. The backward pass computes a chunk's scores again.
    """
    del skip
    q, k, v, slopes, segment_ids = inputs
    rows, heads, tokens, width = q.shape
    chunks = -(-tokens // _QUERIES)
    padding = chunks * _QUERIES - tokens
    queries = jnp.pad(q, ((0, 0), (0, 0), (0, padding), (0, 0))).reshape(rows, heads, chunks, _QUERIES, width)
    own = jnp.pad(segment_ids, ((0, 0), (0, padding))).reshape(rows, chunks, _QUERIES)
    positions = jnp.arange(chunks * _QUERIES).reshape(chunks, 1, _QUERIES)
    wide_k, wide_v = k.astype(jnp.float32), v.astype(jnp.float32)  # so that gradients are added up in float32

    @jax.checkpoint
    def one_chunk(wide_k: jax.Array, wide_v: jax.Array, chunk: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        q, own, positions = chunk
        return dense_attention(Inputs(q, wide_k.astype(k.dtype), wide_v, slopes, segment_ids), own, positions, scale)

    output, log_sum_exp = jax.lax.map(
        lambda chunk: one_chunk(wide_k, wide_v, chunk), (jnp.moveaxis(queries, 2, 0), jnp.moveaxis(own, 1, 0), positions)
    )
    output = jnp.moveaxis(output, 0, 2).reshape(rows, heads, -1, width)
    return output[:, :, :tokens], jnp.moveaxis(log_sum_exp, 0, 2).reshape(rows, heads, -1)[:, :, :tokens]
