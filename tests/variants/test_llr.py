"""The dynamic program over segmentations against enumeration, and the normalization over all strings."""

from functools import lru_cache
from itertools import product

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from dnabert2_jax.tokenizer.kmer import KmerTokenizer
from dnabert2_jax.variants import llr
from dnabert2_jax.variants.llr import DnaPieces, log_mean
from tests.helpers import tiny_tokenizer

STRINGS = st.text("ACGT", min_size=1, max_size=9)


@lru_cache
def pieces() -> DnaPieces:
    return DnaPieces(tiny_tokenizer())


def log_ratios(log_p: np.ndarray, strings: list[str], pieces: DnaPieces) -> np.ndarray:
    """Of one input."""
    return llr.log_ratios(log_p[None], np.zeros(len(strings), int), strings, pieces)


def random_log_p(slots: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=3, size=(slots, tiny_tokenizer().vocab_size))


def enumerated(log_p: np.ndarray, string: str) -> float:
    """F_b(s): every way to cut the string, by recursion."""
    if not len(log_p):
        return float(not string)
    names = tiny_tokenizer().pieces
    return sum(
        np.exp(log_p[0, number]) * enumerated(log_p[1:], string[len(name) :])
        for number, name in enumerate(names)
        if number >= 5 and string.startswith(name)
    )


@hypothesis.given(string=STRINGS, slots=st.integers(1, 4), seed=st.integers(0, 99))
def test_the_dynamic_program_equals_enumeration(string, slots, seed):
    log_p = random_log_p(slots, seed)
    lengths = [len(name) if number >= 5 else 0 for number, name in enumerate(tiny_tokenizer().pieces)]
    weight = {length: np.exp(log_p)[:, np.equal(lengths, length)].sum(1) for length in set(lengths) - {0}}
    total = sum(
        np.prod([weight[length][slot] for slot, length in enumerate(chosen)])
        for chosen in product(weight, repeat=slots)
        if sum(chosen) == len(string)
    )
    found = log_ratios(log_p, [string], pieces())[0]
    if not total:
        assert np.isnan(found)
    else:
        assert np.exp(found) == pytest.approx(enumerated(log_p, string) / total, rel=1e-9, abs=1e-300)


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_probabilities_of_all_strings_of_a_length_sum_to_one(length):
    strings = ["".join(letters) for letters in product("ACGT", repeat=length)]
    per_count = np.stack([log_ratios(random_log_p(slots, slots), strings, pieces()) for slots in range(1, length + 1)])
    reachable = per_count[~np.isnan(per_count).any(1)]
    assert len(reachable) >= length - 1  # the longest pieces have four bases
    assert np.exp(reachable).sum(1) == pytest.approx(np.ones(len(reachable)), rel=1e-9)
    assert np.exp(log_mean(per_count)).sum() == pytest.approx(1, rel=1e-9)


def test_a_constant_for_each_slot_changes_nothing():
    log_p = random_log_p(3, 0)
    shifted = log_p + np.array([[5.0], [-700.0], [2.0]])
    np.testing.assert_allclose(
        log_ratios(log_p, ["ACGTA", "AAA"], pieces()), log_ratios(shifted, ["ACGTA", "AAA"], pieces()), rtol=1e-9
    )


def test_strings_are_independent_of_those_scored_beside_them():
    log_p = random_log_p(3, 1)
    together = log_ratios(log_p, ["ACG", "ACGTACGT", "TTT"], pieces())
    alone = [log_ratios(log_p, [string], pieces())[0] for string in ("ACG", "ACGTACGT", "TTT")]
    np.testing.assert_allclose(together, alone, rtol=1e-12)


def test_each_string_is_asked_of_its_own_input():
    log_p = np.stack([random_log_p(3, 1), random_log_p(3, 2)])
    strings = ["ACG", "ACGTACGT", "ACG"]
    together = llr.log_ratios(log_p, np.array([1, 0, 0]), strings, pieces())
    alone = [log_ratios(log_p[row], [string], pieces())[0] for row, string in zip((1, 0, 0), strings, strict=True)]
    np.testing.assert_allclose(together, alone, rtol=1e-12)
    assert abs(together[0] - together[2]) > 1e-3


def test_what_cannot_be_reached_takes_no_part_in_the_mean():
    log_p = random_log_p(3, 2)
    assert np.isnan(log_ratios(log_p, ["AC"], pieces())[0])  # three pieces have three bases or more
    both = np.array([[np.log(0.25)], [np.nan]])
    assert log_mean(both)[0] == pytest.approx(np.log(0.25))
    assert log_mean(np.array([[np.log(0.2)], [-np.inf]]))[0] == pytest.approx(np.log(0.1))


def test_many_improbable_pieces_do_not_underflow():
    names = tiny_tokenizer().pieces
    log_p = np.full((64, len(names)), -30.0)
    log_p[:, [names.index(base) for base in "ACGT"]] = [-20.0, -21.0, -22.0, -23.0]
    found = log_ratios(log_p, ["A" * 64, "C" * 64], pieces())  # e^-1280 is no float64, and one cut alone has 64 pieces
    assert np.isfinite(found).all()
    assert found[0] - found[1] == pytest.approx(64)


def test_special_tokens_and_unknown_bases_are_no_dna():
    kmers = KmerTokenizer(3, 3)
    of_kmers = DnaPieces(kmers)
    assert {name for number, name in enumerate(kmers.pieces) if number not in of_kmers.ids} == {
        *("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"),
        "N",
    }
    assert of_kmers.lengths.tolist() == [1, 3]
    # Two 3-mers or single letters: 2, 4 or 6 bases.
    log_p = np.zeros((2, kmers.vocab_size))
    assert np.isnan(log_ratios(log_p, ["ACGTA"], of_kmers)[0])
    assert np.exp(log_ratios(log_p, ["ACGT"], of_kmers)[0]) == pytest.approx(2 / (2 * 4 * 64))
