"""Compiling for GPUs that are not here; needs jax's CUDA plugin and the CUDA assembler (`make aot`)."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from aot import compile_for_gpu, gpu_devices
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dnabert2_jax.errors import UserError

needs_cuda = pytest.mark.skipif(
    importlib.util.find_spec("jax_plugins") is None, reason="jax's CUDA plugin is not installed; run `make aot`"
)
pytestmark = pytest.mark.aot


def array(shape, gpu, dtype=jnp.bfloat16):
    mesh = Mesh(np.array(gpu_devices(gpu)), ("data",))
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, P()))


def call(x, rows, warps):
    """exp(x x^T) with a tile of rows x rows for each program."""
    tokens, width = x.shape
    return pl.pallas_call(
        lambda a_ref, b_ref, out_ref: out_ref.__setitem__(
            ..., jnp.exp(triton.dot(a_ref[...], b_ref[...].T)).astype(x.dtype)
        ),
        grid=(tokens // rows, tokens // rows),
        in_specs=[pl.BlockSpec((rows, width), lambda i, j: (i, 0)), pl.BlockSpec((rows, width), lambda i, j: (j, 0))],
        out_specs=pl.BlockSpec((rows, rows), lambda i, j: (i, j)),
        out_shape=jax.ShapeDtypeStruct((tokens, tokens), x.dtype),
        compiler_params=triton.CompilerParams(num_warps=warps, num_stages=2),
        name="similarity",
    )(x, x)


@needs_cuda
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # jax 0.11 and later announce the end of Triton lowering
@pytest.mark.parametrize("gpu", ["H100", "A100"])
def test_registers_and_spills_of_a_kernel(gpu):
    compiled = compile_for_gpu(lambda x: call(x, rows=64, warps=4), array((1024, 64), gpu), gpu=gpu)
    (kernel,) = compiled.kernels
    assert kernel.name == "similarity"
    assert 0 < kernel.registers <= 255
    assert (kernel.spill_stores, kernel.spill_loads) == (0, 0)
    assert compiled.memory.outputs == 1024 * 1024 * 2


@needs_cuda
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_tile_too_large_for_the_registers_spills():
    compiled = compile_for_gpu(lambda x: call(x, rows=128, warps=2), array((1024, 64), "A100"), gpu="A100")
    assert compiled.kernels[0].spill_stores > 0


@needs_cuda
@pytest.mark.parametrize("gpu", ["H100", "A100"])
def test_temporaries_are_what_lives_between_two_products(gpu):
    tokens = 4096
    x, w = array((tokens, 256), gpu), array((256, 256), gpu)
    compiled = compile_for_gpu(lambda x, w: jnp.sum(jax.nn.softmax(x @ x.T) @ (x @ w)), x, w, gpu=gpu)
    scores = tokens * tokens * 2
    assert scores <= compiled.memory.temporaries < 4 * scores
    assert compiled.memory.arguments == (tokens * 256 + 256 * 256) * 2


@needs_cuda
def test_eight_gpus_of_one_machine():
    assert len(gpu_devices("H100", 8)) == 8


def test_a_gpu_without_figures():
    with pytest.raises(UserError, match=r"'H200' \(did you mean 'H100'"):
        gpu_devices("H200")
