"""The products of a CPU in either precision against einsum in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dnabert2_jax.kernels.attention import tracing_for
from dnabert2_jax.modeling.matmul import einsum

SIZES = dict(zip("btcdhior", (3, 10, 24, 8, 4, 24, 40, 2), strict=True))
AXES = ["bti,io->bto", "bi,io->bo", "btc,chd->bhtd", "btc,chd->bhdt", "bthd,hdc->btc", "bhdt,hdc->btc", "btc,cr->btr"]


def arguments(axes: str, dtype: jnp.dtype = jnp.bfloat16) -> list[jax.Array]:
    """Two factors and a cotangent, normal, of either sign."""
    rng = np.random.default_rng(0)
    return [
        jnp.asarray(rng.normal(size=[SIZES[letter] for letter in letters]), dtype)
        for letters in axes.replace("->", ",").split(",")
    ]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("axes", AXES)
def test_product_and_gradients_are_those_of_einsum(axes: str, dtype: jnp.dtype) -> None:
    x, weight, cotangent = arguments(axes, dtype)
    output, backward = jax.vjp(lambda x, w: einsum(axes, x, w), x, weight)
    wide = [array.astype(jnp.float32) for array in (x, weight)]
    expected, plain_backward = jax.vjp(lambda x, w: jnp.einsum(axes, x, w), *wide)
    found = [output, *backward(cotangent)]
    for actual, wanted in zip(found, [expected, *plain_backward(cotangent.astype(jnp.float32))], strict=True):
        assert actual.dtype == dtype
        assert actual.shape == wanted.shape
        scale, rounding = float(jnp.abs(wanted).max()), 2**-9 if dtype == jnp.bfloat16 else 2**-22
        np.testing.assert_allclose(np.asarray(actual, np.float32), wanted, rtol=2 * rounding, atol=rounding * scale)


def test_leading_axes_may_be_any() -> None:
    x, weight, _ = arguments("bti,io->bto")
    everything = einsum("...i,io->...o", x, weight)
    for row, expected in zip(x, everything, strict=True):
        np.testing.assert_array_equal(einsum("...i,io->...o", row, weight), expected)
    np.testing.assert_array_equal(einsum("...i,io->...o", x[0, 0], weight), everything[0, 0])


@pytest.mark.parametrize("platform", ["tpu", "gpu"])
def test_elsewhere_a_product_is_one_einsum(platform: str) -> None:
    x, weight, _ = arguments("btc,chd->bhtd")
    with tracing_for(platform):
        ours = jax.make_jaxpr(lambda x, w: einsum("btc,chd->bhtd", x, w))(x, weight)
    assert str(ours) == str(jax.make_jaxpr(lambda x, w: jnp.einsum("btc,chd->bhtd", x, w))(x, weight))


def test_on_a_cpu_bfloat16_goes_to_the_kernels_that_take_it() -> None:
    """In the compiled program every product, one forward and two backward, has bfloat16 factors: none was widened."""
    x, weight, cotangent = (jnp.zeros(shape, jnp.bfloat16) for shape in ((4, 64, 256), (256, 512), (4, 64, 512)))

    def both(x: jax.Array, weight: jax.Array, cotangent: jax.Array) -> object:
        output, backward = jax.vjp(lambda x, w: einsum("bti,io->bto", x, w), x, weight)
        return output, backward(cotangent)

    program = jax.jit(both).lower(x, weight, cotangent).compile().as_text()
    dots = [line for line in program.splitlines() if " dot(" in line]
    assert len(dots) == 3
    names = {name.split("(")[0].strip(" ,)") for line in dots for name in line.split(" dot(")[1].split(")")[0].split("%")}
    for name in filter(None, names):
        assert any(f"%{name} = bf16[" in line for line in program.splitlines()), name
