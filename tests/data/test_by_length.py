import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnabert2_jax import sample_data
from dnabert2_jax.data.by_length import choose_lengths, epoch_batches, evaluation_batches
from dnabert2_jax.data.encoding import EncodedTable, encode_table
from dnabert2_jax.data.reading import read_table
from dnabert2_jax.data.splits import load_splits
from dnabert2_jax.tokenizer.base import Tokenizer
from dnabert2_jax.tokenizer.special import PAD
from dnabert2_jax.tokenizer.training import train_bpe
from tests.data.helpers import row_lengths, rows_of


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_bpe(read_table(sample_data.table("dev")).sequences, vocab_size=256)


@pytest.fixture(scope="session")
def sample(tokenizer) -> EncodedTable:
    splits = load_splits(*(sample_data.table(split) for split in ("train", "dev", "test")))
    return encode_table(splits.dev, tokenizer, splits.labels, 60)


@given(row_lengths, st.integers(1, 4), st.sampled_from([8, 16]))
def test_chosen_lengths_are_the_best_there_are(lengths, max_shapes, multiple):
    chosen = choose_lengths(np.array(lengths), max_shapes, multiple)

    def padded(some):
        return sum(min(length for length in some if length >= n) for n in lengths)

    *candidates, longest = sorted({-(-n // multiple) * multiple for n in lengths})
    choices = [(*some, longest) for count in range(max_shapes) for some in itertools.combinations(candidates, count)]
    assert chosen in choices
    assert padded(chosen) == min(padded(some) for some in choices)


def test_no_more_lengths_than_help():
    assert choose_lengths(np.array([30, 31, 32, 29]), max_shapes=3) == (32,)
    assert choose_lengths(np.array([5, 100]), max_shapes=3) == (8, 104)
    with pytest.raises(ValueError, match="at least 1"):
        choose_lengths(np.array([5]), max_shapes=0)


def test_many_long_rows_are_quick():
    lengths = np.arange(10, 20_010)
    chosen = choose_lengths(lengths)
    assert len(chosen) == 3
    assert chosen[-1] == 20_016


@settings(max_examples=40)
@given(row_lengths, st.integers(1, 17), st.integers(0, 2**40), st.integers(0, 100))
def test_an_epoch_holds_every_row_once(lengths, batch_size, seed, epoch):
    encoded = rows_of(lengths)
    shapes = choose_lengths(encoded.lengths)
    training = epoch_batches(encoded, batch_size, seed, epoch, shapes)
    for batch in training:
        real = batch.rows >= 0
        np.testing.assert_array_equal(batch.weights, real.astype(np.float32))
        np.testing.assert_array_equal(batch.labels[real], encoded.labels[batch.rows[real]])
        assert not batch.labels[~real].any()
        assert not batch.dropout_seeds[~real].any()
    for batches in (training.batches, evaluation_batches(encoded, batch_size, shapes)):
        seen = []
        for batch in batches:
            assert batch.tokens.input_ids.shape in {(batch_size, length) for length in shapes}
            real = batch.rows >= 0
            assert not batch.tokens.segment_ids[~real].any()
            for at in np.flatnonzero(real):
                row = int(batch.rows[at])
                size = int(batch.tokens.segment_ids[at].sum())
                np.testing.assert_array_equal(batch.tokens.input_ids[at, :size], encoded.input_ids[row])
                assert set(batch.tokens.input_ids[at, size:]) <= {PAD}
                seen.append(row)
        assert sorted(seen) == list(range(len(lengths)))
        assert len(batches) == -(-len(lengths) // batch_size)
        assert sum((batch.rows < 0).any() for batch in batches) == (len(lengths) % batch_size > 0)
        slots = sum(batch.tokens.input_ids.size for batch in batches)
        assert batches.real_tokens == sum(lengths)
        assert batches.padding_share == pytest.approx(1 - sum(lengths) / slots)


def test_batch_types(sample):
    batch = epoch_batches(sample, 32, 1, 0, choose_lengths(sample.lengths))[0]
    assert {array.dtype for array in (*batch.tokens, batch.labels, batch.rows)} == {np.dtype(np.int32)}
    assert batch.weights.dtype == np.float32
    assert batch.dropout_seeds.dtype == np.uint32


def test_epochs_are_pure_functions_of_seed_and_number(sample):
    lengths = choose_lengths(sample.lengths)

    def order(seed, epoch):
        return [batch.rows.tolist() for batch in epoch_batches(sample, 32, seed, epoch, lengths)]

    assert order(1, 0) == order(1, 0)
    assert len({str(order(seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}) == 4
    rest = epoch_batches(sample, 32, 1, 0, lengths)[3:]
    assert [batch.rows.tolist() for batch in rest] == order(1, 0)[3:]


def test_lengths_come_in_random_order(sample):
    batches = epoch_batches(sample, 16, 5, 0, choose_lengths(sample.lengths, multiple=4))
    widths = [batch.tokens.input_ids.shape[1] for batch in batches]
    assert len(set(widths)) == 3
    assert widths != sorted(widths, reverse=True)
    assert widths != sorted(widths)


def test_dropout_seeds_follow_the_record_not_the_batch(sample):
    lengths = choose_lengths(sample.lengths)

    def seeds(batch_size, seed, epoch, lengths):
        return {
            int(row): int(value)
            for batch in epoch_batches(sample, batch_size, seed, epoch, lengths)
            for row, value in zip(batch.rows, batch.dropout_seeds, strict=True)
            if row >= 0
        }

    first = seeds(32, 1, 0, lengths)
    assert first == seeds(7, 1, 0, lengths[-1:])
    assert len(set(first.values())) > 0.99 * len(first)
    for other in (seeds(32, 1, 1, lengths), seeds(32, 2, 0, lengths)):
        assert sum(first[row] == other[row] for row in first) < 5


def test_left_over_rows_differ_from_epoch_to_epoch():
    encoded = rows_of([10] * 10 + [60] * 6)
    lifted = set()
    for epoch in range(20):
        for batch in epoch_batches(encoded, 8, 0, epoch, (16, 64)):
            if batch.tokens.input_ids.shape[1] == 64:
                lifted |= {int(row) for row in batch.rows if 0 <= row < 10}
    assert len(lifted) > 7


def test_evaluation_keeps_file_order_within_a_length():
    encoded = rows_of([60, 10, 12, 60, 9, 61, 8, 60])
    batches = evaluation_batches(encoded, 2, (16, 64))
    assert [batch.rows.tolist() for batch in batches] == [[1, 2], [4, 6], [0, 3], [5, 7]]
    scores = np.empty(len(encoded))
    for batch in batches:
        scores[batch.rows] = batch.rows * 0.5
    np.testing.assert_array_equal(scores, np.arange(8) * 0.5)


def test_rows_that_do_not_fit_are_never_cut_here():
    with pytest.raises(ValueError, match="70 tokens does not fit"):
        epoch_batches(rows_of([10, 70]), 2, 0, 0, (16, 64))


def test_padding_of_a_real_table_is_small(sample):
    lengths = choose_lengths(sample.lengths)
    share = epoch_batches(sample, 32, 1, 0, lengths).batches.padding_share
    one_length = epoch_batches(sample, 32, 1, 0, lengths[-1:]).batches.padding_share
    assert share < one_length < 0.5
