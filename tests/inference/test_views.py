import numpy as np
import pytest

from dnabert2_jax.api import DNABERT2
from dnabert2_jax.data.batches import Batches
from dnabert2_jax.data.encoding import encode_sequences
from dnabert2_jax.data.packing import pack
from dnabert2_jax.data.reading import read_table
from dnabert2_jax.data.sequences import given_sequences, other_strand
from dnabert2_jax.errors import UserError
from dnabert2_jax.inference.evaluation import evaluate
from dnabert2_jax.inference.prediction import predict
from dnabert2_jax.inference.views import other_segmentation, views_of
from dnabert2_jax.tokenizer.dropout import BpeDropout
from dnabert2_jax.tokenizer.kmer import KmerTokenizer
from tests.genome.helpers import random_dna
from tests.helpers import write_table

DNA = [random_dna(n, n) for n in (30, 200, 77)]


def read_with(model, sequences, tokenizer):
    rows: Batches = pack(encode_sequences(sequences, tokenizer), 4096)
    return model.predictor.class_outputs(rows)


def test_one_view_is_the_prediction_and_two_are_both_strands(classifier):
    given = given_sequences(DNA)
    once = predict(classifier, given)
    np.testing.assert_array_equal(predict(classifier, given, views=1).outputs, once.outputs)
    both = predict(classifier, given, reverse_complement=True)
    np.testing.assert_array_equal(predict(classifier, given, views=2).outputs, both.outputs)
    assert np.abs(both.outputs - once.outputs).max() > 1e-2


def test_the_mean_over_strands_and_segmentations(classifier):
    given = given_sequences(DNA)
    dropping = [other_segmentation(classifier.tokenizer, number) for number in (2, 3)]
    views = [
        read_with(classifier, given, classifier.tokenizer),
        read_with(classifier, other_strand(given), classifier.tokenizer),
        read_with(classifier, given, dropping[0]),
        read_with(classifier, other_strand(given), dropping[1]),
    ]
    assert len({view.tobytes() for view in views}) == 4
    for count in (3, 4):
        mean = np.mean(views[:count], axis=0)
        found = predict(classifier, given, views=count, reverse_complement=True)
        np.testing.assert_allclose(found.outputs, mean, atol=1e-5, rtol=0)
    assert found.windows.tolist() == [1, 1, 1]


def test_a_row_is_read_alike_in_any_company(classifier):
    alone = [predict(classifier, given_sequences([dna]), views=5).outputs[0] for dna in DNA]
    np.testing.assert_allclose(predict(classifier, given_sequences(DNA[::-1]), views=5).outputs[::-1], alone, atol=1e-6)


def test_long_rows_are_read_in_windows_in_every_view(classifier):
    given = given_sequences([random_dna(600, 5), "ACGTTTGAC"])
    whole = predict(classifier, given, views=3, max_tokens=40)
    assert whole.windows[0] > 1
    _, _, (_, dropping) = views_of(given, classifier.tokenizer, 3)
    assert isinstance(dropping, BpeDropout)
    np.testing.assert_allclose(whole.outputs.sum(1), 1, atol=1e-6)


def test_from_python_and_the_command_line(classifier, classifier_path, dnabert2, tmp_path):
    table = write_table(tmp_path / "rows.csv", [(dna, "coding") for dna in DNA])
    expected = predict(classifier, given_sequences(DNA), views=3).outputs
    model = DNABERT2.load(classifier_path)
    np.testing.assert_allclose(model.predict(DNA, views=3).probabilities, expected, atol=1e-6)
    np.testing.assert_allclose(next(model.iter_predict(DNA, views=3)).probabilities, expected, atol=1e-6)
    words = ("--model", classifier_path, "--data", table, "--views", 3, "--out")
    assert dnabert2("predict", *words, tmp_path / "p.csv")[0] == 0
    written = np.loadtxt(tmp_path / "p.csv", delimiter=",", skiprows=1, usecols=(2, 3, 4))
    np.testing.assert_allclose(written, expected, atol=1e-5)
    code, out, _ = dnabert2("evaluate", *words, "-")
    found = evaluate(classifier, read_table(table), views=3).scores["loss"]
    assert code == 0
    assert f'"loss": {found}' in out
    assert model.evaluate(table, views=3)["loss"] == found != model.evaluate(table)["loss"]


def test_mistakes(classifier):
    given = given_sequences(DNA)
    with pytest.raises(UserError, match="views 0 is out of range"):
        predict(classifier, given, views=0)
    assert len(list(views_of(given, KmerTokenizer(3, 1), 2))) == 2
    with pytest.raises(UserError, match=r"this model reads k-mers.*; use --views 2 at most"):
        list(views_of(given, KmerTokenizer(3, 1), 3))
