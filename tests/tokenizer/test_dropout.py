from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnabert2_jax.draws import Domain, uniform
from dnabert2_jax.tokenizer.bpe import FIRST_MERGE, BpeTokenizer
from dnabert2_jax.tokenizer.dropout import BpeDropout
from dnabert2_jax.tokenizer.special import UNK
from dnabert2_jax.tokenizer.training import train_bpe

SEQUENCES = st.lists(st.text("ACGTN", max_size=60) | st.text("AC", max_size=60), min_size=1, max_size=6)
RATES = st.sampled_from([0.1, 0.5, 0.9])


@pytest.fixture(scope="module")
def tokenizer() -> BpeTokenizer:
    letters = np.random.default_rng(0).choice(list("ACGT"), size=(200, 120), p=[0.4, 0.1, 0.2, 0.3])
    return train_bpe(["".join(row) for row in letters], vocab_size=120)


def dropping(tokenizer: BpeTokenizer, rate: float, seed: int = 0, epoch: int = 0) -> BpeDropout:
    return BpeDropout(tokenizer, rate, seed=seed, epoch=epoch)


def ids(tokenizer, sequences) -> list[list[int]]:
    return [row.tolist() for row in tokenizer.encode_raw_batch(sequences)]


@given(SEQUENCES)
def test_at_0_the_tokens_are_the_tokenizers_own(tokenizer, sequences):
    assert ids(dropping(tokenizer, 0), sequences) == ids(tokenizer, sequences)


@given(SEQUENCES, RATES)
def test_the_bases_stay_and_at_1_each_is_a_token(tokenizer, sequences, rate):
    found = ids(dropping(tokenizer, rate), sequences)
    assert [tokenizer.decode(row) for row in found] == sequences
    assert ids(dropping(tokenizer, 1), sequences) == [[tokenizer.encode_raw(base)[0] for base in row] for row in sequences]


@given(SEQUENCES, RATES)
def test_a_row_is_read_alike_whatever_comes_after_it(tokenizer, sequences, rate):
    whole = ids(dropping(tokenizer, rate), sequences)
    assert ids(dropping(tokenizer, rate), sequences[:1]) == whole[:1]


@given(SEQUENCES, RATES)
def test_which_merges_are_left_out_is_a_hash_of_seed_epoch_row_place_and_merge(tokenizer, sequences, rate):
    """The definition, merge by merge: runs that began with earlier versions resume with the segmentations they had."""
    numbers = {piece: number for number, piece in enumerate(tokenizer.pieces)}
    pairs = {pair: merge for merge, pair in enumerate(tokenizer.merges(), FIRST_MERGE) if pair}
    for row, sequence in enumerate(sequences):
        parts = list(sequence)
        while True:
            starts = np.cumsum([0, *map(len, parts)]).tolist()
            possible = [
                (merge, at)
                for at, pair in enumerate(pairwise(parts))
                if (merge := pairs.get(pair)) is not None
                and uniform(4, Domain.BPE_DROPOUT, 2, row, starts[at], merge)[0] >= rate
            ]
            if not possible:
                break
            _, at = min(possible)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        expected = [numbers.get(part, UNK) for part in parts]
        assert ids(dropping(tokenizer, rate, seed=4, epoch=2), sequences)[row] == expected


def test_seed_epoch_and_row_draw_of_their_own(tokenizer):
    row = "ACGTTTGACA" * 12
    readings = [
        *ids(dropping(tokenizer, 0.3), [row, row]),
        *ids(dropping(tokenizer, 0.3, seed=1), [row]),
        *ids(dropping(tokenizer, 0.3, epoch=1), [row]),
    ]
    assert len({tuple(reading) for reading in readings}) == 4


def test_the_rate_is_the_share_of_first_merges_left_out(tokenizer):
    """Two letters that merge, again and again, kept apart by N: the draws are independent, so their share is the rate."""
    pair = tokenizer.pieces[FIRST_MERGE]
    rows = [f"{pair}N" * 100] * 100
    (kept,) = np.array([row.count(FIRST_MERGE) for row in ids(dropping(tokenizer, 0.1), rows)]).sum()[None]
    assert abs(kept / 10_000 - 0.9) < 4 * np.sqrt(0.9 * 0.1 / 10_000)


@given(SEQUENCES)
def test_by_its_letters_a_row_is_read_alike_in_any_company(tokenizer, sequences):
    def read(rows):
        return ids(BpeDropout(tokenizer, 0.5, seed=0, epoch=1, by_letters=True), rows)

    assert read(sequences[::-1] * 2) == [row for sequence in sequences[::-1] * 2 for row in read([sequence])]


def test_rows_of_other_letters_draw_of_their_own(tokenizer):
    first, second = ids(BpeDropout(tokenizer, 0.5, seed=0, epoch=0, by_letters=True), ["ACGT" * 30 + end for end in "AC"])
    assert first[:20] != second[:20]
