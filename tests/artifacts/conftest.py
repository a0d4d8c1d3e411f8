"""A small model of each kind, and an adapter."""

import numpy as np
import pytest

from dnabert2_jax.artifacts.adapter import SavedAdapter
from dnabert2_jax.artifacts.model import SavedModel, save_model
from dnabert2_jax.artifacts.provenance import make_provenance
from dnabert2_jax.config.model import EncoderConfig, LoraConfig
from dnabert2_jax.modeling.lora import init_adapter
from dnabert2_jax.modeling.models import masked_lm, sequence_classifier
from dnabert2_jax.tokenizer.base import Tokenizer
from dnabert2_jax.tokenizer.training import train_bpe
from tests.artifacts.helpers import LABELS


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(["".join(np.random.default_rng(0).choice(list("ACGT"), 5000))], vocab_size=40)


@pytest.fixture(scope="module")
def config(tokenizer) -> EncoderConfig:
    return EncoderConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
    )


@pytest.fixture(scope="module")
def pretrained(tokenizer, config) -> SavedModel:
    provenance = make_provenance(
        ["dnabert2", "pretrain"], run_config={"seed": 1}, parents={"corpus": "ab"}, metrics={"loss": 2.5}
    )
    return SavedModel(
        kind="masked_lm", config=config, params=masked_lm(config).init(0), tokenizer=tokenizer, provenance=provenance
    )


@pytest.fixture(scope="module")
def classifier(tokenizer, config) -> SavedModel:
    params = sequence_classifier(config, len(LABELS)).init(1)
    return SavedModel(kind="classifier", config=config, params=params, tokenizer=tokenizer, labels=LABELS)


@pytest.fixture
def adapter(tmp_path, pretrained, classifier) -> SavedAdapter:
    lora = LoraConfig(rank=2, targets=("Wqkv", "wo"))
    params = {
        "adapter": init_adapter(pretrained.config, lora, 3),
        **{k: classifier.params[k] for k in ("pooler", "classifier")},
    }
    return SavedAdapter(base=save_model(tmp_path / "base", pretrained), params=params, lora=lora, labels=LABELS)
