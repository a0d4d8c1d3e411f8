"""Models whose explanations are known."""

from dataclasses import replace

import jax
import numpy as np

from dnabert2_jax import DNABERT2
from dnabert2_jax.config.model import HeadConfig
from dnabert2_jax.inference.model import InferenceModel
from tests.variants.helpers import opened

MEAN, DEVIATION = 2.0, 3.0


def additive_model(classifier: InferenceModel) -> InferenceModel:
    """A regression whose output is the mean of a number for each token: nothing is attended to."""
    saved = classifier.saved()
    head = HeadConfig(pooling="mean", task="regression", mean=MEAN, deviation=DEVIATION)
    encoder = {**saved.params["encoder"], "layers": {**saved.params["encoder"]["layers"]}}
    encoder["layers"]["out"] = jax.tree.map(np.zeros_like, encoder["layers"]["out"])
    linear = {"kernel": saved.params["classifier"]["kernel"][:, :1], "bias": np.array([0.7], np.float32)}
    params = {"encoder": encoder, "classifier": linear}
    return opened(replace(saved, params=params, labels=("strength",), head=head))


def numbers_of_tokens(model: InferenceModel) -> np.ndarray:
    """The number of each token of an additive model, from rows of that token alone. [V]."""
    states = DNABERT2(model).hidden_states(np.arange(model.tokenizer.vocab_size)[:, None])[:, 0].astype(np.float64)
    head = jax.device_get(model.predictor.params["classifier"])
    return MEAN + DEVIATION * (states @ head["kernel"].astype(np.float64) + head["bias"])[:, 0]


def log_odds(p: np.ndarray) -> np.ndarray:
    p = np.asarray(p, np.float64)
    return np.log(p) - np.log1p(-p)
