"""Mutagenesis: closed forms, mutants written out and predicted one by one, and the scores of variants."""

from dataclasses import replace

import numpy as np
import pytest

from dnabert2_jax.data.sequences import given_sequences
from dnabert2_jax.errors import UserError
from dnabert2_jax.inference import masked_rows
from dnabert2_jax.inference.prediction import predict
from dnabert2_jax.interpretation import ism as module
from dnabert2_jax.interpretation.ism import ism, spans_of_sites
from dnabert2_jax.tokenizer.kmer import KmerTokenizer
from dnabert2_jax.variants.alleles import Allele
from dnabert2_jax.variants.scoring import ScoringOptions, VariantScorer
from tests.interpretation.helpers import log_odds, numbers_of_tokens
from tests.variants.helpers import LABELS, Contigs, opened


def with_base(letters: str, site: int, base: str) -> str:
    return letters[:site] + base + letters[site + 1 :]


def test_an_additive_model_in_closed_form(additive, sequences):
    numbers = numbers_of_tokens(additive)
    for result in ism(additive, sequences, batch_tokens=1):
        for site, letter in enumerate(result.sequence):
            if letter not in "ACGT":
                assert np.isnan(result.values[site]).all()
                continue
            tokens = [additive.tokenizer.encode_raw(with_base(result.sequence, site, base)) for base in "ACGT"]
            expected = np.array([numbers[ids].mean() for ids in tokens])
            np.testing.assert_allclose(result.values[site], expected, atol=1e-5)
            np.testing.assert_allclose(result.scores[site], expected - expected.mean(), atol=1e-5)
            assert result.contributions[site] == result.scores[site]["ACGT".index(letter)]
        assert result.unit == "strength"


def test_values_are_those_of_mutants_predicted_one_by_one(classifier, sequences):
    (result,) = ism(classifier, given_sequences(sequences.sequences[:1]), LABELS[1], batch_tokens=1)
    letters = result.sequence
    for site in (0, 7, 8, 9, 23):
        for number, base in enumerate("ACGT"):
            one = predict(classifier, given_sequences([with_base(letters, site, base)]), batch_tokens=1)
            assert result.values[site, number] == pytest.approx(log_odds(one.outputs[0, 1]), abs=2e-5)
    assert result.unit == "log-odds of coding-"


def test_a_saturated_probability_still_has_contributions(classifier):
    """Where p is 1 in float32, its logarithm says nothing, but logits do."""
    saved = classifier.saved()
    saved.params["classifier"]["kernel"] = saved.params["classifier"]["kernel"] * np.float32(60)
    model = opened(saved)
    letters = given_sequences(["ACGTTGCAATGCCATTAGGA"])
    predictions = predict(model, letters, batch_tokens=1)
    assert predictions.outputs.max() == 1
    (result,) = ism(model, letters, predictions.labels[0], batch_tokens=1)
    assert (np.abs(result.contributions) > 1e-2).mean() > 0.5


def test_a_masked_language_model_gives_probabilities_that_are_the_scores_of_variants(mlm, sequences):
    results = ism(mlm, sequences, batch_tokens=1)
    for result in results:
        known = np.array([letter in "ACGT" for letter in result.sequence])
        assert np.isnan(result.values[~known]).all()
        scored = np.isfinite(result.values).all(1)
        assert scored[known].mean() > 0.7  # where unknown bases are in the span, there is no value
        np.testing.assert_allclose(np.exp(result.values[scored]).sum(1), 1, atol=1e-6)
    letters = results[0].sequence
    scorer = VariantScorer(
        mlm, Contigs(c=letters), ScoringOptions(("llr",), flank=len(letters), strands="+", batch_tokens=1)
    )
    for site in (0, 11, 23):
        ref = "ACGT".index(letters[site])
        others = [n for n in range(4) if n != ref]
        alleles = scorer.score([Allele("c", site, letters[site], "ACGT"[n]) for n in others])
        found = results[0].values[site]
        np.testing.assert_allclose(found[others] - found[ref], [own.values["llr"] for own in alleles], atol=1e-5)


def test_sites_of_one_span_share_their_inputs(mlm, sequences, monkeypatch):
    """Each distinct row of tokens is run once, and there are far fewer than mutants, each with every token masked."""
    rows: list[bytes] = []

    def counting(model, batches):
        rows.extend(ids.tobytes() for ids in batches.encoded.input_ids)
        return masked_rows.log_probabilities_of_groups(model, batches)

    monkeypatch.setattr(module, "log_probabilities_of_groups", counting)
    letters = sequences.sequences[0]
    (result,) = ism(mlm, given_sequences([letters]), batch_tokens=1)
    assert np.isfinite(result.values).all()
    assert len(rows) == len(set(rows))
    spans = spans_of_sites(mlm, letters).values()
    assert len(rows) < sum(max(span.counts) - min(span.counts) + 1 for span in spans)


def test_a_span_that_is_too_long_has_no_value(mlm, sequences, monkeypatch):
    letters = given_sequences(sequences.sequences[:1])
    (whole,) = ism(mlm, letters, batch_tokens=1)
    longest = max(len(string) for span in spans_of_sites(mlm, letters.sequences[0]).values() for string in span.strings)
    monkeypatch.setattr(module, "LONGEST_SPAN", longest - 1)
    (some,) = ism(mlm, letters, batch_tokens=1)
    missing = np.isnan(some.values).all(1)
    assert 0 < missing.sum() < len(missing)
    np.testing.assert_array_equal(some.values[~missing], whole.values[~missing])


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            "coding",
            r"--target coding: tiny has no such class; accepted are coding\+, coding-, none \(did you mean 'coding.'\?\)",
        ),
        (None, r"ism explains one class of tiny; name it with --target \(target=\): coding\+, coding-, none"),
    ],
)
def test_a_class_that_the_model_lacks(classifier, sequences, target, message):
    with pytest.raises(UserError, match=message):
        ism(classifier, sequences, target)


def test_sequences_that_cannot_be_explained(classifier, mlm):
    with pytest.raises(UserError, match="sequences, 'b': 5 bases, none of them A, C, G or T: there is nothing to explain"):
        ism(mlm, given_sequences({"a": "ACGT", "b": "NNNNN"}))
    with pytest.raises(UserError, match=r"'long': 40 bases are 1\d tokens, over the 8 that are explained as a whole; cut"):
        ism(classifier, given_sequences({"long": "ACGTTGCAAT" * 4}), LABELS[0], max_tokens=8)
    with pytest.raises(UserError, match="sequences holds pairs, but one sequence is explained at a time"):
        ism(classifier, given_sequences(["ACGT"], ["ACGT"]), LABELS[0])


def test_models_that_cannot_be_explained(mlm, sequences, classifier):
    with pytest.raises(UserError, match="tiny is a masked language model, which has no classes; leave it out"):
        ism(mlm, sequences, "coding+")
    with pytest.raises(UserError, match="reads overlapping k-mers, each of which gives its neighbors away"):
        ism(replace(mlm, tokenizer=KmerTokenizer(3, 1)), sequences)
    pairs = replace(classifier, provenance={"training_data": {"pairs": True}})
    with pytest.raises(UserError, match="tiny was trained on pairs of sequences; ism explains classifiers of single"):
        ism(pairs, sequences, LABELS[0])
