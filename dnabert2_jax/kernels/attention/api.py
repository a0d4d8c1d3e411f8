"""One attention function with an ordered list of backends.

A backend names the layout of its q, k and v and reports why it cannot serve a call. ``auto`` takes the first suitable
backend; a backend selected by name raises an error instead of falling back.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dnabert2_jax.errors import UserError, nearest
from dnabert2_jax.kernels.attention.blocked import blocked_attention
from dnabert2_jax.kernels.attention.chunked import chunked_attention
from dnabert2_jax.kernels.attention.kernel import AttentionFunction, Inputs
from dnabert2_jax.kernels.attention.reference import reference_attention
from dnabert2_jax.parallel.constraints import token_shards
from dnabert2_jax.platform import Target, current_target

AUTO = "auto"

_DENSE_LIMIT = 512
"""Maximum row length in tokens for which ``auto`` lets the dense backend build its T x T scores."""

_MAX_HEAD_DIM = 128

_AMPERE = 8
"""The first generation of GPUs (major compute capability) with matrix units for bfloat16."""

_HOPPER = "9"
"""The generation of GPUs whose matrix units read both operands from shared memory; later ones have other instructions."""


class Call(NamedTuple):
    """Properties of a call that determine which backends can serve it.

    Attributes:
        target: what the call is traced for.
        tokens: tokens per row.
        head_dim: head width.
        shards: devices that share the tokens of a row, of which ``tokens`` are here.
    """

    target: Target
    tokens: int
    head_dim: int
    shards: int = 1


@dataclass(frozen=True)
class Backend:
    """One way to compute attention.

    Attributes:
        name: how users select it.
        layout: axis order of q, k, v and the output; see :class:`~dnabert2_jax.kernels.attention.kernel.Inputs`.
        run: the attention function.
        cannot: returns the reason it cannot serve a call, or None if it can.
        should_not: returns the reason ``auto`` prefers a later backend for a call that this one could serve, or None.
    """

    name: str
    layout: str
    run: AttentionFunction
    cannot: Callable[[Call], str | None] = lambda call: None
    should_not: Callable[[Call], str | None] = lambda call: None

    def refuses(self, call: Call) -> str | None:
        """The reason ``auto`` skips this backend, or None."""
        return self.cannot(call) or self.should_not(call)


def _pallas_tpu(inputs: Inputs, *, scale: float, skip: bool) -> tuple[jax.Array, jax.Array]:
    from dnabert2_jax.kernels.attention.tpu.backend import pallas_tpu_attention  # takes a third of a second to import

    return pallas_tpu_attention(inputs, scale=scale, skip=skip)


def _not_on_tpu(call: Call) -> str | None:
    if call.target.platform != "tpu":
        return f"it runs on TPUs, and this is a {call.target.platform}"
    if call.head_dim > _MAX_HEAD_DIM:
        return f"heads of {call.head_dim} are wider than {_MAX_HEAD_DIM}"
    return None


def _pallas_gpu(inputs: Inputs, *, scale: float, skip: bool) -> tuple[jax.Array, jax.Array]:
    from dnabert2_jax.kernels.attention.gpu.backend import pallas_gpu_attention

    return pallas_gpu_attention(inputs, scale=scale, skip=skip)


def _not_on_nvidia(call: Call) -> str | None:
    if call.target.platform != "gpu":
        return f"it runs on NVIDIA GPUs, and this is a {call.target.platform}"
    if call.head_dim > _MAX_HEAD_DIM:
        return f"heads of {call.head_dim} are wider than {_MAX_HEAD_DIM}"
    return None


def _not_on_gpu(call: Call) -> str | None:
    if (reason := _not_on_nvidia(call)) is not None:
        return reason
    target = call.target
    major = target.generation.partition(".")[0]
    if major and (not major.isdecimal() or int(major) < _AMPERE):
        return f"it needs compute capability {_AMPERE}.0 (Ampere) or later, and this GPU has {target.generation}"
    if importlib.util.find_spec("jax.experimental.pallas.triton") is None:
        return f"jax {jax.__version__} no longer has a Triton lowering"
    return None


def _mosaic_gpu(inputs: Inputs, *, scale: float, skip: bool) -> tuple[jax.Array, jax.Array]:
    from dnabert2_jax.kernels.attention.gpu.backend import mosaic_gpu_attention

    return mosaic_gpu_attention(inputs, scale=scale, skip=skip)


def _not_on_hopper(call: Call) -> str | None:
    generation = call.target.generation
    if (reason := _not_on_nvidia(call)) is None and generation.partition(".")[0] != _HOPPER:
        return f"it needs compute capability {_HOPPER}.0 (Hopper), and this GPU has {generation or 'an unknown one'}"
    return reason


def _not_in_shards(call: Call) -> str | None:
    return f"it needs whole rows, and {call.shards} devices share them" if call.shards > 1 else None


BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        Backend("pallas_tpu", "bhdt", _pallas_tpu, cannot=_not_on_tpu),
        Backend(
            "mosaic_gpu",
            "bthd",
            _mosaic_gpu,
            cannot=_not_on_hopper,
            should_not=lambda call: "it has not been timed on a GPU yet; name it to try it",
        ),
        Backend("pallas_gpu", "bthd", _pallas_gpu, cannot=_not_on_gpu),
        Backend(
            "reference",
            "bhtd",
            reference_attention,
            cannot=_not_in_shards,
            should_not=lambda call: f"{call.tokens} tokens are over {_DENSE_LIMIT}" if call.tokens > _DENSE_LIMIT else None,
        ),
        Backend(
            "chunked",
            "bhtd",
            chunked_attention,
            cannot=_not_in_shards,
            should_not=lambda call: "'blocked' is faster on a CPU" if call.target.platform == "cpu" else None,
        ),
        Backend("blocked", "bhtd", blocked_attention),
    )
}


class Choice(NamedTuple):
    """The selected backend, and the reasons the backends before it were skipped."""

    backend: Backend
    refusals: dict[str, str]


def explain_choice(tokens: int, head_dim: int = 64) -> Choice:
    """What ``auto`` selects for rows of ``tokens`` tokens and heads of ``head_dim``, and why it skips earlier backends."""
    call = Call(current_target(), tokens, head_dim, token_shards())
    refusals: dict[str, str] = {}
    for backend in BACKENDS.values():
        reason = backend.refuses(call)
        if reason is None:
            return Choice(backend, refusals)
        refusals[backend.name] = reason
    raise UserError(f"no attention backend serves {tokens} tokens, head width {head_dim}: {refusals}")  # pragma: no cover


def choose_backend(implementation: str, tokens: int, head_dim: int = 64) -> Backend:
    """The backend that serves rows of ``tokens`` tokens and heads of width ``head_dim``.

    Raises:
        UserError: ``implementation`` is neither ``"auto"`` nor the name of a backend, or that backend cannot serve the call.
    """
    if implementation == AUTO:
        return explain_choice(tokens, head_dim).backend
    if implementation not in BACKENDS:
        accepted = [AUTO, *BACKENDS]
        hint = nearest(implementation, accepted)
        raise UserError(f"attention backend {implementation!r} is unknown; accepted are {', '.join(accepted)}{hint}")
    backend = BACKENDS[implementation]
    if reason := backend.cannot(Call(current_target(), tokens, head_dim, token_shards())):
        raise UserError(f"attention backend {implementation!r} cannot be used here: {reason}; use 'auto' or another backend")
    return backend


def projected_attention(
    project_in: Callable[[str], tuple[jax.Array, ...]],
    project_out: Callable[[jax.Array, str], jax.Array],
    slopes: jax.Array,
    segment_ids: jax.Array,
    *,
    head_dim: int,
    implementation: str = AUTO,
    skip: bool = True,
) -> jax.Array:
    """Attention between a block's two projections, which write and read the layout the kernel expects.

    A transpose between projection and kernel costs a pass over memory; an einsum that writes its result directly in the
    kernel's layout does not. The kernel therefore names the layout, and the projections follow it.

    Args:
        project_in: layout -> (q, k, v) in that layout.
        project_out: (attention output, its layout) -> [B, T, D].
        slopes: ALiBi slopes, [H].
        segment_ids: 0 at padding, else the index of the sequence in its row, [B, T].
        head_dim: d, for the factor 1 / sqrt(d).
        implementation: ``"auto"`` or a backend's name.
        skip: skip keys that ALiBi makes irrelevant; see :func:`attention`.
    """
    backend = choose_backend(implementation, segment_ids.shape[1], head_dim)
    q, k, v = project_in(backend.layout)
    output, _ = backend.run(Inputs(q, k, v, slopes, segment_ids), scale=head_dim**-0.5, skip=skip)
    return project_out(output, backend.layout)


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    slopes: jax.Array,
    *,
    segment_ids: jax.Array | None = None,
    implementation: str = AUTO,
    skip: bool = True,
) -> jax.Array:
    """Self-attention with symmetric ALiBi: softmax(q k^T / sqrt(d) - slope |i - j|) v, softmax in float32.

    Args:
        q: queries, [B, T, H, d].
        k: keys, [B, T, H, d].
        v: values, [B, T, H, d].
        slopes: ALiBi slopes, [H]; see :func:`~dnabert2_jax.kernels.attention.alibi.alibi_slopes`.
        segment_ids: 0 at padding, else the index of the sequence in its row, [B, T]; if omitted, each row is one sequence.
        implementation: ``"auto"`` or a backend's name.
        skip: skip keys that ALiBi makes irrelevant, which changes the output by at most 2^-24 of the largest value
            (:mod:`~dnabert2_jax.kernels.attention.skipping`); ``reference`` never skips.

    Returns:
        [B, T, H, d] in the dtype of ``q``; zeros at padding.

    Raises:
        UserError: the backend is unknown or cannot serve the call.
        ValueError: the shapes are inconsistent.
    """
    return attention_and_log_sum_exp(q, k, v, slopes, segment_ids, implementation=implementation, skip=skip)[0]


def attention_and_log_sum_exp(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    slopes: jax.Array,
    segment_ids: jax.Array | None = None,
    *,
    implementation: str = AUTO,
    skip: bool = True,
) -> tuple[jax.Array, jax.Array]:
    """The output of :func:`attention` and the logarithm of the softmax denominator.

    Returns:
        [B, T, H, d] in the dtype of ``q``, zeros at padding; and float32 [B, T, H], undefined at padding.
    """
    if not (q.ndim == 4 and q.shape == k.shape == v.shape and slopes.shape == (q.shape[2],)):
        raise ValueError(
            "attention takes q, k, v of one shape [batch, tokens, heads, head_dim] and slopes [heads]; "
            f"found q {q.shape}, k {k.shape}, v {v.shape}, slopes {slopes.shape}"
        )
    if segment_ids is None:
        segment_ids = jnp.ones(q.shape[:2], jnp.int32)
    scale, backend = q.shape[3] ** -0.5, choose_backend(implementation, q.shape[1], q.shape[3])
    q, k, v = (jnp.einsum(f"bthd->{backend.layout}", x) for x in (q, k, v))
    inputs = Inputs(q, k, v, jnp.asarray(slopes, jnp.float32), segment_ids)
    output, log_sum_exp = backend.run(inputs, scale=scale, skip=skip)
    return jnp.einsum(f"{backend.layout}->bthd", output), jnp.swapaxes(log_sum_exp, 1, 2)
