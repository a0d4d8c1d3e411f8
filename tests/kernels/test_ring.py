"""Attention in rows whose tokens devices share is attention in whole rows, forward and backward."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from dnabert2_jax.errors import UserError
from dnabert2_jax.kernels.attention import Inputs, alibi_slopes
from dnabert2_jax.kernels.attention.api import attention_and_log_sum_exp
from dnabert2_jax.kernels.attention.blocked import BlockedKernel
from dnabert2_jax.kernels.attention.ring import Ring
from tests.kernels.shapes import AttentionShape
from tests.kernels.test_attention import TOLERANCE, TRITON_WILL_GO, assert_close, attend, definition, make_inputs

pytestmark = TRITON_WILL_GO

SHAPE = AttentionShape(2, 216, 3, 16)  # up to eight devices; shares of 27 are no whole blocks
SLOPES = {"wide": np.float32([0.002, 0.05, 0.2]), "steep": np.float32([1, 2, 4])}
"""The steep ones end within one to three shares of eight."""


def mesh_of(sequence, rows=1):
    kinds = (AxisType.Auto,) * 2
    return jax.make_mesh((rows, sequence), ("data", "sequence"), axis_types=kinds, devices=jax.devices()[: rows * sequence])


def with_gradients(function, mesh):
    """Output, log-sum-exp and gradients of ``function(q, k, v, segments)`` under two cotangents, all [B, T, ...]."""

    def both(q, k, v, segments, d_output, d_log_sum_exp):
        results, vjp = jax.vjp(lambda *x: function(*x, segments), q, k, v)
        return *results, *vjp((d_output, d_log_sum_exp))

    spread = P("data", "sequence")
    return jax.jit(jax.shard_map(both, mesh=mesh, in_specs=spread, out_specs=spread, check_vma=False))


def in_short_blocks(q, k, v, segments, *, slopes, skip=True, block=16):
    """Several blocks to a share of these short rows; [B, T, ...]."""
    scale = q.shape[3] ** -0.5
    ring = Ring(scale, skip, BlockedKernel(scale, skip), block)
    output, log_sum_exp = ring(Inputs(*(jnp.swapaxes(x, 1, 2) for x in (q, k, v)), jnp.asarray(slopes), segments))
    return jnp.swapaxes(output, 1, 2), jnp.swapaxes(log_sum_exp, 1, 2)


def expected(q, k, v, slopes, segments, d_output, d_log_sum_exp):
    """Output, log-sum-exp, and the gradients under both cotangents, in float64."""
    scores = q.shape[3] ** -0.5 * np.einsum("bihd,bjhd->bijh", *(x.astype(np.float64) for x in (q, k)))
    position = np.arange(q.shape[1])
    scores -= np.asarray(slopes, np.float64) * np.abs(position[:, None] - position)[None, :, :, None]
    visible = (segments[:, :, None] == segments[:, None]) & (segments > 0)[:, None]
    exponents = np.where(visible[..., None], np.exp(scores), 0)
    total = exponents.sum(2)
    log_sum_exp = np.log(np.where(segments[:, :, None] > 0, total, 1))
    d_scores = exponents / np.where(total > 0, total, 1)[:, :, None] * d_log_sum_exp[:, :, None] * q.shape[3] ** -0.5
    output, dq, dk, dv = definition(q, k, v, slopes, segments, d_output)
    return (
        output,
        log_sum_exp,
        dq + np.einsum("bijh,bjhd->bihd", d_scores, k),
        dk + np.einsum("bijh,bihd->bjhd", d_scores, q),
        dv,
    )


def assert_right(found, q, k, v, slopes, segments, cotangents, tolerance):
    wanted = expected(q, k, v, slopes, segments, *cotangents)
    real = (segments > 0)[:, :, None]
    found = [found[0], np.where(real, found[1], 0), *found[2:]]  # a log-sum-exp of padding is undefined
    for one, other in zip(found, wanted, strict=True):
        assert_close(one, other, tolerance, cotangents[0])


def draw(shape, seed=0):
    q, k, v, segments, d_output = make_inputs(shape, seed)
    d_log_sum_exp = np.random.default_rng(seed + 1).standard_normal(d_output.shape[:3], np.float32)
    return q, k, v, segments, (d_output, d_log_sum_exp * (segments > 0)[:, :, None])


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("slopes", list(SLOPES))
@pytest.mark.parametrize("packed", [0, 3])
@pytest.mark.parametrize("devices", [8, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 4))])
def test_shares_of_a_row_give_what_the_whole_row_gives(devices, packed, slopes, skip):
    q, k, v, segments, cotangents = draw(SHAPE._replace(packed=packed))
    run = with_gradients(partial(in_short_blocks, slopes=SLOPES[slopes], skip=skip), mesh_of(devices))
    found = run(q, k, v, segments, *cotangents)
    assert_right(found, q, k, v, SLOPES[slopes], segments, cotangents, 2e-6)


@pytest.mark.parametrize(
    ("backend", "dtype"),
    [
        ("blocked", jnp.bfloat16),
        ("pallas_tpu", jnp.float32),
        ("pallas_tpu", jnp.bfloat16),
        ("pallas_gpu", jnp.float32),
        pytest.param("pallas_gpu", jnp.bfloat16, marks=pytest.mark.slow),
    ],
)
def test_every_kernel_can_be_that_of_a_devices_own_tokens(backend, dtype):
    q, k, v, segments, cotangents = draw(AttentionShape(2, 400, 4, 32, packed=3))
    rounded = [np.asarray(jnp.asarray(x, dtype), np.float32) for x in (q, k, v)]
    slopes, do = alibi_slopes(4), np.asarray(jnp.asarray(cotangents[0], dtype), np.float32)

    def run(q, k, v, segments):
        return attend(backend, q, k, v, slopes, attention_and_log_sum_exp, segment_ids=segments)

    arrays = (jnp.asarray(x, dtype) for x in (q, k, v))
    found = with_gradients(run, mesh_of(2))(*arrays, segments, do.astype(dtype), cotangents[1])
    assert [x.dtype for x in found] == [dtype, jnp.float32, dtype, dtype, dtype]
    assert_right(found, *rounded, slopes, segments, (do, cotangents[1]), TOLERANCE[dtype])


def test_nothing_beyond_the_radius_is_sent():
    """NaN spoils whatever it is multiplied with, by a weight of 0, too; it is in the neighbor's farther half."""
    tokens, slopes = 4096, np.float32([1.0])  # a neighbor's own kernel must skip, too
    q, k, v, segments, cotangents = draw(AttentionShape(1, tokens, 1, 16))
    q, k = q / 4, k / 4
    spoiled_v, spoiled_do = v.copy(), cotangents[0].copy()
    spoiled_v[:, : tokens // 4] = spoiled_do[:, : tokens // 4] = np.nan
    mesh, second = mesh_of(2), np.s_[:, tokens // 2 :]
    near, every = (
        with_gradients(partial(in_short_blocks, slopes=slopes, skip=skip, block=128), mesh) for skip in (True, False)
    )
    wanted = near(q, k, v, segments, *cotangents)
    found = near(q, k, spoiled_v, segments, spoiled_do, cotangents[1])
    spoiled = every(q, k, spoiled_v, segments, spoiled_do, cotangents[1])
    for n, (one, two, three) in enumerate(zip(wanted, found, spoiled, strict=True)):
        np.testing.assert_array_equal(one[second], two[second])
        assert n == 1 or np.isnan(three[second]).any()  # a log-sum-exp does not depend on values


def test_rows_of_other_devices_need_not_reach_as_far():
    """Long vectors in one of the rows: devices with other rows send as many blocks, and use as few as before."""
    q, k, v, segments, cotangents = draw(SHAPE._replace(batch=4))
    q[0], k[0] = 3 * q[0], 3 * k[0]
    run = with_gradients(partial(in_short_blocks, slopes=SLOPES["steep"]), mesh_of(4, rows=2))
    found = run(q, k, v, segments, *cotangents)
    assert_right(found, q, k, v, SLOPES["steep"], segments, cotangents, 5e-6)


def test_a_backend_that_would_see_only_one_devices_tokens_refuses():
    q, k, v, segments, cotangents = draw(AttentionShape(1, 64, 2, 16))
    for backend in ("reference", "chunked"):
        run = partial(attend, backend, slopes=alibi_slopes(2), function=attention_and_log_sum_exp)
        shared = with_gradients(lambda q, k, v, segments, run=run: run(q, k, v, segment_ids=segments), mesh_of(2))
        with pytest.raises(
            UserError, match=f"'{backend}' cannot be used here: it needs whole rows, and 2 devices share them"
        ):
            shared(q, k, v, segments, *cotangents)
