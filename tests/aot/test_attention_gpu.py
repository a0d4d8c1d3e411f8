"""The GPU attention kernel compiled for GPUs that are not here: registers, spills, memory (`make aot`)."""

import importlib.util
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from aot import compile_for_gpu, gpu_devices
from aot.chips import GPUS
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks.attention_gpu_memory import WAYS, step_memory
from dnabert2_jax.kernels.attention import alibi_slopes, attention, tracing_for
from tests.kernels.test_attention import TRITON_WILL_GO

pytestmark = [
    pytest.mark.aot,
    pytest.mark.skipif(
        importlib.util.find_spec("jax_plugins") is None, reason="jax's CUDA plugin is not installed; run `make aot`"
    ),
    TRITON_WILL_GO,
]

KERNELS = {"alibi_attention_forward", "alibi_attention_query_gradient", "alibi_attention_key_gradient"}


def both(q, k, v, segment_ids, cotangent, *, backend):
    slopes = jnp.asarray(alibi_slopes(q.shape[2]))
    f = lambda q, k, v: attention(q, k, v, slopes, segment_ids=segment_ids, implementation=backend)  # noqa: E731
    output, vjp = jax.vjp(f, q, k, v)
    return output, *vjp(cotangent)


def compiled(gpu, batch, tokens, *, heads=12, head_dim=64, dtype=jnp.bfloat16, devices=1, spec=None, backend="pallas_gpu"):
    mesh = Mesh(np.array(gpu_devices(gpu, devices)), ("data",))
    spec = spec or P()
    x = jax.ShapeDtypeStruct((batch, tokens, heads, head_dim), dtype, sharding=NamedSharding(mesh, spec))
    segments = jax.ShapeDtypeStruct((batch, tokens), jnp.int32, sharding=NamedSharding(mesh, P(*spec[:1])))
    with tracing_for("gpu", ".".join(map(str, GPUS[gpu].capability))):
        return compile_for_gpu(partial(both, backend=backend), x, x, x, segments, x, gpu=gpu)


@pytest.mark.parametrize(
    ("batch", "tokens"), [(64, 128), (32, 512), (1, 8192), (1, 32768), (1, 131072)], ids=lambda n: str(n)
)
@pytest.mark.parametrize("gpu", GPUS)
def test_default_blocks_spill_nothing(gpu, batch, tokens):
    program = compiled(gpu, batch, tokens)
    print(program)
    assert {kernel.name for kernel in program.kernels} == KERNELS
    assert all(kernel.spill_stores == 0 for kernel in program.kernels)
    # Beside the results: log-sum-exp, delta and what says which blocks to visit. Nothing of the size of tokens x tokens.
    assert program.memory.temporaries < batch * tokens * 12 * 64 * 2


@pytest.mark.parametrize(
    ("batch", "tokens"), [(64, 128), (32, 512), (1, 8192), (1, 32768), (1, 131072)], ids=lambda n: str(n)
)
def test_mosaic_spills_nothing_on_hopper(batch, tokens):
    program = compiled("H100", batch, tokens, backend="mosaic_gpu")
    print(program)
    assert {kernel.name for kernel in program.kernels} == KERNELS
    assert all(kernel.spill_stores == 0 for kernel in program.kernels)
    assert program.memory.temporaries < batch * tokens * 12 * 64 * 2
    assert not program.atomics


@pytest.mark.parametrize(("head_dim", "dtype"), [(32, jnp.float16), (128, jnp.bfloat16)], ids=["32", "128"])
def test_mosaic_in_other_widths(head_dim, dtype):
    program = compiled("H100", 3, 300, head_dim=head_dim, dtype=dtype, backend="mosaic_gpu")
    print(program)
    assert {kernel.name for kernel in program.kernels} == KERNELS
    # 128 wide, the sums of the gradients of keys and values take half of the registers.
    assert all(kernel.spill_stores <= 32 for kernel in program.kernels)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32], ids=["bf16", "f16", "f32"])
@pytest.mark.parametrize("head_dim", [32, 64, 128])
@pytest.mark.parametrize("gpu", GPUS)
def test_other_widths_and_types_in_rows_that_are_no_whole_blocks(gpu, head_dim, dtype):
    program = compiled(gpu, 3, 300, head_dim=head_dim, dtype=dtype)
    assert {kernel.name for kernel in program.kernels} == KERNELS
    assert all(kernel.spill_stores <= 4 for kernel in program.kernels)  # one register, at the ends of rows on an A100


@pytest.mark.parametrize("tokens", [1, 20, 70])
def test_short_rows(tokens):
    assert {kernel.name for kernel in compiled("A100", 2, tokens).kernels} == KERNELS


@pytest.mark.parametrize("spec", [P("data"), P(None, None, "data")], ids=["rows", "heads"])
def test_eight_gpus_share_rows_or_heads_without_talking(spec):
    """In plain jit over a mesh, without a `shard_map` of the caller's."""
    program = compiled("H100", 8, 512, heads=8, devices=8, spec=spec)
    text = program.compiled.as_text()
    assert set(re.findall(r"alibi_attention_\w+", text)) == KERNELS
    assert not re.search("all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter", text)
    assert program.memory.arguments < 8 * 512 * 8 * 64 * 2  # an eighth of q, k, v and dO, and the segments


@jax.numpy_dtype_promotion("standard")  # optax mixes dtypes
def test_memory_of_a_training_step_grows_linearly():
    short, long = (step_memory("H100", WAYS["pallas_gpu"], tokens).temporaries for tokens in (4096, 8192))
    assert short < long < 2 * short
    assert step_memory("H100", WAYS["reference"], 4096).temporaries > 3 * long
