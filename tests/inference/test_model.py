import jax
import numpy as np
import pytest

from dnabert2_jax.artifacts.adapter import load_adapter
from dnabert2_jax.data.encoding import encode_sequences
from dnabert2_jax.data.packing import pack
from dnabert2_jax.data.sequences import given_sequences
from dnabert2_jax.errors import UserError
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.inference.prediction import predict
from dnabert2_jax.modeling.compute import Compute
from dnabert2_jax.modeling.models import sequence_classifier


def test_a_merged_adapter_predicts_what_it_does_beside_its_base(adapter_path):
    adapter = load_adapter(adapter_path)
    network = sequence_classifier(adapter.base.config, 2)
    (batch,) = pack(encode_sequences(given_sequences(["ACGTTGACA"]), adapter.base.tokenizer), 64)
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
