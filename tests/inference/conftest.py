import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from dnabert2_jax.artifacts.adapter import SavedAdapter, save_adapter
from dnabert2_jax.artifacts.model import SavedModel, load_model, save_model
from dnabert2_jax.artifacts.provenance import make_provenance
from dnabert2_jax.cli import main
from dnabert2_jax.config.model import HeadConfig, LoraConfig
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.modeling.compute import Compute
from dnabert2_jax.modeling.lora import init_adapter
from dnabert2_jax.modeling.models import base_classifier, sequence_classifier
from tests.genome.helpers import random_dna
from tests.helpers import tiny_config, tiny_model, tiny_tokenizer

LABELS = ("coding", "intergenic", "other")
BASE_LABELS = ("background", "gene", "my tRNA")


@pytest.fixture(scope="session")
def mlm_path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("mlm") / "model"
    tiny_model(path, seed=3, initializer_range=0.2)
    return path


@pytest.fixture(scope="session")
def classifier_path(tmp_path_factory) -> Path:
    """A classifier with random weights, large enough that its probabilities are far from equal."""
    path = tmp_path_factory.mktemp("classifier") / "model"
    config = tiny_config(initializer_range=0.3)
    model = SavedModel(
        kind="classifier",
        config=config,
        params=sequence_classifier(config, len(LABELS)).init(4),
        tokenizer=tiny_tokenizer(),
        labels=LABELS,
        provenance=make_provenance(["test"], run_config={}, parents={}, metrics={}),
    )
    save_model(path, model)
    return path


@pytest.fixture(scope="session")
def labeler_path(tmp_path_factory):
    """A model with random weights, large enough that its probabilities are far from equal."""
    path = tmp_path_factory.mktemp("labeler") / "model"
    config = tiny_config(initializer_range=0.3)
    model = SavedModel(
        kind="base_classifier",
        config=config,
        params=jax.device_get(base_classifier(config, len(BASE_LABELS)).init(4)),
        tokenizer=tiny_tokenizer(),
        labels=BASE_LABELS,
        head=HeadConfig(task="per_base", window=256),
        provenance=make_provenance(["test"], run_config={}, parents={}, metrics={}),
    )
    save_model(path, model)
    return path


@pytest.fixture(scope="session")
def labeler(labeler_path):
    return InferenceModel.load(labeler_path, Compute())


@pytest.fixture(scope="session")
def adapter_path(tmp_path_factory, mlm_path) -> Path:
    """An adapter on the masked language model, with matrices that change its outputs."""
    path = tmp_path_factory.mktemp("adapter") / "adapter"
    base = load_model(mlm_path)
    lora = LoraConfig(rank=2)
    adapter = jax.tree.map(lambda x: np.asarray(x) + np.float32(0.1), init_adapter(base.config, lora, 5))
    heads = sequence_classifier(base.config, 2).init(6)
    params = {"adapter": adapter, "pooler": heads["pooler"], "classifier": heads["classifier"]}
    save_adapter(path, SavedAdapter(base=base, params=jax.device_get(params), lora=lora, labels=("no", "yes")))
    return path


@pytest.fixture(scope="session")
def mlm(mlm_path) -> InferenceModel:
    return InferenceModel.load(mlm_path, Compute())


@pytest.fixture(scope="session")
def classifier(classifier_path) -> InferenceModel:
    return InferenceModel.load(classifier_path, Compute())


@pytest.fixture(scope="session")
def mixed_sequences() -> list[str]:
    """Sequences of 1 to 400 bases, some with N, in no order of length."""
    lengths = np.random.default_rng(0).integers(2, 400, 30).tolist()
    sequences = [random_dna(n, seed) for seed, n in enumerate([*lengths, 1])]
    return [*sequences, "ACGTNNRACGT", "N"]


@pytest.fixture
def dnabert2(monkeypatch, capsys):
    """The command line in this process: exit code, standard output and standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["dnabert2", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        out, errors = capsys.readouterr()
        return stopped.value.code, out, errors

    return run
