"""What `model.precision` becomes in programs for accelerators that are not here, read from their optimized HLO."""

import importlib.util
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from aot import compile_for_gpu, compile_for_tpu, gpu_devices, tpu_devices
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dnabert2_jax.config.model import EncoderConfig
from dnabert2_jax.modeling.compute import Compute
from dnabert2_jax.modeling.models import masked_lm
from dnabert2_jax.platform import tracing_for
from dnabert2_jax.types import TokenBatch

pytestmark = pytest.mark.aot

TINY = EncoderConfig(vocab_size=256, hidden_size=256, num_hidden_layers=2, num_attention_heads=4, intermediate_size=512)
ROWS, TOKENS, MASKED = 16, 128, 16
EXACT = re.compile(r"operand_precision=\{highest,highest\\?\}|\"operand_precision\":\[\"HIGHEST\",\"HIGHEST\"\]")
PRODUCT = re.compile(r" (?:dot|convolution)\(|__cublas\$|__triton_gemm")


def gradient_of_loss(precision, device):
    """A function and its abstract arguments: the gradient of a masked language model's loss in a precision."""
    network = masked_lm(TINY, Compute(precision, "reference"))
    whole = NamedSharding(Mesh(np.array([device]), ("data",)), P())

    def array(dtype, *shape):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=whole)

    def loss(params, tokens, positions):
        return network.bind(params).logits(tokens, positions).sum()

    params = jax.tree.map(lambda leaf: array(leaf.dtype, *leaf.shape), network.abstract())
    tokens = TokenBatch(*(array(jnp.int32, ROWS, TOKENS) for _ in TokenBatch._fields))
    return jax.grad(loss), params, tokens, array(jnp.int32, ROWS, MASKED)


def float32_products(text):
    """Instructions of an optimized program that multiply float32 matrices, one line each."""
    found = [line for line in text.splitlines() if PRODUCT.search(line) and "bf16[" not in line and "f32[" in line]
    assert len(found) > 5
    return found


@pytest.mark.skipif(importlib.util.find_spec("jax_plugins") is None, reason="no CUDA plugin; run `make aot`")
@pytest.mark.parametrize(("gpu", "generation"), [("A100", "8.0"), ("H100", "9.0")])
def test_on_a_gpu_float32_asks_for_exact_products_and_tf32_does_not(gpu, generation):
    exact = {}
    for precision in ("float32", "tf32"):
        with tracing_for("gpu", generation):
            compiled = compile_for_gpu(*gradient_of_loss(precision, gpu_devices(gpu)[0]), gpu=gpu)
        products = float32_products(compiled.compiled.as_text())
        exact[precision] = sum(bool(EXACT.search(line)) for line in products) / len(products)
    assert exact["float32"] == 1
    assert exact["tf32"] < 0.2


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed; run `make aot`")
def test_on_a_tpu_float32_asks_for_exact_products_and_tf32_does_not():
    exact = {}
    for precision in ("float32", "tf32"):
        with tracing_for("tpu", "v5e"):
            compiled = compile_for_tpu(*gradient_of_loss(precision, tpu_devices("v5e:2x2")[0]), topology="v5e:2x2")
        products = float32_products(compiled.compiled.as_text())
        exact[precision] = sum(bool(EXACT.search(line)) for line in products) / len(products)
    assert exact["float32"] == 1
    assert exact["tf32"] < 0.2
