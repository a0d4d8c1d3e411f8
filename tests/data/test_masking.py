import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dnabert2_jax.data.masking import MaskingConfig, mask_rows
from dnabert2_jax.tokenizer.special import CLS, MASK, NUM_SPECIAL, PAD, SEP, UNK
from dnabert2_jax.types import TokenBatch

VOCAB = 300


def rows(lengths, width, seed=0, unknown=0.0):
    rng = np.random.default_rng(seed)
    ids = np.full((len(lengths), width), PAD, np.int32)
    for row, length in zip(ids, lengths, strict=True):
        row[:length] = rng.integers(NUM_SPECIAL, VOCAB, length)
        row[1 : length - 1][rng.random(length - 2) < unknown] = UNK
        row[0], row[length - 1] = CLS, SEP
    segments = (ids != PAD).astype(np.int32)
    return TokenBatch(ids, segments, np.zeros_like(ids))


def mask(tokens, seed=0, records=None, **config):
    if records is None:
        records = np.arange(len(tokens.input_ids))
    return mask_rows(tokens, MaskingConfig(**config), seed=seed, records=records, vocab_size=VOCAB)


@given(
    lengths=st.lists(st.integers(2, 64), min_size=1, max_size=6),
    seed=st.integers(0, 2**31),
    unknown=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_only_chosen_positions_change_and_labels_restore_the_row(lengths, seed, unknown):
    tokens = rows(lengths, 64, seed, unknown)
    batch = mask(tokens, seed)
    restored = batch.tokens.input_ids.copy()
    for row, positions, labels, weights in zip(
        restored, batch.masked_positions, batch.masked_labels, batch.masked_weights, strict=True
    ):
        used = weights > 0
        assert len(set(positions[used])) == used.sum()
        assert (labels[used] >= NUM_SPECIAL).all()
        row[positions[used]] = labels[used]
    np.testing.assert_array_equal(restored, tokens.input_ids)
    eligible = (tokens.input_ids >= NUM_SPECIAL).sum(1)
    expected = np.minimum(round(0.15 * 62), np.ceil(0.15 * eligible))  # every row has room for what a full one needs
    np.testing.assert_array_equal(batch.masked_weights.sum(1), expected)


@given(order=st.permutations(range(6)), width=st.sampled_from([64, 80]))
def test_a_record_is_masked_alike_in_any_batch(order, width):
    tokens = rows([64] * 6, 64)
    whole = mask(tokens, records=np.arange(100, 106))
    order = list(order)[:4]
    part = mask(TokenBatch(*(x[order] for x in tokens)), records=np.arange(100, 106)[order])
    for a, b in zip(part.tokens + part[1:], whole.tokens + whole[1:], strict=True):
        np.testing.assert_array_equal(a, b[order])


def test_seeds_and_records_change_the_choice():
    tokens = rows([64] * 4, 64)
    first = mask(tokens, seed=1)
    assert (first.masked_positions != mask(tokens, seed=2).masked_positions).any(1).all()
    assert (first.masked_positions != mask(tokens, seed=1, records=np.arange(4) + 10**12).masked_positions).any(1).all()


def test_shares_and_uniformity():
    tokens = rows([128] * 4000, 128)
    batch = mask(tokens)
    after = np.take_along_axis(batch.tokens.input_ids, batch.masked_positions, 1)
    n = after.size
    masked, kept = (after == MASK).mean(), (after == batch.masked_labels).mean()
    sigma = 5 / np.sqrt(n)
    assert abs(masked - 0.8) < 0.4 * sigma
    assert abs(kept - (0.1 + 0.1 / (VOCAB - NUM_SPECIAL))) < 0.3 * sigma
    hits = np.bincount(batch.masked_positions.ravel(), minlength=128)[1:-1]
    expected = n / 126
    assert ((hits - expected) ** 2 / expected).sum() < 126 + 5 * np.sqrt(2 * 126)  # chi-squared over positions
    others = after[(after != MASK) & (after != batch.masked_labels)]
    counts = np.bincount(others, minlength=VOCAB)[NUM_SPECIAL:]
    assert counts.min() > 0
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < len(counts) + 5 * np.sqrt(2 * len(counts))


def test_shares_over_one_are_refused():
    with pytest.raises((ValidationError, ValueError), match="more than 1"):
        MaskingConfig(mask_share=0.8, random_share=0.3)
