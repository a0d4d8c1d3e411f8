"""Dependencies against a model whose predictions are known, and what cannot be explained."""

from dataclasses import replace

import numpy as np
import pytest

from dnabert2_jax.data.sequences import given_sequences
from dnabert2_jax.errors import UserError
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.interpretation.dependency import dependency_maps
from dnabert2_jax.tokenizer.kmer import KmerTokenizer
from dnabert2_jax.tokenizer.special import NUM_SPECIAL
from tests.interpretation.helpers import log_odds
from tests.variants.helpers import constant_mlm

LETTERS = "ACGTTGCAATGCCATTAGGA"


@pytest.fixture(scope="module")
def constant(mlm) -> InferenceModel:
    return constant_mlm(np.random.default_rng(0).normal(size=mlm.tokenizer.vocab_size))


def expected_log_odds(model: InferenceModel, letters: str) -> np.ndarray:
    """Of a model that says the same everywhere: the share of the pieces of a token's length with a letter at a place."""
    pieces = model.tokenizer.pieces
    weights = np.exp(np.asarray(model.predictor.params["mlm"]["bias"], np.float64))
    rows = []
    for token in model.tokenizer.encode_raw(letters):
        same = [n for n in range(NUM_SPECIAL, len(pieces)) if len(pieces[n]) == len(pieces[token])]
        for place in range(len(pieces[token])):
            masses = [sum(weights[n] for n in same if pieces[n][place] == base) for base in "ACGT"]
            rows.append(log_odds(np.clip(np.array(masses) / sum(masses), 2**-24, 1 - 2**-24)))
    return np.array(rows)


def test_a_model_that_says_the_same_everywhere(constant):
    """A base then depends on others only through the boundaries of its token."""
    (result,) = dependency_maps(constant, given_sequences([LETTERS]), batch_tokens=1)
    given = expected_log_odds(constant, LETTERS)
    for i, letter in enumerate(LETTERS):
        mutants = [LETTERS[:i] + base + LETTERS[i + 1 :] for base in "ACGT" if base != letter]
        changes = [np.abs(expected_log_odds(constant, text) - given).max(1) for text in mutants]
        expected = np.max(changes, axis=0)
        expected[i] = 0
        np.testing.assert_allclose(result.values[i], expected, atol=1e-4)
    assert 0 < (result.values > 0.1).mean() < 0.5


def test_unknown_bases_have_no_value_and_others_depend_on_the_context(mlm):
    (result,) = dependency_maps(mlm, given_sequences({"n": "ACGTNACCAT"}), batch_tokens=1)
    known = np.arange(10) != 4
    assert np.isnan(result.values[~known]).all()
    assert np.isnan(result.values[:, ~known]).all()
    values = result.values[known][:, known]
    assert (np.diag(values) == 0).all()
    assert (values >= 0).all()
    assert (values > 1e-3).mean() > 0.5
    assert result.name == "n"


def test_models_that_cannot_be_explained(classifier, mlm, sequences):
    with pytest.raises(UserError, match="tiny is a classifier; dependency needs a masked_lm"):
        dependency_maps(classifier, sequences)
    with pytest.raises(UserError, match="tiny has a tokenizer of k-mers, whose neighbors give a masked token away"):
        dependency_maps(replace(mlm, tokenizer=KmerTokenizer(3, 3)), sequences)
