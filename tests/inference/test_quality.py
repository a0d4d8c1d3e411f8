from dataclasses import replace

import pytest

from dnabert2_jax.data.sequences import given_sequences
from dnabert2_jax.errors import UserError
from dnabert2_jax.inference.prediction import predict
from tests.genome.helpers import random_dna

SEEN = {"shortest": 20, "longest": 60, "pairs": False}


def test_doubtful_sequences_are_noted_and_counted(classifier):
    given = given_sequences(["A", "N" * 50, random_dna(40, 1), random_dna(61, 2), random_dna(19, 3)])
    predictions = predict(replace(classifier, provenance={"training_data": SEEN}), given)
    assert predictions.notes == [
        "too_short;shorter_than_training",
        "mostly_unk",
        "",
        "longer_than_training",
        "shorter_than_training",
    ]
    assert predictions.summary() == (
        "doubtful predictions (column note): 1 shorter than 10 bases, 1 mostly [UNK], 2 shorter than any training row "
        "(20 bases), 1 longer than any training row (60 bases)"
    )


def test_a_model_that_does_not_say_what_it_was_trained_on_is_not_compared(classifier):
    assert predict(classifier, given_sequences([random_dna(15, 1), random_dna(900, 2)])).notes == ["", ""]


def test_unknown_tokens_are_counted_over_all_windows(classifier):
    long = random_dna(100, 1) + "N" * 400
    assert predict(classifier, given_sequences([long]), max_tokens=32).notes == ["mostly_unk"]


def test_pairs_and_single_sequences_are_told_apart(classifier):
    single = replace(classifier, provenance={"training_data": SEEN})
    with pytest.raises(UserError, match=r"sequences: these are pairs, but .*model was trained on single sequences"):
        predict(single, given_sequences(["ACGT"], ["ACGT"]))
    pairs = replace(classifier, provenance={"training_data": {**SEEN, "pairs": True}})
    with pytest.raises(UserError, match=r"these are single sequences, but .* trained on pairs; give it pairs"):
        predict(pairs, given_sequences(["ACGT"]))
