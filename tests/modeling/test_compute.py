"""The precision of every product of a model, forward and backward, as it is traced for each platform."""

from contextlib import nullcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dnabert2_jax.config.model import LoraConfig
from dnabert2_jax.modeling.compute import Compute
from dnabert2_jax.modeling.lora import init_adapter
from dnabert2_jax.modeling.models import masked_lm, sequence_classifier
from dnabert2_jax.platform import tracing_for
from tests.modeling.helpers import TINY, equations, random_tokens

HIGHEST = (jax.lax.Precision.HIGHEST,) * 2


def products(function, *arguments, platform):
    """(dtype of the factors, precision) of every product in a function and its gradient."""
    with tracing_for(platform) if platform else nullcontext():
        traced = jax.make_jaxpr(jax.grad(lambda *x: jnp.sum(function(*x).astype(jnp.float32))))(*arguments)
    return [(x.invars[0].aval.dtype, x.params["precision"]) for x in equations(traced.jaxpr, "dot_general")]


def masked_logits(compute):
    network, tokens = masked_lm(TINY, compute), random_tokens()
    positions = jnp.zeros((len(tokens.input_ids), 2), jnp.int32)
    return lambda params: network.bind(params).logits(tokens, positions), network.init(0)


def lora_logits(compute):
    network, tokens, lora = sequence_classifier(TINY, 3, compute), random_tokens(), LoraConfig(rank=2)
    params = network.init(0)
    return lambda adapter: network.bind(params).logits(tokens, adapter=adapter, lora=lora), init_adapter(TINY, lora, 0)


@pytest.mark.parametrize("attention", ["reference", "blocked"])
@pytest.mark.parametrize("logits", [masked_logits, lora_logits])
@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_float32_is_float32_in_every_product(platform, logits, attention):
    found = products(*logits(Compute("float32", attention)), platform=platform)
    assert len(found) > 20
    assert set(found) == {(jnp.dtype("float32"), HIGHEST)}


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_tf32_is_a_choice_of_its_own_and_leaves_the_exact_products_alone(platform):
    found = products(*masked_logits(Compute("tf32", "blocked")), platform=platform)
    (rounded,) = {precision for _, precision in found} - {HIGHEST}
    assert "TF32" in str(rounded).upper() or rounded == (jax.lax.Precision.HIGH,) * 2
    layers = [precision for _, precision in found].count(rounded)
    assert layers > len(found) / 2
    assert {dtype for dtype, _ in found} == {jnp.dtype("float32")}


@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_on_a_cpu_the_result_is_the_same(precision):
    logits, params = masked_logits(Compute(precision, "reference"))
    expected, _ = masked_logits(Compute("float32", "reference"))
    np.testing.assert_array_equal(jax.jit(logits)(params), jax.jit(expected)(params))
