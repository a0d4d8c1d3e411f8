from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dnabert2_jax.artifacts.adapter import load_adapter
from dnabert2_jax.artifacts.model import load_model
from dnabert2_jax.data.by_length import choose_lengths, evaluation_batches
from dnabert2_jax.data.encoding import encode_sequences, encode_table
from dnabert2_jax.data.labels import LabelSet
from dnabert2_jax.data.packing import pack
from dnabert2_jax.data.reading import read_table
from dnabert2_jax.data.sequences import given_sequences
from dnabert2_jax.errors import UserError
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.inference.predictor import Forward, Predictor, memory_explained, pool_slots, run_batches
from dnabert2_jax.modeling.compute import Compute
from dnabert2_jax.modeling.models import sequence_classifier
from dnabert2_jax.tokenizer.special import CLS, PAD, SEP
from dnabert2_jax.types import TokenBatch
from tests.genome.helpers import random_dna
from tests.helpers import write_table


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Rows of very different lengths in no order, with labels of three classes."""
    lengths = np.random.default_rng(1).integers(3, 150, 23)
    labels = ("coding", "intergenic", "other")
    rows = [(random_dna(n, seed), labels[seed % 3]) for seed, n in enumerate(lengths)]
    return read_table(write_table(tmp_path_factory.mktemp("table") / "rows.csv", rows))


def outputs(model, table, batch_size=8, max_tokens=512):
    encoded = encode_table(table, model.tokenizer, LabelSet(model.labels), max_tokens)
    return model.predictor.class_outputs(evaluation_batches(encoded, batch_size, choose_lengths(encoded.lengths)))


@pytest.fixture(scope="module")
def scores(classifier, table):
    return outputs(classifier, table)


def test_probabilities_sum_to_one_and_differ_from_row_to_row(scores, table):
    assert scores.shape == (len(table), 3)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores.sum(1), 1, atol=1e-6)
    assert scores.std(0).min() > 0.01


def test_rows_come_back_in_file_order(scores, table, classifier_path):
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


def test_batch_size_and_padding_change_nothing_but_rounding(classifier, scores, table):
    np.testing.assert_allclose(outputs(classifier, table, batch_size=5), scores, atol=2e-5)


def test_only_rows_that_are_cut_change(classifier, scores, table):
    cut = outputs(classifier, table, max_tokens=16)
    short = encode_sequences(table, classifier.tokenizer).lengths <= 16
    np.testing.assert_allclose(cut[short], scores[short], atol=2e-5)
    assert np.abs(cut[~short] - scores[~short]).max() > 1e-3


def two_classes(table):
    """The same rows with labels of two classes."""
    return read_table(
        write_table(table.path.with_name("two.csv"), [(s, "no" if n % 2 else "yes") for n, s in enumerate(table.sequences)])
    )


def test_an_adapter_scores_merged_as_it_did_in_training(adapter_path, table):
    """In training the low-rank term is added to the projection; in use it is folded into the weights."""
    adapter, two = load_adapter(adapter_path), two_classes(table)
    params = jax.device_put({**adapter.params, "encoder": adapter.base.params["encoder"]})
    encoded = encode_table(two, adapter.base.tokenizer, LabelSet(adapter.labels), 512)
    batches = evaluation_batches(encoded, 8, choose_lengths(encoded.lengths, 1))
    unmerged = Predictor(Forward(adapter.base.config, Compute(), 2, lora=adapter.lora), params).class_outputs(batches)
    merged = outputs(InferenceModel.load(adapter_path, Compute()), two)
    np.testing.assert_allclose(merged, unmerged, atol=2e-5)
    without = {name: part for name, part in params.items() if name != "adapter"}
    plain = Predictor(Forward(adapter.base.config, Compute(), 2), without)
    assert np.abs(plain.class_outputs(batches) - unmerged).max() > 1e-2


def test_other_parameters_compile_nothing_again(classifier, table):
    other = Predictor(classifier.predictor.forward, sequence_classifier(classifier.config, 3).init(9))
    encoded = encode_table(table, classifier.tokenizer, LabelSet(classifier.labels), 512)
    batches = evaluation_batches(encoded, 8, choose_lengths(encoded.lengths))
    first = classifier.predictor.class_outputs(batches)
    compiled = classifier.predictor.forward.class_outputs._cache_size()
    assert np.abs(other.class_outputs(batches) - first).max() > 1e-3
    assert classifier.predictor.forward.class_outputs._cache_size() == compiled


def test_equal_forward_passes_are_compiled_once(classifier):
    forward = classifier.predictor.forward
    assert replace(forward).class_outputs is forward.class_outputs
    assert replace(forward, classes=7).class_outputs is not forward.class_outputs
    assert replace(forward, compute=Compute("bfloat16")).class_outputs is not forward.class_outputs


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_pooling_stays_inside_a_slot_and_leaves_special_tokens_out(pooling):
    ids = np.array([[CLS, 5, 0, SEP, CLS, 6, SEP, PAD], [CLS, 7, 8, 9, SEP, 6, SEP, PAD]], np.int32)
    segments = np.array([[1, 1, 1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 1, 1, 1, 0]], np.int32)
    hidden = np.random.default_rng(0).normal(size=(2, 8, 3)).astype(np.float32)
    members = {(0, 0): [1, 2], (0, 1): [5], (1, 0): [1, 2, 3, 5]}
    pooled = np.asarray(pool_slots(jnp.asarray(hidden), TokenBatch(ids, segments, segments), 2, pooling))
    for (row, slot), at in members.items():
        own = hidden[row, at]
        expected = {"mean": own.mean(0), "max": own.max(0)}[pooling]
        np.testing.assert_allclose(pooled[row, slot], expected, atol=1e-6)


def test_batches_come_in_order_and_the_device_is_one_ahead(mlm):
    batches = pack(encode_sequences(given_sequences(["ACGT" * n for n in (40, 30, 20, 10)]), mlm.tokenizer), 64)
    dispatched = []

    def function(batch):
        dispatched.append(batch.rows)
        return jnp.asarray(batch.starts)

    for number, (batch, result) in enumerate(run_batches(function, batches, None), start=1):
        np.testing.assert_array_equal(result, batch.starts)
        assert batch.rows is dispatched[number - 1]
        assert len(dispatched) == min(number + 1, len(batches))
    assert number == len(batches) > 2


def test_too_little_memory_says_what_to_do():
    with pytest.raises(UserError, match=r"out of memory on the cpu device .*--batch-tokens"), memory_explained():
        jnp.zeros((2**46,), jnp.float32).block_until_ready()
    with pytest.raises(TypeError), memory_explained():
        jnp.zeros(2) + "text"
