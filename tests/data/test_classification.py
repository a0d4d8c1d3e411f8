import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnabert2_jax import sample_data
from dnabert2_jax.data.classification import (
    EncodedTable,
    choose_lengths,
    encode_table,
    epoch_batches,
    evaluation_batches,
)
from dnabert2_jax.data.strands import other_strand_table
from dnabert2_jax.data.tables import LabelSet, Table, load_splits, read_table
from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.letters import LetterCounts
from dnabert2_jax.tokenizer.base import Tokenizer
from dnabert2_jax.tokenizer.special import CLS, PAD, SEP
from dnabert2_jax.tokenizer.training import train_bpe

LABELS = LabelSet(("0", "1"))


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_bpe(read_table(sample_data.table("dev")).sequences, vocab_size=256)


@pytest.fixture(scope="session")
def sample(tokenizer) -> EncodedTable:
    splits = load_splits(*(sample_data.table(split) for split in ("train", "dev", "test")))
    return encode_table(splits.dev, tokenizer, splits.labels, 60)


def table_of(tmp_path, sequences, pairs=None) -> Table:
    path = tmp_path / "table.csv"
    header = "sequence,label" if pairs is None else "sequence1,sequence2,label"
    columns = [sequences] if pairs is None else [sequences, pairs]
    path.write_text("\n".join([header, *(",".join([*texts, "1"]) for texts in zip(*columns, strict=True))]) + "\n")
    return read_table(path)


def rows_of(lengths: list[int]) -> EncodedTable:
    """Rows of the given numbers of tokens; the first id after CLS is the row's number, so a row can be told from others."""
    sizes = np.array(lengths, np.int32)
    ids = [np.array([CLS, 9 + row, *[5] * (n - 3), SEP], np.int32) for row, n in enumerate(lengths)]
    return EncodedTable(ids, sizes, np.arange(len(lengths), dtype=np.int32) % 2, sizes, sizes, max(lengths))


row_lengths = st.lists(st.integers(3, 70), min_size=1, max_size=90)


