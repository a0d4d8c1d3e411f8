"""Skipping is exact: the promise of docs/attention.md in float64, and the compiled loops on inputs made to break it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnabert2_jax.kernels.attention import alibi_slopes, attention
from dnabert2_jax.kernels.attention.blocked import BLOCK
from dnabert2_jax.kernels.attention.skipping import block_ranges, score_bound, skip_radius, visited_share
from tests.kernels.test_attention import assert_close, definition

HEAD_DIM = 16
EPSILON = 2.0**-24


def softmax_with_gradients(q, k, v, d_output, slope, radius):
    """Float64 attention of one head over the keys within ``radius``: output and gradients of q, k and v."""
    scale = HEAD_DIM**-0.5
    distance = np.abs(np.subtract.outer(np.arange(len(q)), np.arange(len(q))))
    scores = np.where(distance <= radius, scale * q @ k.T - slope * distance, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    d_weights = d_output @ v.T
    d_scores = weights * (d_weights - (weights * d_weights).sum(-1, keepdims=True))
    return weights @ v, scale * d_scores @ k, scale * d_scores.T @ q, weights.T @ d_output


def worst_case(tokens, bound):
    """q and k [T, d]: query 0 scores -S with all keys near it, its own among them, and S with all that are far.

    Every vector has the same length, so that S, which comes from the lengths, is reached on both sides.
    """
    direction = np.zeros(HEAD_DIM)
    direction[0] = np.sqrt(bound * HEAD_DIM**0.5)
    q = np.tile(direction, (tokens, 1))
    return q, lambda radius: np.where((np.arange(tokens) > radius)[:, None], direction, -direction)


@given(
    tokens=st.sampled_from([2, 60, 400]),
    bound=st.floats(0.0, 30.0),
    slope=st.floats(0.05, 4.0),
    seed=st.integers(0, 2**32 - 1),
    adversarial=st.booleans(),
)
@settings(max_examples=40)
def test_dropping_keys_beyond_the_radius_moves_no_more_than_promised(tokens, bound, slope, seed, adversarial):
    rng = np.random.default_rng(seed)
    v, d_output = rng.standard_normal((2, tokens, HEAD_DIM))
    if adversarial:
        q, keys = worst_case(tokens, bound)
        radius = int(skip_radius(jnp.asarray([[bound]]), jnp.asarray([slope]), tokens)[0, 0])
        k = keys(radius)
    else:
        q, k = rng.standard_normal((2, tokens, HEAD_DIM)) * np.sqrt(bound / 8)
    found_bound = score_bound(
        jnp.asarray(q, jnp.float32)[None, None],
        jnp.asarray(k, jnp.float32)[None, None],
        jnp.ones((1, tokens), jnp.int32),
        HEAD_DIM**-0.5,
    )
    radius = int(skip_radius(found_bound, jnp.asarray([slope]), tokens)[0, 0])
    full = softmax_with_gradients(q, k, v, d_output, slope, tokens)
    kept = softmax_with_gradients(q, k, v, d_output, slope, radius)
    moved = [np.abs(a - b) for a, b in zip(full, kept, strict=True)]

    # The bounds of docs/attention.md; float64 has 29 bits more than EPSILON.
    scale, largest = HEAD_DIM**-0.5, np.abs(d_output @ v.T).max(-1)
    assert moved[0].max() <= EPSILON * np.abs(v).max()
    assert (moved[1] <= 3 * EPSILON * scale * largest[:, None] * np.abs(k).max(0) + 1e-14).all()
    assert (moved[2] <= 3 * EPSILON * scale * (largest[:, None] * np.abs(q)).sum(0) + 1e-14).all()
    assert (moved[3] <= EPSILON / 2 * np.abs(d_output).sum(0) + 1e-14).all()


def test_both_the_best_and_the_worst_score_count():
    """With S once instead of twice in the radius, the worst case drops more than the promise allows."""
    tokens, bound, slope = 2000, 12.0, 0.2
    radius = int(skip_radius(jnp.asarray([[bound]]), jnp.asarray([slope]), tokens)[0, 0])
    shorter = radius - int(bound / slope)
    q, keys = worst_case(tokens, bound)

    def dropped(radius):
        scores = HEAD_DIM**-0.5 * q[0] @ keys(radius).T - slope * np.arange(tokens)
        weights = np.exp(scores - scores.max())
        return weights[radius + 1 :].sum() / weights.sum()

    assert radius < tokens / 2
    assert dropped(radius) < 2.0**-25 < dropped(shorter)


def inputs(kind, tokens, heads):
    """q, k, v, cotangent [1, T, H, d] whose radius matters: some heads skip, and what they skip was made to hurt."""
    rng = np.random.default_rng(3)
    q, k, v, cotangent = rng.standard_normal((4, 1, tokens, heads, HEAD_DIM), np.float32)
    if kind == "large norms":  # one row of each is long, so that S is far larger than almost all scores
        q[:, 100], k[:, 1400] = 6 * q[:, 100], 6 * k[:, 1400]
    elif kind == "one far key wins":  # at 1,400 tokens' distance it outweighs all that ALiBi takes off, in every head
        q[:, 5] = 0
        q[:, 5, :, 0], k[:, 1405], k[:, 1405, :, 0] = 60.0, 0.0, 60.0
    elif kind == "large far values":
        v[:, 1000:] *= 1000
    return q, k, v, cotangent


@partial(jax.jit, static_argnums=5)
def blocked(q, k, v, cotangent, slopes, skip):
    output, vjp = jax.vjp(lambda q, k, v: attention(q, k, v, slopes, implementation="blocked", skip=skip), q, k, v)
    return output, *vjp(cotangent)


@pytest.mark.parametrize("kind", ["random", "large norms", "one far key wins", "large far values"])
def test_on_against_off_and_against_float64(kind):
    tokens, heads = 6 * BLOCK, 2
    q, k, v, cotangent = inputs(kind, tokens, heads)
    slopes = np.asarray([0.5, 0.1], np.float32)

    expected = definition(q, k, v, slopes, np.ones((1, tokens), np.int32), cotangent)
    arrays = [jnp.asarray(x) for x in (q, k, v, cotangent)]
    on, off = (blocked(*arrays, jnp.asarray(slopes), skip) for skip in (True, False))
    # A score of S carries S roundings of 2^-24 into its exponent.
    bound = np.asarray(score_bound(*arrays[:2], jnp.ones((1, tokens)), HEAD_DIM**-0.5, layout="bthd"))
    tolerance = 2e-6 + EPSILON * bound.max()
    for found, dense, wanted in zip(on, off, expected, strict=True):
        assert_close(found, wanted, tolerance, cotangent)
        assert_close(dense, wanted, tolerance, cotangent)
    radius = np.asarray(skip_radius(jnp.asarray(bound), jnp.asarray(slopes), tokens))
    if kind == "one far key wins":
        np.testing.assert_allclose(expected[0][0, 5], v[0, 1405], rtol=1e-6)  # the key does win, and so it is visited
        assert (radius == tokens).all()
    else:
        assert radius.min() < tokens - BLOCK  # something is skipped


@pytest.mark.parametrize(("tokens", "ideal"), [(2048, 0.49), (8192, 0.28), (131_072, 0.03), (1_048_576, 0.004)])
def test_share_of_blocks_visited_at_a_bound_of_ten(tokens, ideal):
    slopes = jnp.asarray(alibi_slopes(12))
    radius = skip_radius(jnp.full((1, 12), 10.0), slopes, tokens)
    share = visited_share(block_ranges(jnp.ones((1, tokens), jnp.int32), radius, 12, BLOCK, BLOCK))
    reach = np.minimum(np.asarray(radius, np.float64), tokens - 1)
    pairs = ((2 * reach + 1) * tokens - reach * (reach + 1)).mean() / tokens**2
    assert pairs == pytest.approx(ideal, rel=0.1)
    assert share <= (1.25 if tokens >= 8192 else 1.3) * pairs
