"""One attention function, ordered backends.

A backend says in which layout it wants q, k and v and why it cannot serve a call. ``auto`` takes the first that can serve;
one asked for by name fails loudly instead of falling back.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp

from dnabert2_jax.errors import UserError, nearest
from dnabert2_jax.kernels.attention.blocked import blocked_attention
from dnabert2_jax.kernels.attention.reference import reference_attention

AUTO = "auto"

_DENSE_LIMIT = 512
"""Longest row in tokens for which ``auto`` lets the dense backend build its T x T scores."""


class AttentionFunction(Protocol):
    """What a backend computes: q, k, v in the backend's layout, slopes [H] and segment ids [B, T] to the layout of q."""

    def __call__(
        self, q: jax.Array, k: jax.Array, v: jax.Array, slopes: jax.Array, segment_ids: jax.Array, *, scale: float
    ) -> jax.Array:
        """The attention output, in the dtype of ``q``."""
        ...


@dataclass(frozen=True)
class Backend:
    """One way to compute attention.

    Attributes:
        name: how users ask for it.
        layout: order of the axes of q, k, v and the output, as einsum letters (b batch, t tokens, h heads, d head width).
        run: the function.
        refuses: given the tokens of a row, why ``auto`` should not pick this backend, or None.
    """

    name: str
    layout: str
    run: AttentionFunction
    refuses: Callable[[int], str | None]


BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        Backend(
            "reference",
            "bhtd",
            reference_attention,
            lambda tokens: f"{tokens} tokens are over {_DENSE_LIMIT}" if tokens > _DENSE_LIMIT else None,
        ),
        Backend("blocked", "bhtd", blocked_attention, lambda tokens: None),
    )
}


def choose_backend(implementation: str, tokens: int) -> Backend:
    """The backend that serves rows of ``tokens`` tokens.

    Raises:
        UserError: ``implementation`` is neither ``"auto"`` nor the name of a backend.
    """
    if implementation != AUTO:
        if implementation not in BACKENDS:
            accepted = [AUTO, *BACKENDS]
            hint = nearest(implementation, accepted)
            raise UserError(f"attention backend {implementation!r} is unknown; accepted are {', '.join(accepted)}{hint}")
        return BACKENDS[implementation]
    return next(backend for backend in BACKENDS.values() if backend.refuses(tokens) is None)


def projected_attention(
    project_in: Callable[[str], tuple[jax.Array, jax.Array, jax.Array]],
    project_out: Callable[[jax.Array, str], jax.Array],
    slopes: jax.Array,
    segment_ids: jax.Array,
    *,
    head_dim: int,
    implementation: str = AUTO,
) -> jax.Array:
    """Attention between the two projections of a block, which write and read the layout that the kernel wants.

    A transpose between projection and kernel costs a pass over memory; an einsum that puts its result where the kernel reads
    it costs none. So the kernel names the layout and the projections follow.

    Args:
        project_in: layout -> (q, k, v) in it.
        project_out: (attention output, its layout) -> [B, T, D].
        slopes: ALiBi slopes, [H].
        segment_ids: 0 at padding, else the sequence's number in its row, [B, T].
        head_dim: d, for the factor 1 / sqrt(d).
        implementation: ``"auto"`` or a backend's name.
    """
    backend = choose_backend(implementation, segment_ids.shape[1])
    q, k, v = project_in(backend.layout)
    return project_out(backend.run(q, k, v, slopes, segment_ids, scale=head_dim**-0.5), backend.layout)


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    slopes: jax.Array,
    *,
    segment_ids: jax.Array | None = None,
    implementation: str = AUTO,
) -> jax.Array:
    """Self-attention with symmetric ALiBi: softmax(q k^T / sqrt(d) - slope |i - j|) v, softmax in float32.

    Args:
        q: queries, [B, T, H, d].
        k: keys, [B, T, H, d].
        v: values, [B, T, H, d].
        slopes: ALiBi slopes, [H]; see :func:`~dnabert2_jax.kernels.attention.alibi.alibi_slopes`.
        segment_ids: 0 at padding, else the sequence's number in its row, [B, T]; all one sequence where left out.
        implementation: ``"auto"`` or a backend's name.

    Returns:
        [B, T, H, d] in the dtype of ``q``; zeros at padding.

    Raises:
        UserError: unknown backend.
        ValueError: shapes that do not belong together.
    """
    if not (q.ndim == 4 and q.shape == k.shape == v.shape and slopes.shape == (q.shape[2],)):
        raise ValueError(
            "attention wants q, k, v of one shape [batch, tokens, heads, head_dim] and slopes [heads]; "
            f"found q {q.shape}, k {k.shape}, v {v.shape}, slopes {slopes.shape}"
        )
    if segment_ids is None:
        segment_ids = jnp.ones(q.shape[:2], jnp.int32)

    def into(layout: str) -> tuple[jax.Array, jax.Array, jax.Array]:
        q_, k_, v_ = (jnp.einsum(f"bthd->{layout}", x) for x in (q, k, v))
        return q_, k_, v_

    return projected_attention(
        into,
        lambda o, layout: jnp.einsum(f"{layout}->bthd", o),
        jnp.asarray(slopes, jnp.float32),
        segment_ids,
        head_dim=q.shape[3],
        implementation=implementation,
    )
