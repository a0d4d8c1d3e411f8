"""What is particular to the blocked backend; the suite that all backends share is in test_attention.py."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from dnabert2_jax.kernels.attention import Inputs, alibi_slopes
from dnabert2_jax.kernels.attention.blocked import BLOCK, WIDE, blocked_attention
from dnabert2_jax.kernels.attention.reference import reference_attention
from tests.kernels.test_attention import assert_close, definition

SCALE = 0.25  # heads are 16 wide


def draw(batch, heads, tokens, magnitude=1.0, seed=0):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(magnitude * rng.standard_normal((batch, heads, tokens, 16), np.float32)) for _ in range(4)]


@partial(jax.jit, static_argnames=("skip",))
def with_gradients(q, k, v, slopes, segments, d_output, skip=True):
    """Output, log-sum-exp, and the gradients of q, k and v under the cotangent ``d_output``."""
    results, vjp = jax.vjp(lambda *x: blocked_attention(Inputs(*x, slopes, segments), scale=SCALE, skip=skip), q, k, v)
    return *results, *vjp((d_output, jnp.zeros_like(results[1])))


@pytest.mark.parametrize("skip", [True, False])
def test_rows_that_take_wide_and_narrow_steps(skip):
    tokens = BLOCK * (WIDE + 1) + 20  # with its padding, one wide step and two narrow ones
    q, k, v, do = draw(1, 2, tokens)
    segments = np.repeat([1, 2, 0], [tokens - 60, 50, 10])[None]
    slopes = jnp.asarray([0.5, 0.001])
    swapped = [np.swapaxes(np.asarray(x), 1, 2) for x in (q, k, v, do)]
    expected = definition(*swapped[:3], slopes, segments, swapped[3])
    output, _, *gradients = with_gradients(q, k, v, slopes, jnp.asarray(segments), do, skip=skip)
    for found, wanted in zip((output, *gradients), expected, strict=True):
        assert_close(np.swapaxes(found, 1, 2), wanted, 2e-6, do)


def test_blocks_out_of_reach_are_not_read():
    """NaN spoils whatever it is multiplied with, by a weight of 0, too."""
    blocks = WIDE + 1
    q, k, v, do = draw(1, 1, blocks * BLOCK, magnitude=0.5)
    slopes, segments = jnp.asarray([0.5]), jnp.ones((1, blocks * BLOCK), jnp.int32)
    far, near = np.s_[:, :, 3 * BLOCK :], np.s_[:, :, :BLOCK]
    spoiled, spoiled_do = v.at[far].set(jnp.nan), do.at[far].set(jnp.nan)

    wanted = with_gradients(q, k, v, slopes, segments, do)
    found = with_gradients(q, k, spoiled, slopes, segments, spoiled_do)
    dense = with_gradients(q, k, spoiled, slopes, segments, spoiled_do, skip=False)
    for name, one, two, every in zip(("output", "lse", "dq", "dk", "dv"), wanted, found, dense, strict=True):
        np.testing.assert_array_equal(one[near], two[near], err_msg=name)
        if name != "lse":  # it does not depend on values
            assert np.isnan(every[near]).all(), name


def test_blocks_of_other_segments_are_not_read():
    q, k, v, do = draw(1, 1, (WIDE + 1) * BLOCK)
    segments = jnp.asarray(np.repeat([1, 2, 0], [2 * BLOCK, 2 * BLOCK, (WIDE - 3) * BLOCK])[None], jnp.int32)
    elsewhere = np.s_[:, :, 2 * BLOCK :]
    spoiled, spoiled_do = v.at[elsewhere].set(jnp.nan), do.at[elsewhere].set(jnp.nan)
    slopes = jnp.asarray([1e-6])
    wanted = with_gradients(q, k, v, slopes, segments, do, skip=False)
    found = with_gradients(q, k, spoiled, slopes, segments, spoiled_do, skip=False)
    for one, two in zip(wanted, found, strict=True):
        np.testing.assert_array_equal(one[:, :, : 2 * BLOCK], two[:, :, : 2 * BLOCK])


def test_the_log_sum_exp_and_its_gradient():
    q, k, v, _ = draw(2, 3, 75)
    segments = jnp.asarray(np.stack([np.repeat([1, 2, 0], [40, 25, 10]), np.ones(75, int)]), jnp.int32)
    weights = jnp.where(segments[:, None] > 0, jax.random.normal(jax.random.key(1), (2, 3, 75)), 0.0)

    slopes = jnp.asarray(alibi_slopes(3))

    def both(function):
        value = lambda q, k: (function(Inputs(q, k, v, slopes, segments), scale=SCALE)[1] * weights).sum()  # noqa: E731
        return jax.jit(jax.value_and_grad(value, (0, 1)))(q, k)

    (found, found_gradients), (wanted, wanted_gradients) = both(blocked_attention), both(reference_attention)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    for one, two in zip(found_gradients, wanted_gradients, strict=True):
        assert np.abs(one - two).max() <= 2e-6 * np.abs(two).max()


def test_computes_in_float32_whatever_the_inputs():
    inputs = [x.astype(jnp.bfloat16) for x in draw(1, 1, (WIDE + 1) * BLOCK)]
    slopes, segments = jnp.asarray([0.5]), jnp.ones((1, (WIDE + 1) * BLOCK), jnp.int32)
    found, *_ = with_gradients(*inputs[:3], slopes, segments, inputs[3])
    wanted, *_ = with_gradients(
        *(x.astype(jnp.float32) for x in inputs[:3]), slopes, segments, inputs[3].astype(jnp.float32)
    )
    np.testing.assert_array_equal(found, wanted.astype(jnp.bfloat16))


def test_maps_over_arrays_and_segments():
    q, k, v, _ = draw(4, 2, 60)
    segments = jnp.stack([jnp.ones(60, jnp.int32), jnp.arange(60) // 20])
    inputs = (*(x.reshape(2, 2, 2, 60, 16) for x in (q, k, v)), jnp.stack([segments, segments[::-1]]))

    def one(q, k, v, segments):
        slopes = jnp.asarray([0.5, 0.01])
        f = lambda q: jnp.sin(blocked_attention(Inputs(q, k, v, slopes, segments), scale=SCALE)[0]).sum()  # noqa: E731
        return jax.grad(f)(q)

    found = jax.jit(jax.vmap(one))(*inputs)
    for n in range(2):
        np.testing.assert_array_equal(found[n], jax.jit(one)(*(x[n] for x in inputs)))


def test_stays_on_the_shards_of_a_mesh():
    slopes = jnp.asarray([0.5, 0.1])
    x = jax.random.normal(jax.random.key(0), (4, 2, 40, 16))
    lengths = [40, 0, 0], [20, 20, 0], [0, 1, 39], [9, 9, 22]
    segments = jnp.asarray(np.stack([np.repeat([1, 2, 0], n) for n in lengths]))

    def rows(x, segments):
        return blocked_attention(Inputs(x, x, x, slopes, segments), scale=0.25)[0]

    f = jax.jit(jax.grad(lambda x: jnp.sin(rows(x, segments)).sum()))
    wanted = np.asarray(f(x))
    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((2, 2), ("data", "tensor"), axis_types=(kind, kind), devices=jax.devices()[:4])
        with jax.set_mesh(mesh):
            found = f(jax.device_put(x, NamedSharding(mesh, P("data", "tensor"))))
        assert {shard.data.shape for shard in found.addressable_shards} == {(2, 1, 40, 16)}, found.sharding
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6)

    mesh = jax.make_mesh((4,), ("rows",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    mapped = jax.shard_map(rows, mesh=mesh, in_specs=(P("rows"), P("rows")), out_specs=P("rows"))
    found = jax.jit(jax.grad(lambda x: jnp.sin(mapped(x, segments)).sum()))(x)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6)
