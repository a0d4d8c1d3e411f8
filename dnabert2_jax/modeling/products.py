"""Products of activations and weights, on a CPU in the forms that it is fast at.

In bfloat16 XLA has kernels for a CPU, faster than those for float32 where the processor has the instructions (AVX512-BF16,
AMX). It takes them for a product whose result is float32 and whose first factor is summed over its last axis, and converts
everything to float32 for any other. In float32 it writes out transposes of whole activations for some of the products that
differentiation leaves. So here a product and its two derivatives are products of matrices, each in the form that is fast.
Elsewhere than on a CPU a product is an einsum.
"""

import math

import jax
import jax.numpy as jnp

from dnabert2_jax.platform import current_target


def product(axes: str, x: jax.Array, weight: jax.Array) -> jax.Array:
    """``jnp.einsum(axes, x, weight)`` in the dtype of ``x``, added up in float32.

    Args:
        axes: as einsum's, ``"btc,cd->btd"`` or ``"...c,cd->...d"``; each letter is in two of the three.
        x: activations.
        weight: of the same dtype.
    """
    if current_target().platform != "cpu":
        return jnp.einsum(axes, x, weight)
    leading = "stuvwxyz"[: x.ndim - len(axes.partition(",")[0].replace("...", ""))]
    factors, _, result = axes.replace("...", leading).partition("->")
    left, right = factors.split(",")
    rows, summed, columns = (
        "".join(letter for letter in of if (letter in other) == shared)
        for of, other, shared in ((left, right, False), (left, right, True), (right, left, False))
    )
    size = dict(zip(left + right, x.shape + weight.shape, strict=True))

    def matrix(array: jax.Array, have: str, first: str, second: str) -> jax.Array:
        turned = jnp.einsum(f"{have}->{first}{second}", array)
        return turned.reshape([math.prod(size[letter] for letter in letters) for letters in (first, second)])

    y = _matrix_product(matrix(x, left, rows, summed), matrix(weight, right, summed, columns))
    return jnp.einsum(f"{rows}{columns}->{result}", y.reshape([size[letter] for letter in rows + columns]))


def _dot(a: jax.Array, b: jax.Array, b_axis: int) -> jax.Array:
    """``a`` [n, k] times ``b``, whose axis ``b_axis`` is summed, too."""
    wide = jax.lax.dot_general(a, b, (((1,), (b_axis,)), ((), ())), preferred_element_type=jnp.float32)
    return wide.astype(a.dtype)


@jax.custom_vjp
def _matrix_product(a: jax.Array, b: jax.Array) -> jax.Array:
    """[n, k] x [k, m] -> [n, m], in the dtype of both."""
    return _dot(a, b, 0)


def _matrix_product_backward(kept: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    a, b = kept
    # XLA would make a plain transpose a product summed over the first axis, which is slower, or not done in bfloat16 at all.
    if a.dtype == jnp.float32:
        turned = jax.lax.optimization_barrier(a.T)  # type: ignore[no-untyped-call]
        return _dot(g, b, 1), _dot(turned, g, 0)
    # A row of zeros more, for the same: a barrier is gone before bfloat16's products are chosen.
    turned = jnp.pad(a.T, ((0, 1), (0, 0)))
    return _dot(g, b, 1), _dot(turned, g, 0)[:-1]


_matrix_product.defvjp(lambda a, b: (_matrix_product(a, b), (a, b)), _matrix_product_backward)
