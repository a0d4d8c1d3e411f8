"""Backward passes of our own against those that jax derives, and what they keep in between."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from dnabert2_jax.kernels.attention import tracing_for
from dnabert2_jax.modeling.dropout import dropout
from dnabert2_jax.modeling.elementwise import _normal, add_bias, geglu, gelu, layer_norm

B, T, D = 3, 5, 24


def plain_layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred / jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-12) * scale + bias


ROWS, VECTOR = (B, T, D), (D,)
CASES: dict[str, tuple[Callable[..., Any], Callable[..., Any], tuple[tuple[int, ...], ...]]] = {
    "gelu": (gelu, lambda x: jax.nn.gelu(x, approximate=False), (ROWS,)),
    "geglu": (geglu, lambda gate, value: jax.nn.gelu(gate, approximate=False) * value, (ROWS, ROWS)),
    "layer_norm": (lambda x, s, b: layer_norm(x, s, b, 1e-12), plain_layer_norm, (ROWS, VECTOR, VECTOR)),
    "add_bias": (add_bias, jnp.add, (ROWS, (1, 1, D))),
    "add_bias_last": (add_bias, jnp.add, ((B, 4, 6), (6,))),
    "add_bias_heads": (add_bias, jnp.add, ((B, 4, 6, T), (1, 4, 6, 1))),
}


def arguments(name: str, seed: int, dtype: Any = jnp.float32) -> list[jax.Array]:
    rng = np.random.default_rng(seed)
    arrays = [jnp.asarray(2 * rng.normal(size=shape) + 0.5, jnp.float32) for shape in CASES[name][2]]
    return [x if x.shape == VECTOR else x.astype(dtype) for x in arrays]


def close(actual: Any, expected: Any, tolerance: float) -> None:
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("name", CASES)
def test_forward_and_gradients_are_those_of_the_plain_formula(name: str, platform: str) -> None:
    ours, plain, _ = CASES[name]
    inputs = arguments(name, 0)
    cotangent = jnp.asarray(np.random.default_rng(1).normal(size=inputs[0].shape), jnp.float32)

    def both(*inputs: jax.Array) -> Any:  # a new function: of an old one, jax.jit remembers what the other platform got
        output, backward = jax.vjp(ours, *inputs)
        return output, backward(cotangent)

    with tracing_for(platform):  # a TPU has boundaries for the compiler, which must change nothing
        lowered = jax.jit(both).lower(*inputs)
    bounded = platform == "tpu" and name == "layer_norm"
    assert ("optimization_barrier" in lowered.as_text()) == bounded
    output, gradients = lowered.compile()(*inputs)
    expected, plain_backward = jax.vjp(plain, *inputs)
    close(output, expected, 1e-6)
    for actual, wanted in zip(gradients, plain_backward(cotangent), strict=True):
        close(actual, wanted, 3e-6)


@pytest.mark.parametrize("name", CASES)
def test_bfloat16_loses_only_its_own_rounding(name: str) -> None:
    ours, plain, _ = CASES[name]
    inputs = arguments(name, 2, jnp.bfloat16)
    wide = [x.astype(jnp.float32) for x in inputs]
    output, backward = jax.vjp(ours, *inputs)
    expected, plain_backward = jax.vjp(plain, *wide)
    cotangent = jnp.asarray(np.random.default_rng(3).normal(size=output.shape), jnp.bfloat16)
    assert output.dtype == jnp.bfloat16
    close(output, expected, 2**-8)
    for given, actual, wanted in zip(
        inputs, backward(cotangent), plain_backward(cotangent.astype(jnp.float32)), strict=True
    ):
        assert actual.dtype == given.dtype
        close(actual, wanted, 2**-8)


def test_the_short_error_function_is_as_good_as_it_says() -> None:
    x = jnp.linspace(-12, 12, 4001).astype(jnp.bfloat16)
    narrow = np.asarray(jax.jit(lambda x: _normal(x).below)(x), np.float64)
    exact = np.asarray(x, np.float64)
    assert np.abs(narrow - 0.5 * (1 + erf(exact / np.sqrt(2)))).max() < 2e-7


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", ["gelu", "geglu", "layer_norm"])
def test_only_the_inputs_are_kept_for_the_backward_pass(name: str, dtype: Any) -> None:
    inputs = arguments(name, 4, dtype)
    _, backward = jax.vjp(CASES[name][0], *inputs)
    kept = sum(leaf.nbytes for leaf in jax.tree.leaves(backward))
    moments = 2 * B * T * 4 if name == "layer_norm" else 0  # mean and deviation of each token, float32
    assert kept <= sum(x.nbytes for x in inputs) + moments


def test_layer_norm_of_constant_rows_stays_finite_in_bfloat16() -> None:
    x = jnp.full(ROWS, 3.0, jnp.bfloat16)
    y, backward = jax.vjp(lambda x: layer_norm(x, jnp.ones(D), jnp.zeros(D), 1e-12), x)
    assert np.isfinite(np.asarray(y, np.float32)).all()
    assert not np.isnan(np.asarray(backward(jnp.ones_like(y))[0], np.float32)).any()


def test_the_gradient_falls_where_the_activation_fell() -> None:
    x, seeds = jnp.ones(ROWS), jnp.arange(B, dtype=jnp.uint32)
    y, backward = jax.vjp(lambda x: dropout(x, 0.4, seeds, 7), x)
    cotangent = jnp.asarray(np.random.default_rng(5).normal(size=ROWS), jnp.float32)
    assert 0 < int((y == 0).sum()) < y.size
    np.testing.assert_array_equal(backward(cotangent)[0], jnp.where(y == 0, 0, cotangent / 0.6))
