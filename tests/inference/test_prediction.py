from dataclasses import replace

import numpy as np
import pytest

from dnabert2_jax.data.by_length import choose_lengths, evaluation_batches
from dnabert2_jax.data.encoding import encode_sequences, encode_table
from dnabert2_jax.data.labels import LabelSet
from dnabert2_jax.data.reading import read_sequences, read_table
from dnabert2_jax.data.sequences import given_sequences, other_strand, reverse_complement
from dnabert2_jax.errors import UserError
from dnabert2_jax.inference.prediction import predict
from tests.genome.helpers import random_dna
from tests.helpers import write_table

PROBABILITIES = {"atol": 1e-5, "rtol": 0}


def by_length(model, table, max_tokens, batch_size=8):
    """Outputs of a labeled table in batches of one sequence a row, as fine-tuning evaluates."""
    encoded = encode_table(table, model.tokenizer, LabelSet(model.labels), max_tokens, token_types=model.head.token_types)
    return model.predictor.class_outputs(evaluation_batches(encoded, batch_size, choose_lengths(encoded.lengths))), encoded


def test_as_fine_tuning_evaluates_them(classifier, tmp_path):
    rows = [(random_dna(int(n), seed), "other") for seed, n in enumerate(np.random.default_rng(1).integers(1, 200, 25))]
    path = write_table(tmp_path / "table.csv", rows)
    predictions = predict(classifier, read_sequences(path), batch_tokens=500)
    scored, _ = by_length(classifier, read_table(path), 512)
    np.testing.assert_allclose(predictions.probabilities, scored, **PROBABILITIES)
    assert predictions.labels == [classifier.labels[c] for c in scored.argmax(1)]
    assert len(set(predictions.labels)) > 1
    assert predictions.windows.tolist() == [1] * 25
    assert predictions.summary() == "doubtful predictions (column note): 2 shorter than 10 bases"


@pytest.mark.parametrize("max_tokens", [512, 12])
def test_pairs_as_fine_tuning_evaluates_them(classifier, tmp_path, max_tokens):
    lengths = np.random.default_rng(2).integers(1, 120, (10, 2))
    rows = [(random_dna(int(a), 2 * n), random_dna(int(b), 2 * n + 1), "coding") for n, (a, b) in enumerate(lengths)]
    path = write_table(tmp_path / "table.csv", rows, "sequence1,sequence2,label")
    predictions = predict(classifier, read_sequences(path), max_tokens=max_tokens, long="cut")
    scored, encoded = by_length(classifier, read_table(path), max_tokens)
    np.testing.assert_allclose(predictions.probabilities, scored, **PROBABILITIES)
    assert np.count_nonzero(predictions.cut_bases) == encoded.truncated_rows


def test_windows_are_averaged(classifier):
    long, short = random_dna(600, 5), "ACGTTTGAC"
    sequences = given_sequences([short, long, short], names=["a", "b", "c"])
    predictions = predict(classifier, sequences, max_tokens=40)
    limited = encode_sequences(sequences, classifier.tokenizer, 40)
    windows = [classifier.tokenizer.decode(ids) for ids in limited.input_ids[1:-1]]
    each = predict(classifier, given_sequences(windows), max_tokens=40)
    assert each.windows.tolist() == [1] * len(windows)
    assert each.probabilities.std(0).max() > 0.01
    np.testing.assert_allclose(predictions.probabilities[1], each.probabilities.mean(0), **PROBABILITIES)
    assert predictions.windows.tolist() == [1, len(windows), 1]
    assert predictions.names == ["a", "b", "c"]
    np.testing.assert_allclose(predictions.probabilities.sum(1), 1, atol=1e-6)
    assert f"more than 40 tokens: 1, read in {len(windows)} overlapping windows" in predictions.summary()


def test_the_limit_is_what_the_model_was_trained_on(classifier):
    forward = classifier.predictor.forward
    limited = replace(forward, head=replace(forward.head, max_tokens=40))
    short = replace(classifier, predictor=replace(classifier.predictor, forward=limited))
    sequences = given_sequences([random_dna(600, 5), "ACGTTTGAC"])
    by_itself, asked = predict(short, sequences), predict(classifier, sequences, max_tokens=40)
    assert by_itself.windows.tolist() == asked.windows.tolist() != [1, 1]
    np.testing.assert_array_equal(by_itself.probabilities, asked.probabilities)
    cut, asked = predict(short, sequences, long="cut"), predict(classifier, sequences, max_tokens=40, long="cut")
    np.testing.assert_array_equal(cut.probabilities, asked.probabilities)
    assert np.abs(cut.probabilities - predict(classifier, sequences).probabilities).max() > 1e-3


def test_both_strands_are_averaged(classifier, tmp_path):
    rows = [(random_dna(n, n), "other") for n in (30, 200, 77)]
    path = write_table(tmp_path / "table.csv", rows)
    flipped = given_sequences([reverse_complement(sequence) for sequence, _ in rows])
    for limits in ({"max_tokens": 512}, {"max_tokens": 20}):
        forward, backward = (predict(classifier, given, **limits) for given in (read_sequences(path), flipped))
        assert np.abs(forward.probabilities - backward.probabilities).max() > 1e-2
        both = predict(classifier, read_sequences(path), reverse_complement=True, **limits)
        mean = (forward.probabilities + backward.probabilities) / 2
        np.testing.assert_allclose(both.probabilities, mean, **PROBABILITIES)
        assert both.windows.tolist() == forward.windows.tolist()
    table = read_table(path)
    strands = [by_length(classifier, strand, 512, batch_size=2)[0] for strand in (table, other_strand(table))]
    whole = predict(classifier, table, reverse_complement=True)
    np.testing.assert_allclose(np.mean(strands, axis=0), whole.probabilities, **PROBABILITIES)


def test_cut_sequences_say_how_much_was_not_read(classifier):
    long = random_dna(600, 5)
    cut = predict(classifier, given_sequences([long, "ACGT"]), max_tokens=40, long="cut")
    assert cut.windows.tolist() == [1, 1]
    assert cut.cut_bases[1] == 0
    read = long[: 600 - int(cut.cut_bases[0])]
    assert 38 <= len(read) < 300
    np.testing.assert_allclose(
        predict(classifier, given_sequences([read]), max_tokens=40).probabilities, cut.probabilities[:1], **PROBABILITIES
    )
    assert f"rows cut to 40 tokens: 1; {600 - len(read)} bases were not read" in cut.summary()


def test_mistakes(classifier, mlm):
    dna, pair = given_sequences([random_dna(100, 1)]), given_sequences([random_dna(100, 1)], [random_dna(90, 2)])
    with pytest.raises(
        UserError, match=r"is a masked_lm; prediction needs a classifier: train one with `dnabert2 finetune`"
    ):
        predict(mlm, dna)
    with pytest.raises(UserError, match="max_tokens 2 is too small"):
        predict(classifier, dna, max_tokens=2)
    with pytest.raises(UserError, match="overlap 1 is out of range"):
        predict(classifier, dna, overlap=1)
    with pytest.raises(UserError, match=r"sequences, '1': this pair has [0-9]+ tokens, over max_tokens 20.*--long cut"):
        predict(classifier, pair, max_tokens=20)
