"""What is the TPU kernel's own: races, both references of its softmax, block sizes, refusals. The rest is in the suite."""

from dataclasses import replace
from functools import partial

import jax
import jax._src.pallas.mosaic.interpret.interpret_pallas_call as interpreter
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from dnabert2_jax.errors import UserError
from dnabert2_jax.kernels.attention import alibi_slopes, attention, choose_backend, explain_choice, tracing_for
from dnabert2_jax.kernels.attention.api import attention_and_log_sum_exp
from dnabert2_jax.kernels.attention.block_sizes import row_fits, tpu_blocks
from dnabert2_jax.kernels.attention.skipping import score_bound
from dnabert2_jax.kernels.attention.tpu import tile
from dnabert2_jax.kernels.attention.tpu.forward import SAFE_BOUND
from dnabert2_jax.platform import TPUS, vmem_bytes
from tests.kernels.shapes import AttentionShape
from tests.kernels.test_attention import assert_close, attend, compiled, definition, jit, make_inputs


@pytest.fixture(scope="module")
def long_row():
    """Two rows of several blocks: in one the own key's score may serve as the softmax's reference, in the other not."""
    q, k, v, segments, cotangent = make_inputs(AttentionShape(2, 600, 2, 32))
    segments[0, :200], segments[0, 550:] = 2, 0
    q[1] *= 6
    slopes = alibi_slopes(2)
    bound = score_bound(*map(jnp.asarray, (q, k, segments)), 32**-0.5, layout="bthd")
    assert (bound[0] < SAFE_BOUND).all()
    assert (bound[1] > SAFE_BOUND).all()
    arguments = (q, k, v, slopes, segments, cotangent)
    return arguments, definition(q, k, v, slopes, segments, cotangent)


@pytest.mark.parametrize("generation", ["v5e", "tiny"], ids=["resident", "streamed"])
def test_no_races_and_nothing_read_before_it_is_written(long_row, generation, monkeypatch):
    tiny = replace(TPUS["v5e"], vmem_bytes=8 * 2**20)  # as much as the blocks take: no room for a row
    monkeypatch.setitem(TPUS, "tiny", tiny)
    (q, k, v, slopes, segments, cotangent), expected = long_row
    interpret = pltpu.InterpretParams(detect_races=True, uninitialized_memory="nan")
    with tracing_for("tpu", generation, interpret=interpret):
        f = partial(attention, slopes=jnp.asarray(slopes), segment_ids=jnp.asarray(segments), implementation="pallas_tpu")
        output, vjp = jax.vjp(f, *map(jnp.asarray, (q, k, v)))
        found = (output, *vjp(jnp.asarray(cotangent)))
    assert not interpreter.races.races_found
    for one, wanted in zip(found, expected, strict=True):
        assert_close(one, wanted, 1e-5, cotangent)  # scores reach 60: float32 keeps 4e-6 of an exponent there


def test_without_skipping_every_key_is_visited(long_row):
    (q, k, v, slopes, segments, cotangent), expected = long_row
    f = partial(attend, "pallas_tpu", slopes=slopes, segment_ids=jnp.asarray(segments), skip=False)
    found = jit("pallas_tpu", f)(*map(jnp.asarray, (q, k, v)))
    assert_close(found, expected[0], 1e-5, cotangent)


@pytest.mark.parametrize("longest", [0.0, 200.0], ids=["own_reference", "running_maximum"])
def test_one_far_key_with_the_largest_score_is_seen(longest):
    """The key at the other end of the row outweighs its distance: skipping must not cut it off."""
    tokens, head_dim = 700, 32
    rng = np.random.default_rng(0)
    q, k, v = (0.1 * rng.standard_normal((1, tokens, 1, head_dim)) for _ in range(3))
    q[..., 0], k[0, -1, 0, 0] = 1.0, 14 * head_dim**0.5
    k[0, 350, 0, 1] = longest  # hardly in the direction of any query: it raises the bound, not the scores
    slopes = np.asarray([0.014])  # takes 9.8 off the far key's score of 14
    v[0, -1] = 1.0
    arguments = [np.asarray(x, np.float32) for x in (q, k, v)]
    segments, cotangent = np.ones((1, tokens), np.int32), np.ones_like(arguments[0])
    expected = definition(*arguments, slopes, segments, cotangent)
    assert expected[0][0, 0, 0].mean() > 0.1  # token 0 sees the last one
    found = compiled("pallas_tpu", (0.014,))(*arguments, segments, cotangent)
    for one, wanted in zip(found, expected, strict=True):
        assert_close(one, wanted, 5e-6, cotangent)


