import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from dnabert2_jax.artifacts.adapter import load_adapter
from dnabert2_jax.artifacts.model import load_model
from dnabert2_jax.artifacts.tensors import tree_sha256
from dnabert2_jax.data.by_length import evaluation_batches
from dnabert2_jax.data.encoding import encode_table
from dnabert2_jax.data.labels import LabelSet
from dnabert2_jax.data.reading import read_table
from dnabert2_jax.inference.predictor import Forward, Predictor
from dnabert2_jax.modeling.compute import Compute
from dnabert2_jax.recipes.finetuned import Finetuned
from dnabert2_jax.recipes.finetuning import finetune
from tests.helpers import tiny_model
from tests.recipes.helpers import score

pytestmark = pytest.mark.usefixtures("promotion", "undrawn")


@pytest.fixture(scope="module")
def lora(home, make_run) -> Finetuned:
    return finetune(make_run(training={"method": "lora"}), home / "lora")


def test_the_adapter_directory_holds_adapter_and_heads_only_and_names_its_base(home, lora):
    assert lora.adapter == home / "lora" / "adapter"
    names = sorted(path.name for path in lora.adapter.iterdir())
    assert names == ["adapter.json", "adapter.safetensors", "manifest.json", "provenance.json"]
    tensors = load_file(lora.adapter / "adapter.safetensors")
    projections = [f"adapter.{name}.{m}" for name in ("Wqkv", "gated_layers", "out", "wo") for m in "AB"]
    heads = ["classifier.bias", "classifier.kernel", "pooler.dense.bias", "pooler.dense.kernel"]
    assert sorted(tensors) == sorted(projections + heads)
    assert sum(tensor.size for tensor in tensors.values()) == lora.trained_parameters
    header = json.loads((lora.adapter / "adapter.json").read_text())
    assert header["base_sha256"] == tree_sha256(load_model(home / "base").params["encoder"])
    assert header["lora"]["rank"] == 2
    assert all(np.abs(tensors[name]).max() > 0 for name in projections)  # B has left zero


def test_the_base_is_untouched(home, lora, tmp_path):
    tiny_model(tmp_path / "base")
    files = ("model.safetensors", "tokenizer.model", "config.json")
    assert [(home / "base" / f).read_bytes() for f in files] == [(tmp_path / "base" / f).read_bytes() for f in files]


def test_checkpoints_hold_nothing_of_the_base(home, lora):
    contents = json.loads(next((home / "lora" / "checkpoints").glob("step_*/contents.json")).read_text())
    names = set(contents["arrays"])
    assert not [name for name in names if "encoder" in name or "embeddings" in name]
    assert {name.split(".")[1] for name in names if name.startswith("trainable.")} == {"adapter", "pooler", "classifier"}


def test_the_merged_model_scores_as_the_adapter_beside_its_base(home, lora):
    adapter, data = load_adapter(lora.adapter), read_table(home / "test.csv")
    encoded = encode_table(data, adapter.base.tokenizer, LabelSet(adapter.labels), 512)
    forward = Forward(adapter.base.config, Compute(), 2, lora=adapter.lora)
    params = jax.device_put({**adapter.params, "encoder": adapter.base.params["encoder"]})
    unmerged = Predictor(forward, params).class_outputs(evaluation_batches(encoded, 8, (24,)))
    for directory in (lora.model, lora.adapter):
        merged, scores = score(directory, home / "test.csv")
        np.testing.assert_allclose(merged, unmerged, rtol=0, atol=2e-5)
        assert scores["confusion_matrix"] == lora.test["confusion_matrix"]


def test_the_merged_encoder_is_another_than_the_base(home, lora):
    model, adapter = load_model(lora.model), load_adapter(lora.adapter)
    base = adapter.base.params["encoder"]["layers"]
    for name in ("Wqkv", "out", "gated_layers", "wo"):
        difference = model.params["encoder"]["layers"][name]["kernel"] - base[name]["kernel"]
        for layer in difference:
            assert np.linalg.matrix_rank(layer, tol=1e-5) == 2
    np.testing.assert_array_equal(
        model.params["encoder"]["embeddings"]["word"], adapter.base.params["encoder"]["embeddings"]["word"]
    )
