"""The gathers of a GPU, and their gradients, against indexing and the scatters that differentiate it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from dnabert2_jax.modeling.gather import rows_of, states_at, states_in_row, values_at
from dnabert2_jax.platform import tracing_for

RNG = np.random.default_rng(0)
ROWS, TOKENS, WIDTH, SLOTS = 3, 40, 24, 7


def normal(*shape, dtype=jnp.float32):
    return jnp.asarray(RNG.normal(size=shape), dtype)


def numbers(most, *shape):
    return jnp.asarray(RNG.integers(most, size=shape), jnp.int32)


CASES = {
    "words": (lambda dtype: (rows_of, normal(50, WIDTH), numbers(50, ROWS, TOKENS), (dtype,))),
    "two token types": (lambda dtype: (rows_of, normal(2, WIDTH), numbers(2, ROWS, TOKENS), (dtype,))),
    "states, some of them twice": (
        lambda dtype: (states_at, normal(ROWS, 9, WIDTH, dtype=dtype), numbers(9, ROWS, SLOTS), ())
    ),
    "values": (lambda dtype: (values_at, normal(ROWS, SLOTS, WIDTH, dtype=dtype), numbers(WIDTH, ROWS, SLOTS), ())),
}


@pytest.mark.parametrize("tokens", [9, 10, 12])
def test_for_long_rows_the_one_hot_matrix_is_made_in_parts(tokens, monkeypatch):
    hidden, at = normal(ROWS, tokens, WIDTH), numbers(tokens, ROWS, SLOTS)
    cotangent = normal(ROWS, SLOTS, WIDTH)

    def gradient():
        with tracing_for("gpu"):
            return jax.vjp(lambda x: states_at(x, at), hidden)[1](cotangent)[0]

    whole = gradient()
    monkeypatch.setattr("dnabert2_jax.modeling.gather._MAX_ONE_HOT", ROWS * SLOTS * 4)  # three parts of three or four tokens
    np.testing.assert_allclose(gradient(), whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_devices_that_share_a_row_each_get_the_states_they_want(platform):
    """From any device, some of them twice, and the gradients go back."""
    hidden, at, cotangent = normal(ROWS, TOKENS, WIDTH), numbers(TOKENS, ROWS, 8), normal(ROWS, 8, WIDTH)

    def both(gather):
        def values_and_gradient(hidden, at, cotangent):
            values, backward = jax.vjp(lambda x: gather(x, at), hidden)
            return values, *backward(cotangent)

        return values_and_gradient

    mesh = jax.make_mesh((4,), ("sequence",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    spread = P(None, "sequence")
    with tracing_for(platform):
        shared = jax.shard_map(both(states_in_row), mesh=mesh, in_specs=spread, out_specs=spread, check_vma=False)
        found = jax.jit(shared)(hidden, at, cotangent)
    wanted = both(lambda x, at: jnp.take_along_axis(x, at[:, :, None], axis=1))(hidden, at, cotangent)
    np.testing.assert_array_equal(found[0], wanted[0])
    np.testing.assert_allclose(found[1], wanted[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_on_a_gpu_values_and_gradients_are_those_of_indexing(case, dtype):
    gather, x, at, more = CASES[case](dtype)
    expected, _ = jax.vjp(lambda x: gather(x, at, *more), x)
    # Cotangents are what a computation in dtype leaves.
    cotangent = normal(*expected.shape, dtype=dtype).astype(expected.dtype)
    with tracing_for("gpu"):
        found, backward = jax.vjp(lambda x: gather(x, at, *more), x)
        (gradient,) = backward(cotangent)
    np.testing.assert_array_equal(np.asarray(found, np.float32), np.asarray(expected, np.float32))
    wide = jnp.zeros(x.shape, jnp.float32), cotangent.astype(jnp.float32)
    (wanted,) = jax.vjp(lambda x: gather(x, at, *more), wide[0])[1](wide[1])
    assert gradient.dtype == x.dtype
    rounding = 2**-8 if gradient.dtype == jnp.bfloat16 else 2**-21
    np.testing.assert_allclose(np.asarray(gradient, np.float32), wanted, rtol=rounding, atol=rounding * np.abs(wanted).max())


@pytest.mark.parametrize("case", CASES)
def test_on_a_gpu_no_gradient_is_a_scatter(case):
    gather, x, at, more = CASES[case](jnp.bfloat16)

    def gradient(x, g):
        return jax.vjp(lambda x: gather(x, at, *more), x)[1](g)

    shape = jax.eval_shape(lambda x: gather(x, at, *more), x)
    assert "scatter" in str(jax.make_jaxpr(gradient)(x, shape))
    with tracing_for("gpu"):
        assert "scatter" not in str(jax.make_jaxpr(lambda x, g: gradient(x, g))(x, shape))
