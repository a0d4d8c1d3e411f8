"""The TPU attention kernel compiled for every generation, on shards, and within its budget of cycles (`make aot`)."""

import importlib.util
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from aot import KernelRun, compile_for_tpu, tpu_devices
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dnabert2_jax.kernels.attention import alibi_slopes, attention, tracing_for
from dnabert2_jax.kernels.attention.block_sizes import tpu_blocks
from dnabert2_jax.platform import vmem_bytes

pytestmark = [
    pytest.mark.aot,
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed; run `make aot`"),
]

TOPOLOGIES = {"v4": "v4:2x2x1", "v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
COLLECTIVE = re.compile("all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter")


def both(q, k, v, segment_ids, cotangent):
    """Output and gradients, as a layer of the encoder would ask for them."""
    slopes = jnp.asarray(alibi_slopes(q.shape[2]))
    f = lambda q, k, v: attention(q, k, v, slopes, segment_ids=segment_ids, implementation="pallas_tpu")  # noqa: E731
    output, vjp = jax.vjp(f, q, k, v)
    return output, *vjp(cotangent)


def compiled(topology, mesh, batch, tokens, *, heads=12, head_dim=64, dtype=jnp.bfloat16, spec=None, function=both):
    spec = spec or P()
    generation = topology.partition(":")[0]
    x = jax.ShapeDtypeStruct((batch, tokens, heads, head_dim), dtype, sharding=NamedSharding(mesh, spec))
    segments = jax.ShapeDtypeStruct((batch, tokens), jnp.int32, sharding=NamedSharding(mesh, P(*spec[:1])))
    with tracing_for("tpu", generation), jax.set_mesh(mesh):
        return compile_for_tpu(function, x, x, x, segments, x, topology=topology)


def one_chip(topology):
    return Mesh(np.array(tpu_devices(topology)[:1]), ("data",), axis_types=(AxisType.Auto,))


@pytest.mark.parametrize("tokens", [128, 500, 8192, 32768, 131072])
@pytest.mark.parametrize("generation", TOPOLOGIES)
def test_both_passes_compile_and_fit(generation, tokens):
    topology = TOPOLOGIES[generation]
    program = compiled(topology, one_chip(topology), 1, tokens)
    expected = {"alibi_attention_short_forward", "alibi_attention_short_backward"}
    if tokens > 128:
        passes = ("longest", "forward", "products", "backward")
        expected = {f"alibi_attention_{name}" for name in passes}
    names = {name.rpartition(".")[0] for name in program.schedules}
    assert names == expected
    # Nothing of the size of tokens x tokens: what is temporary is at most q, k, v and their gradients, and dQ in float32.
    array = 12 * 64 * tpu_blocks(tokens).tokens * 2
    assert program.memory.temporaries < 12 * array + 2**20


@pytest.mark.parametrize(
    ("head_dim", "dtype"), [(32, jnp.bfloat16), (40, jnp.bfloat16), (128, jnp.bfloat16), (64, jnp.float32)]
)
@pytest.mark.parametrize("tokens", [128, 1024])
def test_other_widths_and_float32_compile(tokens, head_dim, dtype):
    topology = TOPOLOGIES["v5e"]
    compiled(topology, one_chip(topology), 2, tokens, heads=4, head_dim=head_dim, dtype=dtype)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
@pytest.mark.parametrize("tokens", [128, 2048])
def test_rows_and_heads_stay_on_their_devices(tokens, kind):
    topology = "v5e:4x4"
    mesh = Mesh(np.array(tpu_devices(topology)).reshape(4, 4), ("data", "tensor"), axis_types=(kind, kind))
    program = compiled(topology, mesh, 8, tokens, spec=P("data", None, "tensor", None))
    assert not COLLECTIVE.search(program.compiled.as_text())
    whole = 8 * tokens * 12 * 64 * 2
    assert program.memory.outputs == pytest.approx(4 * whole / 16, rel=0.01)
    assert program.schedules


def test_a_scanned_and_rematerialised_stack_on_shards_compiles():
    def stack(q, k, v, segment_ids, cotangent):
        slopes = jnp.asarray(alibi_slopes(q.shape[2]))

        @jax.checkpoint
        def layer(x, _):
            return attention(x, x * k, v, slopes, segment_ids=segment_ids, implementation="pallas_tpu"), None

        return jax.grad(lambda q: (jax.lax.scan(layer, q, length=3)[0] * cotangent).sum().astype(jnp.float32))(q)

    mesh = Mesh(np.array(tpu_devices("v5e:2x2")).reshape(4), ("data",), axis_types=(AxisType.Auto,))
    program = compiled("v5e:2x2", mesh, 8, 1024, spec=P("data"), function=stack)
    assert not COLLECTIVE.search(program.compiled.as_text())


def test_cycles_stay_within_their_budget():
    """One row of 2,048 tokens without skipping on v5e; figures are the business of benchmarks/attention.py."""
    topology, tokens, heads = TOPOLOGIES["v5e"], 2048, 12
    program = compiled(topology, one_chip(topology), 1, tokens, heads=heads)
    blocks = tpu_blocks(tokens)

    def visits(own, other):
        """Blocks beside the diagonal and on it, when every block is visited."""
        on_diagonal = heads * (tokens // own) * max(own // other, 1)
        return heads * (tokens // own) * (tokens // other) - on_diagonal, on_diagonal

    forward = visits(blocks.queries, blocks.keys)
    backward = visits(blocks.backward_keys, blocks.backward_queries)
    steps = heads * tokens // blocks.backward_queries
    report = program.report(
        {
            "alibi_attention_forward": KernelRun((heads * tokens // blocks.keys, heads, *forward, 0)),
            "alibi_attention_backward": KernelRun((steps, heads, *backward, steps)),
        }
    )
    tiles = heads * (tokens // 128) ** 2
    cycles = {kernel.kernel: kernel.cycles / tiles for kernel in report.account.kernels}
    assert 48 <= cycles["alibi_attention_forward"] < 65  # 48 is what the matrix units need
    assert 112 <= cycles["alibi_attention_backward"] < 130
    assert all(kernel.vmem < vmem_bytes("v5e") for kernel in report.account.kernels)


def test_short_rows_are_bound_by_memory():
    topology, rows = TOPOLOGIES["v5e"], 64
    report = compiled(topology, one_chip(topology), rows, 128).report()
    pairs = rows * 12
    for kernel in report.account.kernels:
        budget = 130 if kernel.kernel.endswith("forward") else 260
        assert kernel.cycles < budget * pairs


def test_without_a_current_mesh_shards_are_refused_not_gathered():
    """The kernel cannot know the shards; XLA says so at compile time, and what helps is `jax.set_mesh`."""
    mesh = Mesh(np.array(tpu_devices("v5e:2x2")).reshape(4), ("data",), axis_types=(AxisType.Auto,))
    x = jax.ShapeDtypeStruct((8, 1024, 12, 64), jnp.bfloat16, sharding=NamedSharding(mesh, P("data")))
    f = partial(attention, slopes=jnp.asarray(alibi_slopes(12)), implementation="pallas_tpu")
    with tracing_for("tpu", "v5e"), pytest.raises(Exception, match="Mosaic kernels cannot be automatically partitioned"):
        compile_for_tpu(f, x, x, x, topology="v5e:2x2")
