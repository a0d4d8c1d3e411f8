"""What tests of model and adapter directories share."""

from dataclasses import replace

import jax
import numpy as np

from dnabert2_jax.artifacts.model import SavedModel
from dnabert2_jax.artifacts.tensors import tree_sha256

LABELS = ("coding+", "coding-", "intergenic")


def with_word(model: SavedModel, change) -> SavedModel:
    """The model with other word embeddings."""
    encoder = model.params["encoder"]
    embeddings = {**encoder["embeddings"], "word": change(np.array(encoder["embeddings"]["word"]))}
    return replace(model, params={**model.params, "encoder": {**encoder, "embeddings": embeddings}})


def assert_same(loaded: SavedModel, model: SavedModel) -> None:
    assert tree_sha256(loaded.params) == tree_sha256(model.params)
    assert jax.tree.structure(loaded.params) == jax.tree.structure(model.params)
    assert loaded.tokenizer.sha256 == model.tokenizer.sha256
    for name in ("kind", "config", "labels", "provenance"):
        assert getattr(loaded, name) == getattr(model, name)
