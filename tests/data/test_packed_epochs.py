from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnabert2_jax.data.by_length import epoch_order
from dnabert2_jax.data.encoding import EncodedTable
from dnabert2_jax.data.packed_epochs import pack_epochs
from dnabert2_jax.data.reading import read_table
from dnabert2_jax.tokenizer.loading import Tokenizer
from tests.data.helpers import encoded_table, row_lengths, rows_of

GUE_TOKENS = {
    # Mean, standard deviation and maximum of the tokens of a row: promoters of 70 and 300 bases, transcription factors,
    # histone marks, splice sites, the covid variants.
    "70 bp": (17.5, 1.2, 22),
    "101 bp": (23.7, 1.8, 30),
    "300 bp": (63.5, 3.2, 76),
    "400 bp": (82.6, 3.7, 98),
    "500 bp": (105.0, 6.5, 126),
    "1000 bp": (205.0, 9.0, 256),
}


def table_of_lengths(lengths) -> EncodedTable:
    return encoded_table([np.full(n, 5, np.int32) for n in lengths], np.zeros(len(lengths), np.int32))


@settings(max_examples=30)
@given(row_lengths, st.sampled_from([1, 4, 6, 16]), st.integers(0, 2**30), st.integers(1, 3), st.integers(1, 4))
def test_every_epoch_holds_every_sequence_once_and_whole(lengths, batch_size, seed, epochs, shapes):
    encoded = rows_of(lengths)
    packed = pack_epochs([encoded] * epochs, batch_size, seed, hidden_size=32, max_shapes=shapes)
    assert len({batch.tokens.input_ids.shape for epoch in packed for batch in epoch}) <= shapes
    for number, epoch in enumerate(packed):
        assert len(epoch) == -(-len(lengths) // batch_size)
        drawn = epoch_order(len(encoded), seed, number)
        for at, batch in enumerate(epoch):
            used = batch.rows >= 0
            assert sorted(batch.rows[used]) == sorted(drawn[at * batch_size : (at + 1) * batch_size])
            np.testing.assert_array_equal(batch.weights, used.astype(np.float32))
            np.testing.assert_array_equal(batch.labels[used], encoded.labels[batch.rows[used]])
            tokens = 0
            for row, slot in zip(*np.nonzero(used), strict=True):
                wanted = encoded.input_ids[batch.rows[row, slot]]
                here = batch.tokens.segment_ids[row] == slot + 1
                assert batch.starts[row, slot] == np.flatnonzero(here)[0]
                np.testing.assert_array_equal(batch.tokens.input_ids[row][here], wanted)
                tokens += len(wanted)
            assert (batch.tokens.segment_ids > 0).sum() == tokens
        slots = sum(batch.tokens.input_ids.size for batch in epoch)
        assert epoch.batches.padding_share == pytest.approx(1 - sum(lengths) / slots)


def test_the_second_of_a_pair_has_its_type_within_a_shared_row():
    encoded = table_of_lengths([9, 9, 9, 9])
    encoded = replace(encoded, first_tokens=np.array([3, 4, 5, 6], np.int32))
    ((batch,),) = pack_epochs([encoded], 4, 0, hidden_size=1024, max_shapes=1)
    assert batch.tokens.input_ids.shape[0] < 4
    for row, slot in zip(*np.nonzero(batch.rows >= 0), strict=True):
        first = encoded.first_tokens[batch.rows[row, slot]]
        here = batch.tokens.segment_ids[row] == slot + 1
        assert batch.tokens.token_type_ids[row][here].tolist() == [0] * first + [1] * (9 - first)


@pytest.mark.parametrize("name", GUE_TOKENS)
def test_padding_is_under_five_percent_for_every_length_of_the_benchmark(name):
    mean, deviation, longest = GUE_TOKENS[name]
    lengths = np.random.default_rng(0).normal(mean, deviation, 3000).round().clip(mean / 2, longest).astype(np.int32)
    for epoch in pack_epochs([table_of_lengths(lengths)] * 2, 32, 0, hidden_size=768, max_shapes=3):
        assert epoch.batches.padding_share < 0.05


def test_padding_is_under_five_percent_on_the_benchmarks_own_tables(shared_dir: Path):
    tokenizer = Tokenizer.load(shared_dir / "data" / "dnabert2_hf" / "tokenizer.json")
    tables = sorted((shared_dir / "data" / "GUE").glob("*/*/dev.csv"))
    assert tables
    for path in tables:
        lengths = np.array([len(ids) + 2 for ids in tokenizer.encode_raw_batch(read_table(path).sequences)])
        whole = lengths[: len(lengths) // 32 * 32]  # the fill of a short last batch is no matter of packing
        (epoch,) = pack_epochs([table_of_lengths(whole)], 32, 0, hidden_size=768, max_shapes=3)
        assert epoch.batches.padding_share < 0.05, path


def test_rows_can_be_cut_into_parts():
    encoded = table_of_lengths(np.random.default_rng(1).integers(5, 9, 100))
    (epoch,) = pack_epochs([encoded], 24, 0, hidden_size=4096, max_shapes=2, parts=4)
    assert {batch.tokens.input_ids.shape[0] % 4 for batch in epoch} == {0}


def test_long_rows_are_not_made_longer():
    """Attention over a shared row would cost more than the padding it saves."""
    (epoch,) = pack_epochs([table_of_lengths([1000, 1001, 999, 1000] * 4)], 8, 0, hidden_size=32, max_shapes=2)
    assert {batch.tokens.input_ids.shape for batch in epoch} == {(8, 1008)}


def test_a_slice_goes_on_where_it_was():
    (epoch,) = pack_epochs([rows_of([10] * 40)], 8, 3, hidden_size=32, max_shapes=2)
    rest = epoch[2:]
    for mine, other in zip(rest, list(epoch)[2:], strict=True):
        np.testing.assert_array_equal(mine.rows, other.rows)
        np.testing.assert_array_equal(mine.dropout_seeds, other.dropout_seeds)
