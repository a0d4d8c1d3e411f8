"""Block ranges against brute force over tokens, and the radius against its promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnabert2_jax.kernels.attention.skipping import block_ranges, score_bound, skip_radius, visited_share


def visible_pairs(segments, radius):
    """[T, T]: same sequence, not padding, within the radius."""
    position = np.arange(len(segments))
    same = (segments[:, None] == segments[None]) & (segments > 0)[:, None]
    return same & (np.abs(position[:, None] - position[None]) <= radius)


@st.composite
def rows(draw):
    block, other = draw(st.sampled_from([(4, 8), (8, 4), (8, 8)]))
    blocks = draw(st.integers(1, 5))
    lengths = draw(st.lists(st.integers(1, 20), min_size=1, max_size=6))
    numbers = draw(st.permutations(range(len(lengths)))) if draw(st.booleans()) else range(1, len(lengths) + 1)
    ids = np.concatenate([np.full(n, i) for n, i in zip(lengths, numbers, strict=True)])[: 8 * blocks]
    return np.pad(ids, (0, 8 * blocks - len(ids))), draw(st.integers(0, 48)), block, other


jitted_ranges = jax.jit(block_ranges, static_argnums=(2, 3, 4))


@given(rows())
@settings(max_examples=40)
def test_every_visible_pair_is_in_a_visited_block(case):
    segments, radius, block, other = case
    start, stop = jitted_ranges(jnp.asarray(segments[None]), jnp.full((1, 1), radius), 1, block, other)
    visible = visible_pairs(segments, radius)
    for i in range(len(segments) // block):
        needed = np.flatnonzero(visible[i * block : (i + 1) * block].any(0)) // other
        assert 0 <= start[0, 0, i] <= stop[0, 0, i] <= len(segments) // other
        assert all(start[0, 0, i] <= j < stop[0, 0, i] for j in needed)


def test_ranges_of_ascending_sequences_are_the_narrowest():
    segments = np.repeat([1, 2, 3, 0], [20, 4, 24, 16])  # 64 tokens, blocks of 8
    start, stop = block_ranges(jnp.asarray(segments[None]), None, 1, 8, 8)
    assert start[0, 0].tolist() == [0, 0, 0, 3, 3, 3, 0, 0]  # padding visits nothing: 0 to 0
    assert stop[0, 0].tolist() == [3, 3, 3, 6, 6, 6, 0, 0]


def test_the_radius_is_per_row_and_head():
    ranges = block_ranges(jnp.ones((2, 64), jnp.int32), jnp.asarray([[0, 64], [8, 9]]), 2, 8, 8)
    widths = ranges.stop - ranges.start
    assert widths[0, 0].tolist() == [1] * 8
    assert widths[0, 1].tolist() == [8] * 8
    assert widths[1].tolist() == [[2, 3, 3, 3, 3, 3, 3, 2], [3, 4, 5, 5, 5, 5, 4, 3]]
    assert visited_share(ranges) == pytest.approx((8 + 64 + 22 + 34) / (4 * 64))


@pytest.mark.parametrize("layout", ["bhtd", "bhdt", "bthd"])
def test_the_bound_holds_and_ignores_padding(layout):
    rng = np.random.default_rng(0)
    q, k = rng.standard_normal((2, 2, 3, 20, 32), np.float32)
    segments = np.ones((2, 20), np.int32)
    segments[:, 15:] = 0
    q[:, :, 15:] = np.nan  # what a padded position holds is nobody's business
    turned = [jnp.einsum(f"bhtd->{layout}", jnp.asarray(x)) for x in (q, k)]
    bound = score_bound(*turned, jnp.asarray(segments), 32**-0.5, layout=layout)
    scores = np.abs(np.einsum("bhqd,bhkd->bhqk", q, k)[:, :, :15, :15]) * 32**-0.5
    assert (np.asarray(bound) >= scores.max((2, 3))).all()
    parallel = score_bound(*[jnp.einsum(f"bhtd->{layout}", jnp.asarray(k))] * 2, jnp.asarray(segments), 1.0, layout=layout)
    longest = np.einsum("bhtd,bhtd->bht", k, k)[:, :, :15].max(-1)
    np.testing.assert_allclose(parallel, longest, rtol=2e-4)  # reached by parallel rows: no looser than its slack


def test_no_gradient_flows_through_the_bound():
    x = jnp.ones((1, 1, 4, 8))
    gradient = jax.grad(lambda q: score_bound(q, x, jnp.ones((1, 4), jnp.int32), 1.0).sum())(x)
    np.testing.assert_array_equal(gradient, 0.0)


@given(st.floats(0.0, 40.0), st.floats(2.0**-8, 1.0), st.integers(2, 1 << 20))
@settings(max_examples=40)
def test_beyond_the_radius_the_dropped_mass_is_below_two_to_the_minus_25(bound, slope, tokens):
    radius = int(skip_radius(jnp.full((1, 1), bound), jnp.full((1,), slope), tokens)[0, 0])
    assert 0 <= radius <= tokens
    if radius < tokens:  # the worst row: every dropped key scores +S, the own key -S
        mass = tokens * np.exp(2 * np.float32(bound) - np.float32(slope) * (radius + 1.0))
        assert mass <= 2.0**-25 * (1 + 1e-6)


def test_without_slope_or_finite_bound_nothing_is_dropped():
    slopes = jnp.asarray([0.0, -1.0, 1.0, 1.0, 1.0])
    bound = jnp.asarray([[1.0, 1.0, np.inf, np.nan, 0.0]])
    assert skip_radius(bound, slopes, 512)[0].tolist() == [512] * 4 + [24]  # ln 2^25 + ln 512 = 23.57


def test_uneven_blocks_are_refused():
    with pytest.raises(ValueError, match="60 tokens"):
        block_ranges(jnp.ones((1, 60), jnp.int32), None, 1, 8, 4)