def test_log_sum_exp_and_its_gradient():
    arguments = [jnp.asarray(x) for x in make_inputs(AttentionShape(1, 140, 2, 32))[:3]]
    weights = jnp.asarray(np.random.default_rng(1).standard_normal((1, 140, 2)), jnp.float32)

    def f(backend, *qkv):
        output, log_sum_exp = attend(backend, *qkv, alibi_slopes(2), function=attention_and_log_sum_exp)
        return (log_sum_exp * weights).sum() + output.sum()

    for backend in ("pallas_tpu", "blocked"):
        value, gradient = jit(backend, jax.value_and_grad(partial(f, backend), (0, 1, 2)))(*arguments)
        wanted, reference = jax.value_and_grad(partial(f, "reference"), (0, 1, 2))(*arguments)
        np.testing.assert_allclose(value, wanted, rtol=1e-5)
        for a, b in zip(gradient, reference, strict=True):
            assert_close(a, np.asarray(b), 2e-6, weights)


@pytest.mark.parametrize("tokens", [1, 128, 129, 300, 512, 530, 2048, 5000, 131072])
def test_blocks_cover_a_row_with_little_padding(tokens):
    blocks = tpu_blocks(tokens)
    assert 0 <= blocks.tokens - tokens < 512
    assert all(blocks.tokens % size == 0 and size % tile.LANES == 0 for size in blocks[1:])
    assert blocks.tokens < 2 * max(tokens, 128)


def test_a_distance_is_the_sum_of_its_parts():
    """Keys' part plus queries' part is the whole bias, to float32, whatever the slope."""
    for side, first_query, first_key in ((tile.BEFORE, 1024, 256), (tile.BEHIND, 256, 1024)):
        slopes = jnp.asarray(alibi_slopes(12))
        rows = tile.key_bias(slopes, 0.125, 256, jnp.bfloat16).astype(jnp.float32)
        chosen = tile.query_bias(side, 128, jnp.bfloat16).astype(jnp.float32)
        keys_part = jnp.einsum("hfk,fq->hkq", rows, chosen, precision="highest") * 0.125
        shift = tile.query_shift(jnp.asarray(side), jnp.asarray(first_query), jnp.asarray(first_key), 256, 128)
        distance = jnp.abs(first_key + jnp.arange(256)[:, None] - first_query - jnp.arange(128)).astype(jnp.float32)
        wanted = -slopes[:, None, None] * distance
        np.testing.assert_allclose(keys_part - slopes[:, None, None] * shift, wanted, rtol=3e-7)


def test_what_it_refuses_and_what_auto_says():
    with pytest.raises(UserError, match="it runs on TPUs, and this is a cpu"):
        choose_backend("pallas_tpu", 128)
    assert explain_choice(128).refusals["pallas_tpu"] == "it runs on TPUs, and this is a cpu"
    with tracing_for("tpu", "v5e"):
        assert choose_backend("auto", 128).name == "pallas_tpu"
        assert choose_backend("auto", 131072, 64).name == "pallas_tpu"
        choice = explain_choice(512, head_dim=160)
        assert choice.backend.name == "reference"
        assert choice.refusals["pallas_tpu"] == "heads of 160 are wider than 128"
        with pytest.raises(UserError, match="heads of 160"):
            choose_backend("pallas_tpu", 512, 160)
        x = jnp.zeros((1, 8, 2, 32), jnp.float16)
        with pytest.raises(UserError, match="found float16"):
            attention(x, x, x, alibi_slopes(2), implementation="pallas_tpu")


def test_rows_are_held_on_the_chip_while_they_fit():
    assert row_fits(65536, 64, 2, vmem_bytes("v5e")) == (True, True)
    assert row_fits(131072 - 8192, 64, 2, vmem_bytes("v5e")) == (True, False)
    assert row_fits(65536, 64, 2, vmem_bytes("v5p")) == (False, False)
    assert row_fits(4096, 64, 2, vmem_bytes("v4")) == (True, True)
    assert row_fits(16384, 128, 4, vmem_bytes("v4")) == (False, False)
