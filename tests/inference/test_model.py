import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dnabert2_jax.artifacts.adapter import load_adapter
from dnabert2_jax.data.packing import pack
from dnabert2_jax.data.sequences import given_sequences
from dnabert2_jax.errors import UserError
from dnabert2_jax.inference.encoding import encode_rows
from dnabert2_jax.inference.model import InferenceModel, memory_explained, pool_slots, run_batches
from dnabert2_jax.inference.prediction import predict
from dnabert2_jax.modeling.compute import Compute
from dnabert2_jax.modeling.models import sequence_classifier
from dnabert2_jax.tokenizer.special import CLS, PAD, SEP
from dnabert2_jax.types import TokenBatch


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


def test_a_merged_adapter_predicts_what_it_does_beside_its_base(adapter_path):
    adapter = load_adapter(adapter_path)
    network = sequence_classifier(adapter.base.config, 2)
    (batch,) = pack(encode_rows(adapter.base.tokenizer, given_sequences(["ACGTTGACA"])), 64)
    parts = {"encoder": adapter.base.params["encoder"], **{k: v for k, v in adapter.params.items() if k != "adapter"}}
    beside = network.bind(jax.device_put(parts)).logits(
        batch.tokens, adapter=jax.device_put(adapter.params["adapter"]), lora=adapter.lora
    )
    merged = predict(InferenceModel.load(adapter_path, Compute()), given_sequences(["ACGTTGACA"]))
    np.testing.assert_allclose(merged.probabilities, jax.nn.softmax(beside), atol=1e-5)
    assert merged.classes == ("no", "yes")


def test_a_base_is_for_adapters_only(mlm_path, classifier_path, adapter_path, tmp_path):
    assert InferenceModel.load(adapter_path, Compute(), base=mlm_path).kind == "classifier"
    with pytest.raises(UserError, match="is a whole model, not an adapter; leave the base out"):
        InferenceModel.load(classifier_path, Compute(), base=mlm_path)
    with pytest.raises(UserError, match="was trained on a base whose encoder has sha256"):
        InferenceModel.load(adapter_path, Compute(), base=classifier_path)
    with pytest.raises(UserError, match="does not exist; name the directory of a model"):
        InferenceModel.load(tmp_path / "none", Compute())


def test_batches_come_in_order_and_the_device_is_one_ahead(mlm):
    batches = pack(encode_rows(mlm.tokenizer, given_sequences(["ACGT" * n for n in (40, 30, 20, 10)])), 64)
    dispatched = []

    def function(batch):
        dispatched.append(batch.sequences)
        return jnp.asarray(batch.starts)

    for number, (batch, result) in enumerate(run_batches(function, batches, None), start=1):
        np.testing.assert_array_equal(result, batch.starts)
        assert batch.sequences is dispatched[number - 1]
        assert len(dispatched) == min(number + 1, len(batches))
    assert number == len(batches) > 2


def test_too_little_memory_says_what_to_do():
    with pytest.raises(UserError, match=r"the cpu device has not enough memory .*--batch-tokens"), memory_explained():
        jnp.zeros((2**46,), jnp.float32).block_until_ready()
    with pytest.raises(TypeError), memory_explained():
        jnp.zeros(2) + "text"
