"""What is the GPU kernel's own: inner tiles, widths and types, lowering, refusals. The rest is in the suite."""

import re
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

from dnabert2_jax.errors import UserError
from dnabert2_jax.kernels.attention import alibi_slopes, attention, choose_backend, explain_choice, tracing_for
from dnabert2_jax.kernels.attention.api import attention_and_log_sum_exp
from dnabert2_jax.kernels.attention.block_sizes import GpuBlocks, gpu_blocks
from dnabert2_jax.kernels.attention.gpu.backend import visited_bounds
from tests.kernels.shapes import AttentionShape
from tests.kernels.test_attention import TRITON_WILL_GO, assert_close, attend, definition, jit, make_inputs

TOKENS = 256
bounds_of = jax.jit(visited_bounds, static_argnums=(2, 3, 4))


@given(
    cuts=st.lists(st.integers(1, TOKENS), min_size=1, max_size=5, unique=True).map(sorted),
    reverse=st.booleans(),
    sizes=st.sampled_from([(64, 16), (16, 32)]),
    radius=st.integers(0, TOKENS),
)
def test_edge_and_inner_tiles_cover_what_is_visible(cuts, reverse, sizes, radius):
    """No visible pair is left out, and inner tiles hold one sequence on one side of the diagonal."""
    own, other = sizes
    segments = np.zeros(TOKENS, np.int32)  # beyond the last cut: padding
    for number, (start, stop) in enumerate(zip([0, *cuts], cuts, strict=False), 1):
        segments[start:stop] = 10 - number if reverse else number
    bounds = np.asarray(bounds_of(segments[None], np.full((1, 1), radius, np.int32), 1, own, other))[0, 0]

    position = np.arange(TOKENS)
    visible = (segments[:, None] == segments) & (segments > 0) & (np.abs(position[:, None] - position) <= radius)
    assert (np.diff(bounds, axis=1) >= 0).all()
    for n, (start, inner_start, own_start, own_stop, inner_stop, stop) in enumerate(bounds):
        rows = slice(n * own, (n + 1) * own)
        assert not visible[rows, : start * other].any()
        assert not visible[rows, stop * other :].any()
        for first, last, side in ((inner_start, own_start, 1), (own_stop, inner_stop, -1)):
            keys = slice(first * other, last * other)
            assert (segments[rows, None] == segments[keys]).all()
            assert first == last or segments[rows].all()
            assert (side * (position[rows, None] - position[keys]) > 0).all()


def test_a_long_row_is_nearly_all_inner_tiles():
    bounds = np.asarray(bounds_of(np.ones((1, 4096), np.int32), None, 1, 128, 64))[0, 0]
    inner = (bounds[:, 2] - bounds[:, 1]) + (bounds[:, 4] - bounds[:, 3])
    assert (bounds[:, 5] - bounds[:, 0] - inner == 2).all()  # the two blocks on the diagonal are left


def test_other_widths_and_float16():
    shape = AttentionShape(1, 150, 2, 48)
    q, k, v, segments, cotangent = make_inputs(shape)
    q, k, v, cotangent = (jnp.asarray(x, jnp.float16) for x in (q, k, v, cotangent))

    def both(q, k, v, cotangent):
        output, vjp = jax.vjp(partial(attend, "pallas_gpu", slopes=alibi_slopes(2)), q, k, v)
        return output, *vjp(cotangent)

    rounded, do = [np.asarray(x, np.float32) for x in (q, k, v)], np.asarray(cotangent, np.float32)
    expected = definition(*rounded, alibi_slopes(2), segments, do)
    for found, wanted in zip(jit("pallas_gpu", both)(q, k, v, cotangent), expected, strict=True):
        assert found.dtype == jnp.float16
        assert_close(found, wanted, 3e-3, do)


def test_without_skipping_every_key_is_visited():
    q, k, v, segments, cotangent = make_inputs(AttentionShape(1, 520, 1, 32), magnitude=0.5)
    slopes = np.asarray([1.0])  # with skipping, a block would see its neighbours only
    found = jit("pallas_gpu", partial(attend, "pallas_gpu", slopes=slopes, skip=False))(*map(jnp.asarray, (q, k, v)))
    assert_close(found, definition(q, k, v, slopes, segments, cotangent)[0], 2e-6, cotangent)


