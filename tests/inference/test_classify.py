import jax
import numpy as np
import pytest

from dnabert2_jax.artifacts.adapter import load_adapter
from dnabert2_jax.artifacts.model import load_model
from dnabert2_jax.data.classification import choose_lengths, encode_table, evaluation_batches
from dnabert2_jax.data.tables import LabelSet, read_table
from dnabert2_jax.errors import UserError
from dnabert2_jax.inference.classify import Classifier, make_predict, predict_rows
from dnabert2_jax.modeling.compute import Compute
from dnabert2_jax.modeling.models import sequence_classifier
from tests.genome.helpers import random_dna
from tests.helpers import tiny_model, write_table


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Rows of very different lengths in no order, with labels of three classes."""
    lengths = np.random.default_rng(1).integers(3, 150, 23)
    labels = ("coding", "intergenic", "other")
    rows = [(random_dna(n, seed), labels[seed % 3]) for seed, n in enumerate(lengths)]
    return read_table(write_table(tmp_path_factory.mktemp("table") / "rows.csv", rows))


@pytest.fixture(scope="module")
def scorer(classifier_path):
    return Classifier.load(classifier_path, Compute())


@pytest.fixture(scope="module")
def scores(scorer, table):
    return scorer.score(table, batch_size=8, max_tokens=512)


def test_probabilities_sum_to_one_and_differ_from_row_to_row(scores, table):
    assert scores.shape == (len(table), 3)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores.sum(1), 1, atol=1e-6)
    assert scores.std(0).min() > 0.01


def test_rows_come_back_in_file_order(scorer, scores, table, classifier_path):
    """Each row on its own, by the model and nothing else."""
    model = load_model(classifier_path)
    network = sequence_classifier(model.config, 3)
    params = jax.device_put(model.params)
    logits = jax.jit(lambda tokens: network.bind(params).logits(tokens))
    encoded = encode_table(table, model.tokenizer, LabelSet(model.labels), 512)
    lone = evaluation_batches(encoded, 1, (int(encoded.lengths.max()),))
    assert sorted(int(batch.rows[0]) for batch in lone) == list(range(len(table)))
    for batch in lone:
        expected = jax.nn.softmax(logits(batch.tokens))[0]
        np.testing.assert_allclose(scores[batch.rows[0]], expected, atol=2e-5)


def test_batch_size_and_padding_change_nothing_but_rounding(scorer, scores, table):
    np.testing.assert_allclose(scorer.score(table, batch_size=5, max_tokens=512), scores, atol=2e-5)


def test_rows_that_are_cut_are_reported(scorer, scores, table, capsys):
    cut = scorer.score(table, batch_size=8, max_tokens=16)
    assert "rows were cut to max_tokens 16 and lost" in capsys.readouterr().err
    short = encode_table(table, scorer.tokenizer, scorer.labels, 512).lengths <= 16
    np.testing.assert_allclose(cut[short], scores[short], atol=2e-5)
    assert np.abs(cut[~short] - scores[~short]).max() > 1e-3


def two_classes(table):
    """The same rows with labels of two classes."""
    return read_table(
        write_table(table.path.with_name("two.csv"), [(s, "no" if n % 2 else "yes") for n, s in enumerate(table.sequences)])
    )


def test_an_adapter_scores_merged_as_it_did_in_training(adapter_path, table):
    """In training the low-rank term is added to the projection; in use it is folded into the weights."""
    adapter = load_adapter(adapter_path)
    network = sequence_classifier(adapter.base.config, 2)
    encoded = encode_table(two_classes(table), adapter.base.tokenizer, LabelSet(adapter.labels), 512)
    batches = evaluation_batches(encoded, 8, choose_lengths(encoded.lengths, 1))
    params = jax.device_put({**adapter.params, "encoder": adapter.base.params["encoder"]})
    unmerged = predict_rows(make_predict(network, adapter.lora), params, batches)
    merged = Classifier.load(adapter_path, Compute()).score(two_classes(table), batch_size=8, max_tokens=512)
    np.testing.assert_allclose(merged, unmerged, atol=2e-5)
    without = {name: part for name, part in params.items() if name != "adapter"}
    assert np.abs(predict_rows(make_predict(network, None), without, batches) - unmerged).max() > 1e-2


def test_an_adapter_with_its_base_moved_needs_it_named(tmp_path, adapter_path, mlm_path, table):
    tiny_model(tmp_path / "other", seed=8)
    given = Classifier.load(adapter_path, Compute(), mlm_path)
    assert given.labels.names == ("no", "yes")
    with pytest.raises(UserError, match="trained on a base whose encoder has sha256"):
        Classifier.load(adapter_path, Compute(), tmp_path / "other")


def test_what_is_no_classifier_is_refused(mlm_path, classifier_path, tmp_path):
    with pytest.raises(UserError, match="is a masked_lm; scoring needs a classifier: train one with `dnabert2 finetune`"):
        Classifier.load(mlm_path, Compute())
    with pytest.raises(UserError, match="is a whole model, not an adapter"):
        Classifier.load(classifier_path, Compute(), mlm_path)
    with pytest.raises(UserError, match="nowhere"):
        Classifier.load(tmp_path / "nowhere", Compute())


def test_a_label_that_is_no_class_is_refused(scorer, table):
    with pytest.raises(UserError, match=r"two\.csv, line 2: label 'yes' is not a class"):
        scorer.score(two_classes(table), batch_size=8, max_tokens=512)
