"""Rows divided among eight devices give what one device gives."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from dnabert2_jax.data.encoding import encode_sequences
from dnabert2_jax.data.packing import pack
from dnabert2_jax.data.reading import read_table
from dnabert2_jax.data.sequences import given_sequences
from dnabert2_jax.inference.embedding import embed
from dnabert2_jax.inference.evaluation import evaluate
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.inference.prediction import predict
from dnabert2_jax.inference.predictor import Predictor, default_devices
from dnabert2_jax.inference.token_ids import TokenIdOutputs, token_batch
from dnabert2_jax.interpretation.attention import attention_maps
from dnabert2_jax.interpretation.ism import ism
from dnabert2_jax.interpretation.saliency import saliency
from tests.genome.helpers import random_dna
from tests.helpers import write_table

DEVICES = 8


def on_eight(model: InferenceModel) -> InferenceModel:
    predictor = Predictor.on_local_devices(model.predictor.forward, model.predictor.params, DEVICES)
    return replace(model, predictor=predictor)


@pytest.fixture(scope="module")
def eight(classifier):
    return on_eight(classifier)


@pytest.fixture(scope="module")
def sequences():
    """11 sequences of several lengths: packed into batches of 3 and 5 rows, say, but of 8 only by chance."""
    return given_sequences([random_dna(n, n) for n in (30, 200, 210, 220, 230, 40, 240, 250, 50, 260, 270)])


def test_each_device_computes_its_own_rows(eight, sequences):
    batch = pack(encode_sequences(sequences, eight.tokenizer), 8 * 128)[0]
    rows, tokens = batch.tokens.input_ids.shape
    height = -(-rows // DEVICES) * DEVICES
    whole = jax.tree.map(lambda leaf: np.resize(leaf, (height, *leaf.shape[1:])), batch.tokens)
    hidden = eight.predictor.forward.hidden_states(eight.predictor.params, whole)
    shards = hidden.addressable_shards
    assert len({shard.device for shard in shards}) == DEVICES
    assert {shard.data.shape for shard in shards} == {(height // DEVICES, tokens, eight.config.hidden_size)}


@pytest.mark.parametrize("pooling", ["mean", "token"])
def test_embeddings(classifier, eight, sequences, pooling):
    one, divided = (embed(model, sequences, pooling, batch_tokens=512) for model in (classifier, eight))
    np.testing.assert_allclose(divided.vectors, one.vectors, atol=2e-5)


def test_predictions_and_scores(classifier, eight, sequences, tmp_path):
    one, divided = (predict(model, sequences, batch_tokens=512, reverse_complement=True) for model in (classifier, eight))
    np.testing.assert_allclose(divided.outputs, one.outputs, atol=2e-5)
    assert one.outputs.std(0).min() > 0.01
    table = read_table(write_table(tmp_path / "rows.csv", list(zip(sequences.sequences, one.labels, strict=True))))
    one, divided = (evaluate(model, table, batch_tokens=512).scores for model in (classifier, eight))
    assert divided["confusion_matrix"] == one["confusion_matrix"]
    assert divided["loss"] == pytest.approx(one["loss"], abs=1e-5)


def test_token_ids(classifier, eight):
    tokens = token_batch(classifier.config, np.full((3, 9), 7), None, None)
    one, divided = (TokenIdOutputs(model)("class_logits", tokens) for model in (classifier, eight))
    np.testing.assert_allclose(divided, one, atol=2e-5)


def test_explanations(classifier, eight):
    short = given_sequences([random_dna(15, 1), random_dna(9, 2)])
    for method in (ism, saliency):
        one, divided = (method(model, short, "coding") for model in (classifier, eight))
        for a, b in zip(one, divided, strict=True):
            np.testing.assert_allclose(b.contributions, a.contributions, atol=2e-4)
    one, divided = (attention_maps(model, short) for model in (classifier, eight))
    for a, b in zip(one, divided, strict=True):
        np.testing.assert_allclose(b.weights, a.weights, atol=1e-6)


def test_masked_probabilities(mlm):
    short = given_sequences([random_dna(12, 1)])
    one, divided = (ism(model, short)[0].scores for model in (mlm, on_eight(mlm)))
    np.testing.assert_allclose(divided, one, atol=2e-5)


def test_the_cpu_is_one_device(classifier):
    assert jax.local_device_count() == DEVICES
    assert default_devices() == 1
    assert len(jax.tree.leaves(classifier.predictor.params)[0].sharding.device_set) == 1
