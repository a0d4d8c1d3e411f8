import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from dnabert2_jax.artifacts.model import load_model
from dnabert2_jax.artifacts.tensors import tree_sha256
from dnabert2_jax.config.model import HeadConfig
from dnabert2_jax.convert.hugging_face import save_hugging_face
from dnabert2_jax.data.reading import read_sequences
from dnabert2_jax.errors import UserError
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.inference.prediction import predict
from dnabert2_jax.modeling.compute import Compute
from dnabert2_jax.recipes.finetuned import Finetuned
from dnabert2_jax.recipes.finetuning import finetune
from dnabert2_jax.recipes.probe import _outputs, _unscaled, class_logits
from tests.recipes.helpers import dev_mccs, score

pytestmark = pytest.mark.usefixtures("promotion", "undrawn")


@pytest.fixture(scope="module")
def probe(home, make_run) -> Finetuned:
    return finetune(make_run(training={"method": "probe"}), home / "probe")


def test_the_saved_model_scores_what_was_reported(home, probe):
    model = load_model(probe.model)
    assert (model.head.pooling, set(model.params)) == ("mean", {"encoder", "classifier"})
    assert tree_sha256(model.params["encoder"]) == tree_sha256(load_model(home / "base").params["encoder"])
    assert probe.trained_parameters == 32 * 2 + 2
    with np.load(home / "probe" / "test_predictions.npz") as kept:
        reported = kept["probabilities"]
    probabilities, scores = score(probe.model, home / "test.csv")
    np.testing.assert_allclose(probabilities, reported, rtol=0, atol=1e-4)
    assert scores["confusion_matrix"] == probe.test["confusion_matrix"]
    assert probe.test["mcc"] > 0.5
    opened = InferenceModel.load(probe.model, Compute())
    np.testing.assert_allclose(
        predict(opened, read_sequences(home / "test.csv")).probabilities, probabilities, rtol=0, atol=1e-5
    )


def test_the_best_penalty_on_dev_is_kept(home, probe):
    mccs = dev_mccs(home / "probe")
    assert list(mccs) == [1, 2, 3, 4, 5]
    assert probe.dev["mcc"] == max(mccs.values()) == mccs[probe.best_step]


def test_it_repeats_bit_for_bit_in_the_same_directory(home, probe, make_run):
    before = tree_sha256(load_model(probe.model).params)
    again = finetune(make_run(training={"method": "probe"}), home / "probe")
    assert again.test == probe.test
    assert tree_sha256(load_model(probe.model).params) == before


@pytest.mark.parametrize("classes", [2, 3])
def test_the_linear_layer_is_the_scaled_regression(classes):
    labels = np.arange(60) % classes
    rows = np.random.default_rng(classes).normal(3, 2, (60, 5)) + labels[:, None]
    scaler = StandardScaler().fit(rows)
    regression = LogisticRegression(C=0.1).fit(scaler.transform(rows), labels)
    expected = regression.predict_proba(scaler.transform(rows))
    layer = _unscaled(*class_logits(regression), scaler)
    np.testing.assert_allclose(_outputs(layer, rows, HeadConfig()), expected, rtol=0, atol=1e-6)


def test_the_originals_layout_cannot_hold_it(probe, tmp_path):
    with pytest.raises(UserError, match="has a classifier that reads means over tokens"):
        save_hugging_face(tmp_path / "hf", load_model(probe.model))
    assert not (tmp_path / "hf").exists()


@pytest.mark.parametrize("setting", ["label_smoothing", "focal_gamma"])
def test_other_losses_are_refused(make_run, setting):
    with pytest.raises(UserError, match=rf"{setting} is for full and lora"):
        make_run(training={"method": "probe", setting: 0.1})
