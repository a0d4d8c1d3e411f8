"""The encoder against outputs and gradients of the original PyTorch code (development fixtures, where they are present)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from dnabert2_jax.config import EncoderConfig
from dnabert2_jax.kernels.attention import BACKENDS
from dnabert2_jax.modeling.encoder import Compute
from dnabert2_jax.modeling.models import masked_lm, sequence_classifier
from dnabert2_jax.types import TokenBatch

# our name -> (original name, is a matrix and so transposed)
LAYER_NAMES = {
    ("Wqkv", "kernel"): ("attention.self.Wqkv.weight", True),
    ("Wqkv", "bias"): ("attention.self.Wqkv.bias", False),
    ("out", "kernel"): ("attention.output.dense.weight", True),
    ("out", "bias"): ("attention.output.dense.bias", False),
    ("attention_norm", "scale"): ("attention.output.LayerNorm.weight", False),
    ("attention_norm", "bias"): ("attention.output.LayerNorm.bias", False),
    ("gated_layers", "kernel"): ("mlp.gated_layers.weight", True),
    ("wo", "kernel"): ("mlp.wo.weight", True),
    ("wo", "bias"): ("mlp.wo.bias", False),
    ("feed_forward_norm", "scale"): ("mlp.layernorm.weight", False),
    ("feed_forward_norm", "bias"): ("mlp.layernorm.bias", False),
}


def encoder_tree(weights, layers):
    tree = {
        "embeddings": {
            "word": weights["bert.embeddings.word_embeddings.weight"],
            "token_type": weights["bert.embeddings.token_type_embeddings.weight"],
            "norm": {
                "scale": weights["bert.embeddings.LayerNorm.weight"],
                "bias": weights["bert.embeddings.LayerNorm.bias"],
            },
        },
        "layers": {},
    }
    for (module, name), (theirs, transpose) in LAYER_NAMES.items():
        stacked = np.stack([weights[f"bert.encoder.layer.{n}.{theirs}"] for n in range(layers)])
        tree["layers"].setdefault(module, {})[name] = np.swapaxes(stacked, 1, 2) if transpose else stacked
    return tree


def dense(weights, name):
    return {"kernel": weights[f"{name}.weight"].T, "bias": weights[f"{name}.bias"]}


class Case:
    def __init__(self, directory):
        import json

        raw = json.loads((directory / "config.json").read_text())
        self.labels = raw["num_labels"]
        self.config = EncoderConfig(**{k: v for k, v in raw.items() if k in EncoderConfig.__dataclass_fields__})
        self.golden = np.load(directory / "golden.npz")
        weights, classifier = (load_file(directory / f"{name}.safetensors") for name in ("model", "classifier"))
        head = "cls.predictions"
        self.mlm = {
            "encoder": encoder_tree(weights, self.config.num_hidden_layers),
            "mlm": {
                "dense": dense(weights, f"{head}.transform.dense"),
                "norm": {
                    "scale": weights[f"{head}.transform.LayerNorm.weight"],
                    "bias": weights[f"{head}.transform.LayerNorm.bias"],
                },
                "bias": weights[f"{head}.decoder.bias"],
            },
        }
        self.classifier = {
            "encoder": encoder_tree(classifier, self.config.num_hidden_layers),
            "pooler": {"dense": dense(classifier, "bert.pooler.dense")},
            "classifier": dense(classifier, "classifier"),
        }
        self.real = self.golden["attention_mask"].astype(bool)

    def tokens(self, ids="input_ids", pair=False):
        types = self.golden["token_type_ids"] if pair else np.zeros_like(self.golden[ids])
        return TokenBatch(self.golden[ids], self.golden["attention_mask"], types)


@pytest.fixture(params=["heads8", "heads12"])
def case(request, shared_dir):
    return Case(shared_dir / "fixtures" / request.param)


def assert_close(found, expected, tolerance):
    assert found.shape == expected.shape
    assert np.abs(np.asarray(found, np.float32) - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 2e-5), ("bfloat16", 3e-2)])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("pair", [False, True], ids=["single", "pair"])
def test_outputs(case, backend, precision, tolerance, pair):
    suffix = "_pair" if pair else ""
    compute, tokens = Compute(precision, backend), case.tokens(pair=pair)
    network = masked_lm(case.config, compute)
    everywhere = np.broadcast_to(np.arange(tokens.input_ids.shape[1], dtype=np.int32), tokens.input_ids.shape)
    hidden = jax.jit(lambda p: network.bind(p).hidden_states(tokens))(case.mlm)
    logits = jax.jit(lambda p: network.bind(p).logits(tokens, everywhere))(case.mlm)
    assert_close(hidden[case.real], case.golden[f"last_hidden{suffix}"][case.real], tolerance)
    assert_close(logits[case.real], case.golden[f"mlm_logits{suffix}"][case.real], tolerance)
    classifier = sequence_classifier(case.config, case.labels, compute)
    found = jax.jit(lambda p: classifier.bind(p).logits(tokens))(case.classifier)
    assert_close(found, case.golden[f"class_logits{suffix}"], tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
def test_loss_and_gradients(case, backend):
    tokens, labels = case.tokens("mlm_input_ids"), case.golden["mlm_labels"]
    network = masked_lm(case.config, Compute("float32", backend))
    everywhere = np.broadcast_to(np.arange(labels.shape[1], dtype=np.int32), labels.shape)
    # The original ignores labels <= 0 (so it never learns [UNK], id 0).
    chosen = labels > 0

    def loss(params):
        log_p = jax.nn.log_softmax(network.bind(params).logits(tokens, everywhere))
        picked = jnp.take_along_axis(log_p, np.where(chosen, labels, 0)[..., None], axis=-1)[..., 0]
        return -jnp.where(chosen, picked, 0.0).sum() / float(chosen.sum())

    value, gradients = jax.jit(jax.value_and_grad(loss))(case.mlm)
    assert abs(float(value) / float(case.golden["mlm_loss"]) - 1) < 1e-6
    layers, embeddings, head = gradients["encoder"]["layers"], gradients["encoder"]["embeddings"], gradients["mlm"]
    ours = {
        "bert.embeddings.word_embeddings.weight": embeddings["word"],
        "bert.embeddings.token_type_embeddings.weight": embeddings["token_type"],
        "cls.predictions.transform.dense.weight": head["dense"]["kernel"].T,
        "cls.predictions.transform.dense.bias": head["dense"]["bias"],
        "cls.predictions.decoder.bias": head["bias"],
    }
    for (module, name), (theirs, transpose) in LAYER_NAMES.items():
        for layer in range(case.config.num_hidden_layers):
            gradient = layers[module][name][layer]
            ours[f"bert.encoder.layer.{layer}.{theirs}"] = gradient.T if transpose else gradient
    expected = {key.removeprefix("grad:"): case.golden[key] for key in case.golden.files if key.startswith("grad:")}
    assert len(expected) >= 9
    for name, gradient in expected.items():
        assert_close(ours[name], gradient, 1e-4)
