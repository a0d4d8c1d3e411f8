"""Products of activations and weights, in bfloat16 on a CPU by the instructions that it has for them.

XLA has kernels for bfloat16 on a CPU, faster than those for float32 where the processor has the instructions (AVX512-BF16,
AMX). It takes them for a product whose result is float32 and whose first factor is summed over its last axis,
and converts everything to float32 for any other. Elsewhere than on a CPU a product is an einsum.
"""

import math

import jax
import jax.numpy as jnp

from dnabert2_jax.kernels.attention.target import current_target


def product(axes: str, x: jax.Array, weight: jax.Array) -> jax.Array:
    """``jnp.einsum(axes, x, weight)`` in the dtype of ``x``, added up in float32.

    Args:
        axes: as einsum's, ``"btc,cd->btd"`` or ``"...c,cd->...d"``; each letter is in two of the three.
        x: activations.
        weight: of the same dtype.
    """
    if current_target().platform != "cpu" or x.dtype != jnp.bfloat16:
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

    y = _narrow(matrix(x, left, rows, summed), matrix(weight, right, summed, columns))
    return jnp.einsum(f"{rows}{columns}->{result}", y.reshape([size[letter] for letter in rows + columns]))


def _dot(a: jax.Array, b: jax.Array, b_axis: int) -> jax.Array:
    """``a`` [n, k] times ``b``, whose axis ``b_axis`` is summed, too."""
    wide = jax.lax.dot_general(a, b, (((1,), (b_axis,)), ((), ())), preferred_element_type=jnp.float32)
    return wide.astype(a.dtype)


@jax.custom_vjp
def _narrow(a: jax.Array, b: jax.Array) -> jax.Array:
    """[n, k] x [k, m] -> [n, m], bfloat16."""
    return _dot(a, b, 0)


def _narrow_backward(kept: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    a, b = kept
    # A row of zeros more: XLA would make a product that is summed over the first axis of a plain transpose.
    turned = jnp.pad(a.T, ((0, 1), (0, 0)))
    return _dot(g, b, 1), _dot(turned, g, 0)[:-1]


_narrow.defvjp(lambda a, b: (_narrow(a, b), (a, b)), _narrow_backward)