def test_log_sum_exp_and_its_gradient():
    arguments = [jnp.asarray(x) for x in make_inputs(AttentionShape(1, 70, 2, 32))[:3]]
    weights = jnp.asarray(np.random.default_rng(1).standard_normal((1, 70, 2)), jnp.float32)

    def f(backend, *qkv):
        output, log_sum_exp = attend(backend, *qkv, alibi_slopes(2), function=attention_and_log_sum_exp)
        return (log_sum_exp * weights).sum() + output.sum()

    value, gradient = jit("pallas_gpu", jax.value_and_grad(partial(f, "pallas_gpu"), (0, 1, 2)))(*arguments)
    wanted, reference = jax.jit(jax.value_and_grad(partial(f, "reference"), (0, 1, 2)))(*arguments)
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    for a, b in zip(gradient, reference, strict=True):
        assert_close(a, np.asarray(b), 2e-6, weights)


@TRITON_WILL_GO
@pytest.mark.parametrize("kind", ["NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB"])
def test_lowers_for_a_gpu(kind):
    """Triton's dialect has its own rules of shapes and types, of which the interpreter knows nothing."""
    x = jax.ShapeDtypeStruct((2, 300, 4, 64), jnp.bfloat16)

    def f(q, k, v):
        with tracing_for("gpu", "9.0" if "H100" in kind else "8.0"):
            return attention(q, k, v, alibi_slopes(4), implementation="pallas_gpu").astype(jnp.float32).sum()

    # jax 0.12 asks which GPU it lowers for.
    device = AbstractDevice(kind, None, platform="gpu")
    with use_abstract_mesh(AbstractMesh((), (), abstract_device=device)):
        text = jax.jit(jax.grad(f, (0, 1, 2))).trace(x, x, x).lower(lowering_platforms=("cuda",)).as_text()
    kernels = {"alibi_attention_forward", "alibi_attention_key_gradient", "alibi_attention_query_gradient"}
    assert set(re.findall(r"alibi_attention_\w+", text)) == kernels


@pytest.mark.parametrize("capability", ["8.0", "9.0", ""])
@pytest.mark.parametrize("tokens", [1, 20, 128, 300, 131072])
def test_blocks_are_powers_of_two_no_longer_than_a_row(tokens, capability):
    for head_dim in (32, 64, 128):
        for itemsize in (2, 4):
            passes = gpu_blocks(tokens, head_dim, itemsize, capability)
            assert all(isinstance(blocks, GpuBlocks) for blocks in passes)
            for size in (size for blocks in passes for size in (blocks.own, blocks.other)):
                assert size & (size - 1) == 0
                assert 16 <= size <= max(16, 2 * tokens)
                assert passes.unit % size == 0


def test_what_it_refuses_and_what_auto_says(monkeypatch):
    with pytest.raises(UserError, match="it runs on NVIDIA GPUs, and this is a cpu"):
        choose_backend("pallas_gpu", 128)
    with tracing_for("gpu", "8.0"):
        assert choose_backend("auto", 128).name == choose_backend("auto", 131072).name == "pallas_gpu"
        assert explain_choice(128).refusals == {
            "pallas_tpu": "it runs on TPUs, and this is a gpu",
            "mosaic_gpu": "it needs compute capability 9.0 (Hopper), and this GPU has 8.0",
        }
        with pytest.raises(UserError, match="heads of 160 are wider than 128"):
            choose_backend("pallas_gpu", 512, 160)
    for capability in ("7.5", "gfx942"):
        with tracing_for("gpu", capability):
            assert choose_backend("auto", 4096).name == "chunked"
            with pytest.raises(UserError, match=f"this GPU has {capability}"):
                choose_backend("pallas_gpu", 128)
    monkeypatch.setitem(sys.modules, "jax.experimental.pallas.triton", None)  # as it will be one day
    with tracing_for("gpu", "9.0"):
        choice = explain_choice(4096)
    assert choice.backend.name == "chunked"
    assert choice.refusals["pallas_gpu"] == f"jax {jax.__version__} no longer has a Triton lowering"
