import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnabert2_jax import sample_data
from dnabert2_jax.data.by_length import choose_lengths, evaluation_batches
from dnabert2_jax.data.encoding import encode_sequences, encode_table, window_starts
from dnabert2_jax.data.labels import LabelSet
from dnabert2_jax.data.reading import read_table
from dnabert2_jax.data.sequences import Table, given_sequences, other_strand
from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.letters import LetterCounts
from dnabert2_jax.tokenizer.base import Tokenizer
from dnabert2_jax.tokenizer.special import CLS, PAD, SEP
from dnabert2_jax.tokenizer.training import train_bpe
from tests.helpers import tiny_tokenizer

LABELS = LabelSet(("0", "1"))


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_bpe(read_table(sample_data.table("dev")).sequences, vocab_size=256)


def table_of(tmp_path, sequences, pairs=None) -> Table:
    path = tmp_path / "table.csv"
    header = "sequence,label" if pairs is None else "sequence1,sequence2,label"
    columns = [sequences] if pairs is None else [sequences, pairs]
    path.write_text("\n".join([header, *(",".join([*texts, "1"]) for texts in zip(*columns, strict=True))]) + "\n")
    return read_table(path)


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
    given, other = (encode_table(t, tokenizer, LABELS, 512) for t in (table, other_strand(table)))
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

        def encode_raw_batch(self, sequences, num_threads=1):
            return [np.array(["ACGT".index(letter) + 5 for letter in sequence]) for sequence in sequences]

        def token_bases(self, ids):
            return np.ones_like(ids)

    sequences, pairs = ["A" * first], ["C" * second]
    table = Table("pairs.csv", ["1"], sequences, pairs, LetterCounts(), ["0"], [2])
    encoded = encode_table(table, Letters(), LABELS, max_tokens)
    whole = first + second
    while first + second + 3 > max_tokens:
        first, second = (first, second - 1) if second >= first else (first - 1, second)
    assert encoded.input_ids[0].tolist() == [CLS, *[5] * first, SEP, *[6] * second, SEP]
    assert encoded.first_tokens.tolist() == [first + 2]
    assert encoded.cut_bases.tolist() == [whole - first - second]


def test_max_tokens_without_room(tmp_path, tokenizer):
    single, pairs = table_of(tmp_path, ["ACGT"]), table_of(tmp_path, ["ACGT"], ["GG"])
    with pytest.raises(UserError, match=r"max_tokens 2 .*table\.csv.*need 3"):
        encode_table(single, tokenizer, LABELS, 2)
    with pytest.raises(UserError, match=r"max_tokens 4 .*need 5"):
        encode_table(pairs, tokenizer, LABELS, 4)
    assert encode_table(single, tokenizer, LABELS, 3).lengths.tolist() == [3]
    assert encode_table(pairs, tokenizer, LABELS, 5).lengths.tolist() == [5]


@given(st.integers(1, 3000), st.integers(1, 200), st.floats(0, 0.99))
def test_windows_cover_everything_and_overlap(extra, window, overlap):
    tokens = window + extra
    starts = window_starts(tokens, window, overlap)
    assert starts[0] == 0
    assert starts[-1] == tokens - window
    steps = np.diff(starts)
    assert (steps >= 1).all()
    assert steps.max() <= max(1, window * (1 - overlap))
    assert steps.max() - steps.min() <= 1
    assert len(starts) == 1 or (len(starts) - 2) * max(1, int(window * (1 - overlap))) < extra


@given(st.text("ACGTN", min_size=1, max_size=400), st.integers(4, 60), st.sampled_from([0.0, 0.5, 0.9]))
def test_a_window_has_the_tokens_that_its_bases_alone_would_get(sequence, max_tokens, overlap):
    tokenizer = tiny_tokenizer()
    limited = encode_sequences(given_sequences([sequence]), tokenizer, max_tokens, long="windows", overlap=overlap)
    assert limited.windows.tolist() == [len(limited)]
    assert limited.cut_bases.tolist() == [0]
    for ids in limited.input_ids:
        assert len(ids) <= max_tokens
        bases = tokenizer.decode(ids)
        assert bases in sequence
        np.testing.assert_array_equal(tokenizer.encode(bases), ids)
    assert sum(len(tokenizer.decode(ids)) for ids in limited.input_ids) >= len(sequence)
