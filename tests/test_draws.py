import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnabert2_jax.config.sections import MaskingConfig
from dnabert2_jax.data.by_length import epoch_order
from dnabert2_jax.data.masking import mask_rows
from dnabert2_jax.draws import Domain, hash64, mix64, permute, record_seeds, uniform
from dnabert2_jax.genome.segments import validation_blocks
from dnabert2_jax.genome.windows import _species_pattern
from dnabert2_jax.gue.tables import capped_rows
from dnabert2_jax.modeling.dropout import mix32
from dnabert2_jax.types import TokenBatch

words64 = st.integers(0, 2**64 - 1)
seeds = st.integers(0, 2**63 - 1)


def test_splitmix64_is_the_published_one():
    state = np.uint64(1234567) + np.arange(1, 6, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    assert mix64(state).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert hash64(1234567).tolist() == [6457827717110365317]


@given(st.integers(0, 2**32 - 1))
def test_lowbias32_can_be_undone(x):
    """Wellons gives the inverse; a bijection maps no two elements to one."""
    y = int(np.asarray(mix32(jnp.asarray([x], jnp.uint32)))[0])
    mask = 2**32 - 1
    y ^= y >> 16
    y = y * 0x43021123 & mask
    y ^= (y >> 15) ^ (y >> 30)
    y = y * 0x1D69E2A5 & mask
    y ^= y >> 16
    assert y == x


@pytest.mark.parametrize(("bits", "mix"), [(32, lambda x: np.asarray(jax.jit(mix32)(x))), (64, mix64)])
def test_a_flipped_bit_flips_half_of_the_others(bits, mix):
    dtype = np.dtype(f"uint{bits}")
    x = np.random.default_rng(0).integers(0, 2**bits, 4000, dtype=dtype)
    for bit in range(bits):
        difference = mix(x) ^ mix(x ^ dtype.type(1 << bit))
        flipped = np.bitwise_count(difference).mean()
        assert abs(flipped / bits - 0.5) < 0.02


@given(st.lists(words64, min_size=1, max_size=4), st.data())
def test_every_word_and_its_place_count(words, data):
    place = data.draw(st.integers(0, len(words) - 1))
    other = data.draw(words64.filter(lambda word: word != words[place]))
    changed = [*words[:place], other, *words[place + 1 :]]
    assert hash64(*words) != hash64(*changed)
    assert hash64(*words) != hash64(*words, 0)
    assert hash64(*words, 1, 2) != hash64(*words, 2, 1)


@given(seeds, st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5), st.integers(0, 9))
def test_arrays_are_hashed_element_by_element(seed, column, last):
    together = hash64(seed, np.array(column)[:, None], np.arange(last + 1)[None])
    assert together.shape == (len(column), last + 1)
    for row, value in enumerate(column):
        assert together[row, last] == hash64(seed, value, last)[0]


