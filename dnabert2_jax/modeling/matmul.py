"""Products of activations and weights, in the forms that run fast on each platform."""

import math

import jax
import jax.numpy as jnp

from dnabert2_jax.parallel.constraints import is_divided, keep_columns_spread
from dnabert2_jax.platform import PerPlatform


@PerPlatform
def einsum(axes: str, x: jax.Array, weight: jax.Array) -> jax.Array:
    """``jnp.einsum(axes, x, weight)`` in the dtype of ``x``, accumulated in float32.

    Args:
        axes: as einsum's, ``"btc,cd->btd"`` or ``"...c,cd->...d"``; each letter is in two of the three.
        x: activations.
        weight: of the same dtype.
    """
    return jnp.einsum(axes, x, weight)


@einsum.on("cpu")
def _matrix_einsum(axes: str, x: jax.Array, weight: jax.Array) -> jax.Array:
    """One product of matrices, and two in the backward pass.

    In bfloat16 XLA has CPU kernels, faster than those for float32 where the processor has the instructions (AVX512-BF16,
    AMX). It uses them for a product with a float32 result whose first factor is summed over its last axis, and converts
    everything to float32 for any other. In float32 it writes out transposes of whole activations for some of the products
    that differentiation leaves.
    """
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
    """``a`` [n, k] times ``b``, summed over the k of axis ``b_axis``."""
    wide = jax.lax.dot_general(a, b, (((1,), (b_axis,)), ((), ())), preferred_element_type=jnp.float32)
    return wide.astype(a.dtype)


@jax.custom_vjp
def _matrix_product(a: jax.Array, b: jax.Array) -> jax.Array:
    """[n, k] x [k, m] -> [n, m], in the dtype of both."""
    return _dot(a, b, 0)


def _matrix_product_backward(kept: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    a, b = kept
    # XLA would turn a plain transpose into a product summed over the first axis, which is slower, or not done in bfloat16.
    if a.dtype == jnp.float32:
        turned = jax.lax.optimization_barrier(a.T)  # type: ignore[no-untyped-call]
        return _dot(g, b, 1), _dot(turned, g, 0)
    # One more row of zeros, for the same purpose: a barrier is gone before bfloat16's products are chosen.
    turned = jnp.pad(a.T, ((0, 1), (0, 0)))
    return _dot(g, b, 1), _dot(turned, g, 0)[:-1]


_matrix_product.defvjp(lambda a, b: (_matrix_product(a, b), (a, b)), _matrix_product_backward)


@PerPlatform
def project_in_halves(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The product of ``x`` [..., T, in] with each half of the columns of ``kernel`` [in, out], [..., T, out / 2] each.

    One large product is faster than two, except on a mesh that divides the columns: one half would then be on some devices
    and the other on others.
    """
    if is_divided():
        return _halves_of_the_weight(x, kernel)
    first, second = jnp.split(einsum("...i,io->...o", x, kernel), 2, axis=-1)
    return first, second


@project_in_halves.on("tpu")
def _halves_of_the_weight(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two products. On a TPU, joining the gradients of halves would be fused into every tile of the backward product."""
    halves = keep_columns_spread(kernel.reshape(len(kernel), 2, -1))
    return einsum("...i,io->...o", x, halves[:, 0]), einsum("...i,io->...o", x, halves[:, 1])


@PerPlatform
def sum_over(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """The sum of ``x`` over ``axes``, in float32."""
    return x.sum(axes, dtype=jnp.float32)


@sum_over.on("tpu")
def _sum_by_product(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """A product with ones: the matrix units add up rows while they read them.

    Eight times, because XLA turns a product with a single vector back into a sum.
    """
    ones = jnp.ones((8, *(x.shape[axis] for axis in axes)), x.dtype)
    return jax.lax.dot_general(
        ones,
        x,
        ((range(1, ones.ndim), axes), ((), ())),
        precision=jax.lax.Precision.HIGHEST,  # float32 stays float32
        preferred_element_type=jnp.float32,
    )[0]
