import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnabert2_jax.genome.permutation import permute


@given(st.integers(1, 300), st.integers(0, 2**63 - 1), st.integers(0, 5))
def test_is_a_permutation(n: int, seed: int, epoch: int):
    x = np.arange(n)
    assert sorted(permute(x, np.full(n, n), seed, np.full(n, epoch))) == list(range(n))


@given(st.lists(st.tuples(st.integers(1, 2**40), st.floats(0, 1, exclude_max=True)), min_size=1, max_size=20))
def test_every_point_is_by_itself(points):
    n = np.array([size for size, _ in points])
    x = np.array([int(size * share) for size, share in points])
    together = permute(x, n, 7, n)
    alone = [permute(x[i : i + 1], n[i : i + 1], 7, n[i : i + 1])[0] for i in range(len(x))]
    assert together.tolist() == alone
    assert ((together >= 0) & (together < n)).all()


@pytest.mark.parametrize("n", [7, 64, 1000])
def test_looks_random(n: int):
    # Over many keys, the image of a point is uniform: chi-square over n cells stays within six sigma of its mean.
    keys = 40 * n
    image = permute(np.full(keys, n // 3), np.full(keys, n), 1, np.arange(keys))
    chi2 = ((np.bincount(image, minlength=n) - 40) ** 2 / 40).sum()
    assert abs(chi2 - (n - 1)) < 6 * np.sqrt(2 * (n - 1))
    # And neighbours do not stay neighbours.
    order = permute(np.arange(n), np.full(n, n), 1, np.zeros(n, np.int64))
    assert np.mean(np.abs(np.diff(order)) == 1) < 0.5