def test_uniform_numbers_fill_the_unit_interval_evenly():
    x = uniform(7, np.arange(100_000))
    assert x.min() >= 0
    assert x.max() < 1
    counts = np.histogram(x, bins=100, range=(0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 99 + 5 * np.sqrt(2 * 99)
    assert abs(np.corrcoef(x[:-1], x[1:])[0, 1]) < 5 / np.sqrt(len(x))


@given(seeds, st.permutations(range(8)))
def test_a_records_seed_does_not_depend_on_its_batch(seed, order):
    records = np.arange(8) + 10**13
    np.testing.assert_array_equal(record_seeds(seed, records[list(order)]), record_seeds(seed, records)[list(order)])


def test_records_and_runs_have_seeds_of_their_own():
    records = np.arange(5000)
    first, second = record_seeds(0, records), record_seeds(1, records)
    assert first.dtype == np.uint32
    assert len(np.unique(np.concatenate([first, second]))) > 9990  # of 2^32 values, a few collisions at most


@given(st.integers(1, 300), st.integers(0, 2**63 - 1), st.integers(0, 5))
def test_permute_is_a_permutation(n: int, seed: int, epoch: int):
    x = np.arange(n)
    assert sorted(permute(x, np.full(n, n), seed, np.full(n, epoch))) == list(range(n))


@given(st.lists(st.tuples(st.integers(1, 2**40), st.floats(0, 1, exclude_max=True)), min_size=1, max_size=20))
def test_every_point_is_permuted_by_itself(points):
    n = np.array([size for size, _ in points])
    x = np.array([int(size * share) for size, share in points])
    together = permute(x, n, 7, n)
    alone = [permute(x[i : i + 1], n[i : i + 1], 7, n[i : i + 1])[0] for i in range(len(x))]
    assert together.tolist() == alone
    assert ((together >= 0) & (together < n)).all()


@pytest.mark.parametrize("n", [7, 64, 1000])
def test_a_permutation_looks_random(n: int):
    # Over many keys, the image of a point is uniform: chi-square over n cells stays within six sigma of its mean.
    keys = 40 * n
    image = permute(np.full(keys, n // 3), np.full(keys, n), 1, np.arange(keys))
    chi2 = ((np.bincount(image, minlength=n) - 40) ** 2 / 40).sum()
    assert abs(chi2 - (n - 1)) < 6 * np.sqrt(2 * (n - 1))
    # And neighbors do not stay neighbors.
    order = permute(np.arange(n), np.full(n, n), 1, np.zeros(n, np.int64))
    assert np.mean(np.abs(np.diff(order)) == 1) < 0.5


def digest(*arrays: np.ndarray) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()[:16]


@pytest.mark.parametrize(
    ("span", "first", "whole"),
    [(None, [17, 5, 7, 6], "8297edf5010ab2dd"), (3, [14, 15, 16, 20, 21, 22], "b3bdf06c063f5a2a")],
)
def test_masks_are_those_of_version_0_1(span, first, whole):
    """Pinned draws, here and below: computed by the code of commit b6cb727, before the domains had names."""
    ids = 5 + (np.arange(8 * 32).reshape(8, 32) * 7 % 59).astype(np.int32)
    ids[:, 0], ids[:, -1] = 1, 2
    tokens = TokenBatch(ids, np.ones_like(ids), np.zeros_like(ids))
    rows = mask_rows(tokens, MaskingConfig(span_tokens=span), seed=3, records=np.arange(8) + 10**6, vocab_size=64)
    assert rows[1][0].tolist() == first
    assert digest(rows.tokens.input_ids, *rows[1:]) == whole


def test_orders_and_samples_are_those_of_version_0_1():
    assert digest(*validation_blocks(np.array([5000, 12000, 700]), 77, fraction=0.2, block=300)) == "2dd8f45a357b1ba7"
    assert epoch_order(8, 3, 1).tolist() == [2, 1, 3, 5, 7, 4, 0, 6]
    assert capped_rows(["a", "b", "b"] * 8, 7) == [0, 2, 11, 14, 16, 18, 22]
    pattern = [part[:8].tolist() for part in _species_pattern([1.0, 2.0, 4.0], 3)]
    assert pattern == [[2, 1, 2, 0, 2, 0, 2, 1], [0, 0, 1, 0, 2, 1, 3, 1], [9362, 18725, 37449]]
    assert permute(np.arange(6), np.full(6, 6), 3, Domain.WINDOW_ORDER, 0, 1).tolist() == [4, 0, 3, 1, 2, 5]


def test_domains_keep_their_numbers():
    """Those of the draws above, and of strands, window starts, batch order and dropout, whose draws are not pinned."""
    assert {domain.name: domain.value for domain in Domain} == {
        "MASK_ORDER": 1,
        "MASK_REPLACEMENT": 2,
        "MASK_RANDOM_PIECE": 3,
        "MASK_SPAN_OFFSET": 4,
        "MASK_SPAN_COUNT": 5,
        "WINDOW_SPECIES": 0x51,
        "WINDOW_ORDER": 0x52,
        "WINDOW_START": 0x53,
        "WINDOW_STRAND": 0x54,
        "ROW_STRAND": 0x57D,
        "BPE_DROPOUT": 0xB9E,
        "VALIDATION_BLOCKS": 0x7A1,
        "CAPPED_TABLE": 0xCA9,
        "DROPOUT": 0xD20,
        "ROW_ORDER": 0x2045,
        "BATCH_ORDER": 0xBA7C,
    }