def test_single_rows_are_the_tokenizers_own(tmp_path, tokenizer):
    table = table_of(tmp_path, ["ACGTTTGACNNACGT", "A", "GGGTTACGGATTTACCA"])
    encoded = encode_table(table, tokenizer, LABELS, 512)
    for mine, theirs in zip(encoded.input_ids, tokenizer.encode_batch(table.sequences), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert encoded.labels.tolist() == [1, 1, 1]
    assert encoded.truncated_rows == 0
    assert "cut" not in encoded.summary()


def test_pairs_are_the_tokenizers_own_and_have_types(tmp_path, tokenizer):
    table = table_of(tmp_path, ["ACGTTTGACNNACGT", "A"], ["TTT", "GGGTTACGGATTTACCA"])
    encoded = encode_table(table, tokenizer, LABELS, 512)
    for mine, theirs in zip(encoded.input_ids, tokenizer.encode_batch(table.sequences, table.pairs), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    (batch,) = evaluation_batches(encoded, 2, choose_lengths(encoded.lengths, 1))
    for ids, segments, types in zip(*batch.tokens, strict=True):
        first_sep, second_sep = np.flatnonzero(ids == SEP)
        assert types.tolist() == [0] * (first_sep + 1) + [1] * (second_sep - first_sep) + [0] * (len(ids) - second_sep - 1)
        assert segments.tolist() == [1] * (second_sep + 1) + [0] * (len(ids) - second_sep - 1)
        assert set(ids[second_sep + 1 :]) <= {PAD}


def test_an_epoch_reads_half_of_the_rows_from_the_other_strand_others_each_time(tmp_path, tokenizer):
    rng = np.random.default_rng(0)
    table = table_of(tmp_path, ["".join(rng.choice(list("ACGT"), n)) for n in rng.integers(20, 60, 200)])
    given, other = (encode_table(t, tokenizer, LABELS, 512) for t in (table, other_strand_table(table)))
    taken = []
    for epoch in range(3):
        mixed = given.on_either_strand(other, 7, epoch)
        is_other = np.array(
            [list(ids) == list(theirs) for ids, theirs in zip(mixed.input_ids, other.input_ids, strict=True)]
        )
        for row in range(200):
            source = other if is_other[row] else given
            np.testing.assert_array_equal(mixed.input_ids[row], source.input_ids[row])
            for lengths in ("lengths", "full_lengths", "first_tokens"):
                assert getattr(mixed, lengths)[row] == getattr(source, lengths)[row]
        assert 70 < is_other.sum() < 130
        taken.append(is_other.tolist())
    assert taken[0] != taken[1] != taken[2]
    again = given.on_either_strand(other, 7, 0)
    assert [ids.tolist() for ids in again.input_ids] == [
        (other if t else given).input_ids[row].tolist() for row, t in enumerate(taken[0])
    ]


def test_without_token_types_both_sequences_of_a_pair_are_of_type_0(tmp_path, tokenizer):
    table = table_of(tmp_path, ["ACGTTTGACNNACGT", "A"], ["TTT", "GGGTTACGGATTTACCA"])
    encoded = encode_table(table, tokenizer, LABELS, 512, token_types=False)
    (batch,) = evaluation_batches(encoded, 2, choose_lengths(encoded.lengths, 1))
    with_types = encode_table(table, tokenizer, LABELS, 512)
    (typed,) = evaluation_batches(with_types, 2, choose_lengths(with_types.lengths, 1))
    assert not batch.tokens.token_type_ids.any()
    assert typed.tokens.token_type_ids.any()
    np.testing.assert_array_equal(batch.tokens.input_ids, typed.tokens.input_ids)


def test_cut_rows_keep_their_template_and_are_reported(tmp_path, tokenizer):
    table = table_of(tmp_path, ["ACGTTTGACNNACGT" * 4, "AC"])
    whole = encode_table(table, tokenizer, LABELS, 512)
    cut = encode_table(table, tokenizer, LABELS, 10)
    assert cut.lengths.tolist() == [10, whole.lengths[1]]
    np.testing.assert_array_equal(cut.input_ids[0], [*whole.input_ids[0][:9], SEP])
    np.testing.assert_array_equal(cut.input_ids[1], whole.input_ids[1])
    assert cut.truncated_rows == 1
    lost = int(whole.lengths[0]) - 10
    assert f"1 rows were cut to max_tokens 10 and lost {lost} tokens" in cut.summary()
    assert f"max_tokens {whole.lengths[0]} keeps everything" in cut.summary()
    assert encode_table(table, tokenizer, LABELS, int(whole.lengths[0])).truncated_rows == 0


@given(st.integers(1, 40), st.integers(1, 40), st.integers(5, 60))
def test_a_pair_is_cut_like_one_token_at_a_time_from_the_longer(first, second, max_tokens):
    class Letters:
        """A tokenizer of one id a base."""

        def encode_raw_batch(self, sequences):
            return [["ACGT".index(letter) + 5 for letter in sequence] for sequence in sequences]

    sequences, pairs = ["A" * first], ["C" * second]
    table = Table("pairs.csv", sequences, pairs, ["0"], [2], LetterCounts(), ())
    encoded = encode_table(table, Letters(), LABELS, max_tokens)
    while first + second + 3 > max_tokens:
        first, second = (first, second - 1) if second >= first else (first - 1, second)
    assert encoded.input_ids[0].tolist() == [CLS, *[5] * first, SEP, *[6] * second, SEP]
    assert encoded.first_tokens.tolist() == [first + 2]


def test_max_tokens_without_room(tmp_path, tokenizer):
    single, pairs = table_of(tmp_path, ["ACGT"]), table_of(tmp_path, ["ACGT"], ["GG"])
    with pytest.raises(UserError, match=r"max_tokens 2 .*table\.csv.*need 3"):
        encode_table(single, tokenizer, LABELS, 2)
    with pytest.raises(UserError, match=r"max_tokens 4 .*need 5"):
        encode_table(pairs, tokenizer, LABELS, 4)
    assert encode_table(single, tokenizer, LABELS, 3).lengths.tolist() == [3]
    assert encode_table(pairs, tokenizer, LABELS, 5).lengths.tolist() == [5]


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
    for batches in (
        epoch_batches(encoded, batch_size, seed, epoch, shapes),
        evaluation_batches(encoded, batch_size, shapes),
    ):
        seen = []
        for batch in batches:
            assert batch.tokens.input_ids.shape in {(batch_size, length) for length in shapes}
            real = batch.rows >= 0
            np.testing.assert_array_equal(batch.weights, real.astype(np.float32))
            assert not batch.tokens.segment_ids[~real].any()
            for at in np.flatnonzero(real):
                row = int(batch.rows[at])
                size = int(batch.tokens.segment_ids[at].sum())
                np.testing.assert_array_equal(batch.tokens.input_ids[at, :size], encoded.input_ids[row])
                assert set(batch.tokens.input_ids[at, size:]) <= {PAD}
                assert batch.labels[at] == encoded.labels[row]
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
    share = epoch_batches(sample, 32, 1, 0, lengths).padding_share
    one_length = epoch_batches(sample, 32, 1, 0, lengths[-1:]).padding_share
    assert share < one_length < 0.5
