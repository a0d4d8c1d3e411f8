"""The arithmetic between the matrix products: GELU, GEGLU, LayerNorm and biases, with custom backward passes.

Left to itself, differentiation saves what is easy to differentiate with: four arrays of the inner width for one GEGLU, three
in float32 for one LayerNorm. Reading and writing them costs more than the arithmetic. Here the backward pass saves the
inputs, in their own dtype, and recomputes the rest. Everything in between is float32.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dnabert2_jax.modeling.matmul import sum_over
from dnabert2_jax.platform import PerPlatform


@PerPlatform
def _kept_apart(x: jax.Array) -> jax.Array:
    """``x`` unchanged: here a barrier for the compiler costs more than it saves."""
    return x


@_kept_apart.on("tpu")
def _written_to_memory(x: jax.Array) -> jax.Array:
    """``x``, written to memory before anything uses it.

    XLA fuses what goes into a matrix product with the product, and computes it again for every tile.
    """
    return jax.lax.optimization_barrier(x)  # type: ignore[no-untyped-call]


_DENSITY_AT_0 = np.float32(1 / np.sqrt(2 * np.pi))


class _Normal(NamedTuple):
    """The standard normal distribution at x: its distribution function and its density, float32."""

    below: jax.Array
    density: jax.Array


def _normal(x: jax.Array) -> _Normal:
    """At ``x`` of either precision; XLA does not compute what is not used.

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
    """``x + bias``, which broadcasts to the shape of ``x``; the gradient of ``bias`` is accumulated in float32."""
    return x + bias


def _add_bias_backward(bias: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    kept = (1,) * (g.ndim - bias.ndim) + bias.shape
    axes = tuple(axis for axis, size in enumerate(kept) if size == 1)
    return g, sum_over(g, axes).reshape(bias.shape).astype(bias.dtype)


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
    if x.dtype == jnp.bfloat16:  # one pass: its error is far below the rounding of x
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
