from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnabert2_jax.data.classification import choose_lengths, encode_table, evaluation_batches
from dnabert2_jax.data.sequences import given_sequences, read_sequences
from dnabert2_jax.data.strands import reverse_complement
from dnabert2_jax.data.tables import LabelSet, read_table
from dnabert2_jax.errors import UserError
from dnabert2_jax.inference.classify import Classifier, predict_rows
from dnabert2_jax.inference.encoding import encode_limited, window_starts
from dnabert2_jax.inference.prediction import predict
from dnabert2_jax.modeling.compute import Compute
from tests.genome.helpers import random_dna
from tests.helpers import tiny_tokenizer, write_table

PROBABILITIES = {"atol": 1e-5, "rtol": 0}


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
    limited = encode_limited(tokenizer, given_sequences([sequence]), max_tokens=max_tokens, long="windows", overlap=overlap)
    assert limited.windows.tolist() == [len(limited.rows)]
    assert limited.cut_bases.tolist() == [0]
    for row in limited.rows:
        assert len(row.ids) <= max_tokens
        bases = tokenizer.decode(row.ids)
        assert bases in sequence
        np.testing.assert_array_equal(tokenizer.encode(bases), row.ids)
    assert sum(len(tokenizer.decode(row.ids)) for row in limited.rows) >= len(sequence)


def test_as_evaluation_scores_them(classifier_path, classifier, tmp_path):
    rows = [(random_dna(int(n), seed), "other") for seed, n in enumerate(np.random.default_rng(1).integers(1, 200, 25))]
    path = write_table(tmp_path / "table.csv", rows)
    predictions = predict(classifier, read_sequences(path), batch_tokens=500)
    scored = Classifier.load(classifier_path, Compute()).score(read_table(path), batch_size=8, max_tokens=512)
    np.testing.assert_allclose(predictions.probabilities, scored, **PROBABILITIES)
    assert predictions.labels == [classifier.labels[c] for c in scored.argmax(1)]
    assert len(set(predictions.labels)) > 1
    assert predictions.windows.tolist() == [1] * 25
    assert predictions.summary() is None


@pytest.mark.parametrize("max_tokens", [512, 12])
def test_pairs_as_evaluation_scores_them(classifier_path, classifier, tmp_path, max_tokens):
    lengths = np.random.default_rng(2).integers(1, 120, (10, 2))
    rows = [(random_dna(int(a), 2 * n), random_dna(int(b), 2 * n + 1), "coding") for n, (a, b) in enumerate(lengths)]
    path = write_table(tmp_path / "table.csv", rows, "sequence1,sequence2,label")
    predictions = predict(classifier, read_sequences(path), max_tokens=max_tokens, long="cut")
    table, loaded = read_table(path), Classifier.load(classifier_path, Compute())
    encoded = encode_table(table, loaded.tokenizer, LabelSet(classifier.labels), max_tokens)
    scored = predict_rows(loaded.predict, loaded.params, evaluation_batches(encoded, 8, choose_lengths(encoded.lengths, 1)))
    np.testing.assert_allclose(predictions.probabilities, scored, **PROBABILITIES)
    assert np.count_nonzero(predictions.cut_bases) == encoded.truncated_rows


def test_windows_are_averaged(classifier):
    long, short = random_dna(600, 5), "ACGTTTGAC"
    sequences = given_sequences([short, long, short], names=["a", "b", "c"])
    predictions = predict(classifier, sequences, max_tokens=40)
    limited = encode_limited(classifier.tokenizer, sequences, max_tokens=40, long="windows", overlap=0.5)
    windows = [classifier.tokenizer.decode(row.ids) for row in limited.rows[1:-1]]
    each = predict(classifier, given_sequences(windows), max_tokens=40)
    assert each.windows.tolist() == [1] * len(windows)
    assert each.probabilities.std(0).max() > 0.01
    np.testing.assert_allclose(predictions.probabilities[1], each.probabilities.mean(0), **PROBABILITIES)
    assert predictions.windows.tolist() == [1, len(windows), 1]
    assert predictions.names == ["a", "b", "c"]
    np.testing.assert_allclose(predictions.probabilities.sum(1), 1, atol=1e-6)
    assert f"more than 40 tokens: 1, read in {len(windows)} overlapping windows" in predictions.summary()


def test_the_limit_is_what_the_model_was_trained_on(classifier_path, classifier, tmp_path):
    short = replace(classifier, head=replace(classifier.head, max_tokens=40))
    sequences = given_sequences([random_dna(600, 5), "ACGTTTGAC"])
    by_itself, asked = predict(short, sequences), predict(classifier, sequences, max_tokens=40)
    assert by_itself.windows.tolist() == asked.windows.tolist() != [1, 1]
    np.testing.assert_array_equal(by_itself.probabilities, asked.probabilities)
    path = write_table(tmp_path / "table.csv", [(random_dna(600, 5), "other"), ("ACGTTTGAC", "other")])
    scorer = Classifier.load(classifier_path, Compute())
    limited = replace(scorer, head=short.head).score(read_table(path), batch_size=8)
    np.testing.assert_array_equal(limited, scorer.score(read_table(path), batch_size=8, max_tokens=40))
    assert np.abs(limited - scorer.score(read_table(path), batch_size=8)).max() > 1e-3


def test_both_strands_are_averaged(classifier_path, classifier, tmp_path):
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
    scorer = Classifier.load(classifier_path, Compute())
    scored = scorer.score(read_table(path), batch_size=2, max_tokens=512, reverse_complement=True)
    whole = predict(classifier, read_sequences(path), reverse_complement=True)
    np.testing.assert_allclose(scored, whole.probabilities, **PROBABILITIES)


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
