"""The arithmetic between the matrix products: GELU, GEGLU, LayerNorm and dropout, with backward passes of their own.

Left to itself, differentiation keeps what is easy to differentiate with: of one GEGLU four arrays of the inner width, of
one LayerNorm three in float32. Reading and writing them costs more than the arithmetic. Here the backward pass keeps what
goes in, in the dtype in which it came, and computes the rest again. Everything in between is float32.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dnabert2_jax.platform import current_target


def _kept_apart(x: jax.Array) -> jax.Array:
    """``x``, written to memory on a TPU before anything uses it.

    XLA fuses what goes into a matrix product with the product, and computes it again for every tile. On other platforms the
    boundary costs more than it saves.
    """
    return jax.lax.optimization_barrier(x) if current_target().platform == "tpu" else x  # type: ignore[no-untyped-call]


_DENSITY_AT_0 = np.float32(1 / np.sqrt(2 * np.pi))


class _Normal(NamedTuple):
    """The standard normal distribution at x: its distribution function and its density, float32."""

    below: jax.Array
    density: jax.Array


def _normal(x: jax.Array) -> _Normal:
    """At ``x`` of either precision; what one use does not need, XLA does not compute.

    For bfloat16 the error function is that of Abramowitz and Stegun (7.1.26), to 1.5e-7: it shares the exponential with the
    density, and takes half the operations of the one to float32's last bit, which would be rounded away.
    """
    wide = x.astype(jnp.float32)
    bell = jnp.exp(-0.5 * jnp.square(wide))
    if x.dtype == jnp.bfloat16:
        t = 1 / (1 + np.float32(0.3275911 * np.sqrt(0.5)) * jnp.abs(wide))
        above = jnp.zeros_like(t)  # half the complementary error function of |x| / sqrt(2), over the bell
        for coefficient in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592):
            above = (above + np.float32(coefficient / 2)) * t
        above = above * bell
        below = jnp.where(wide < 0, above, 1 - above)
    else:
        below = 0.5 * (1 + jax.lax.erf(wide * np.float32(np.sqrt(0.5))))
    return _Normal(below, _DENSITY_AT_0 * bell)


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """The GELU (Hendrycks and Gimpel 2016) by the error function, as in the original: x times the normal distribution of x.

    Any shape, in the dtype of ``x``.
    """
    return (x.astype(jnp.float32) * _normal(x).below).astype(x.dtype)


def _gelu_backward(x: jax.Array, g: jax.Array) -> tuple[jax.Array]:
    wide, normal = x.astype(jnp.float32), _normal(x)
    return ((g.astype(jnp.float32) * (normal.below + wide * normal.density)).astype(x.dtype),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


@jax.custom_vjp
def geglu(gate: jax.Array, value: jax.Array) -> jax.Array:
    """GELU(gate) * value (Shazeer 2020); any shape, in the dtype of ``gate``."""
    return (gate.astype(jnp.float32) * _normal(gate).below * value.astype(jnp.float32)).astype(gate.dtype)


def _geglu_backward(kept: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    gate, value, g_wide = (x.astype(jnp.float32) for x in (*kept, g))
    normal = _normal(kept[0])
    d_gate = g_wide * value * (normal.below + gate * normal.density)
    return d_gate.astype(g.dtype), (g_wide * gate * normal.below).astype(g.dtype)


geglu.defvjp(lambda gate, value: (geglu(gate, value), (gate, value)), _geglu_backward)


@jax.custom_vjp
def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """``x + bias``, which broadcasts to the shape of ``x``; the gradient of ``bias`` is added up in float32."""
    return x + bias


def _add_bias_backward(bias: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    kept = (1,) * (g.ndim - bias.ndim) + bias.shape
    axes = [axis for axis, size in enumerate(kept) if size == 1]
    if current_target().platform == "tpu":
        # A product with ones: the matrix units add up rows while they read them. Eight times, since XLA makes a sum of a
        # product with one vector.
        ones = jnp.ones((8, *(g.shape[axis] for axis in axes)), g.dtype)
        total = jax.lax.dot_general(
            ones,
            g,
            ((range(1, ones.ndim), axes), ((), ())),
            precision=jax.lax.Precision.HIGHEST,  # float32 stays float32
            preferred_element_type=jnp.float32,
        )[0]
    else:
        total = g.sum(axes, dtype=jnp.float32)
    return g, total.reshape(bias.shape).astype(bias.dtype)


add_bias.defvjp(lambda x, bias: (x + bias, bias), _add_bias_backward)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    """LayerNorm (Ba et al. 2016) over the last axis.

    Args:
        x: [..., D].
        scale: [D], float32.
        bias: [D], float32.
        epsilon: added to the variance.

    Returns:
        [..., D] in the dtype of ``x``.
    """
    return _layer_norm_forward(x, scale, bias, epsilon)[0]


_Moments = tuple[jax.Array, jax.Array]


def _layer_norm_forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, _Moments]]:
    wide = x.astype(jnp.float32)
    mean = wide.mean(-1, keepdims=True)
    if x.dtype == jnp.bfloat16:  # one pass: what it loses is far below the rounding of x
        variance = jnp.maximum(jnp.square(wide).mean(-1, keepdims=True) - jnp.square(mean), 0)
    else:
        variance = jnp.square(wide - mean).mean(-1, keepdims=True)
    rstd = jax.lax.rsqrt(variance + np.float32(epsilon))
    y = (wide - mean) * rstd * scale + bias
    return _kept_apart(y.astype(x.dtype)), (x, scale, (mean, rstd))


def _layer_norm_backward(
    epsilon: float, kept: tuple[jax.Array, jax.Array, _Moments], g: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, scale, (mean, rstd) = kept
    wide, rows = g.astype(jnp.float32), tuple(range(g.ndim - 1))
    normal = (x.astype(jnp.float32) - mean) * rstd
    inner = wide * scale
    along = inner.mean(-1, keepdims=True) + normal * (inner * normal).mean(-1, keepdims=True)
    return ((inner - along) * rstd).astype(x.dtype), (wide * normal).sum(rows), wide.sum(rows)


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


def _mix32(x: jax.Array) -> jax.Array:
    """lowbias32 (Wellons 2018): a bijection of 32-bit integers with almost no bias, in operations that XLA fuses."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _drop(x: jax.Array, rate: float, seeds: jax.Array, site: jax.Array, positions: jax.Array) -> jax.Array:
    row = _mix32(seeds + site * jnp.uint32(0x9E3779B9))
    token = _mix32(row[:, None] ^ positions)
    channels = jnp.arange(x.shape[2], dtype=jnp.uint32) * jnp.uint32(0x9E3779B9)
    element = _mix32(token[:, :, None] + channels[None, None])
    keep = element < jnp.uint32(min(round((1 - rate) * 2**32), 2**32 - 1))
    return jnp.where(keep, x / (1 - rate), jnp.zeros((), x.dtype))


# What falls in the forward pass falls in the backward pass: the hash says it again, and no mask is kept.
_drop.defvjp(
    lambda x, rate, *where: (_drop(x, rate, *where), where),
    lambda rate, where, g: (_drop(g, rate, *where), None, None, None),
)


def dropout(
    x: jax.Array, rate: float, seeds: jax.Array | None, site: int | jax.Array, positions: jax.Array | None = None
) -> jax.Array:
    """Zero elements with probability ``rate`` and scale the others by 1 / (1 - rate).

    An element's fate is a hash of (row seed, site, token, channel): it does not depend on batch, padding, device or host.

    Args:
        x: [B, T, D].
        rate: in [0, 1).
        seeds: one 32-bit seed a row, [B]; None switches dropout off.
        site: which of the model's dropout layers this is.
        positions: where in the row each of the tokens of ``x`` stands, [B, T]; None: they are the row.
    """
    if seeds is None or rate == 0:
        return x
    if positions is None:
        positions = jnp.arange(x.shape[1])[None]
    return _drop(x, rate, seeds, jnp.asarray(site, jnp.uint32), positions.astype(jnp.uint32))
