import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dnabert2_jax.config.sections import MaskingConfig
from dnabert2_jax.data.masking import mask_rows
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


@given(order=st.permutations(range(6)), span=st.sampled_from([None, 1, 6]))
def test_a_record_is_masked_alike_in_any_batch(order, span):
    tokens = rows([64] * 6, 64)
    whole = mask(tokens, records=np.arange(100, 106), span_tokens=span)
    order = list(order)[:4]
    part = mask(TokenBatch(*(x[order] for x in tokens)), records=np.arange(100, 106)[order], span_tokens=span)
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


def chosen(batch) -> np.ndarray:
    """Which tokens of the rows are masked, [B, T]."""
    found = np.zeros(batch.tokens.input_ids.shape, bool)
    row, slot = np.nonzero(batch.masked_weights)
    found[row, batch.masked_positions[row, slot]] = True
    return found


def runs(which: np.ndarray) -> list[tuple[int, int]]:
    """Start and end of each stretch of true values, [T]."""
    edges = np.flatnonzero(np.diff(which, prepend=False, append=False))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


@given(
    lengths=st.lists(st.integers(2, 64), min_size=1, max_size=6),
    seed=st.integers(0, 2**31),
    unknown=st.sampled_from([0.0, 0.1, 1.0]),
    span=st.integers(1, 80),
    rate=st.sampled_from([0.05, 0.15, 0.5, 0.9]),
)
def test_spans_are_whole_between_the_ends_of_a_row_and_unknown_tokens(lengths, seed, unknown, span, rate):
    tokens = rows(lengths, 64, seed, unknown)
    batch = mask(tokens, seed, rate=rate, span_tokens=span)
    which = chosen(batch)
    assert batch.masked_positions.shape[1] == MaskingConfig(rate=rate, span_tokens=span).slots(64) <= 62
    assert which.sum() == batch.masked_weights.sum()  # no position twice
    eligible = tokens.input_ids >= NUM_SPECIAL
    assert not (which & ~eligible).any()
    np.testing.assert_array_equal(which.any(1), eligible.any(1))
    for row, can in zip(which, eligible, strict=True):
        for start, stop in runs(row):
            if can[start - 1] and can[stop]:
                assert (stop - start) % span == 0


@given(seed=st.integers(0, 2**31), span=st.integers(2, 8))
def test_a_span_becomes_one_thing(seed, span):
    tokens = rows([64] * 8, 64, seed)
    ids = np.where(tokens.input_ids >= NUM_SPECIAL, tokens.input_ids + VOCAB, tokens.input_ids)  # never drawn at random
    batch = mask(tokens._replace(input_ids=ids), seed, rate=0.3, mask_share=0.4, random_share=0.3, span_tokens=span)
    after = batch.tokens.input_ids
    kinds = np.where(after == MASK, "mask", np.where(after == ids, "same", "random"))
    for row, which in zip(kinds, chosen(batch), strict=True):
        for start, stop in runs(which):
            if start > 1 and stop < 63:
                spans = row[start:stop].reshape(-1, span)
                assert (spans == spans[:, :1]).all()


@pytest.mark.parametrize(("span", "width"), [(1, 128), (3, 64), (6, 128), (6, 130), (20, 512)])
def test_spans_mask_the_rate_on_average_and_every_place_alike(span, width):
    batch = mask(rows([width] * 4000, width), span_tokens=span)
    which = chosen(batch)[:, 1:-1]
    shares = which.mean(1)
    # Of single tokens every row has the same number, a rounded one.
    error = 5 * shares.std() / np.sqrt(len(shares)) if span > 1 else 0.5 / (width - 2)
    assert abs(shares.mean() - 0.15) <= error
    by_place = which.mean(0)
    assert np.abs(by_place - shares.mean()).max() < 5.5 * np.sqrt(0.15 * 0.85 / len(which))


def test_shares_over_one_are_refused():
    with pytest.raises((ValidationError, ValueError), match="more than 1"):
        MaskingConfig(mask_share=0.8, random_share=0.3)
