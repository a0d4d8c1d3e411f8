import json
from dataclasses import replace

import numpy as np
import pytest

from dnabert2_jax.api import DNABERT2
from dnabert2_jax.artifacts.model import load_model
from dnabert2_jax.config.model import HeadConfig
from dnabert2_jax.convert.hugging_face import save_hugging_face
from dnabert2_jax.data.reading import read_table
from dnabert2_jax.errors import UserError
from dnabert2_jax.inference.calibration import calibrate
from dnabert2_jax.inference.evaluation import evaluate
from tests.genome.helpers import random_dna
from tests.helpers import write_table
from tests.reports.helpers import Page

SEQUENCES = [random_dna(60, n) for n in range(60)]


@pytest.fixture(scope="module")
def table(classifier, tmp_path_factory):
    """Rows of which the model gets three fifths right."""
    said = DNABERT2(classifier).predict(SEQUENCES).labels
    following = dict(zip(classifier.labels, (*classifier.labels[1:], classifier.labels[0]), strict=True))
    labels = [following[label] if n % 5 < 2 else label for n, label in enumerate(said)]
    return write_table(tmp_path_factory.mktemp("calibration") / "dev.csv", list(zip(SEQUENCES, labels, strict=True)))


@pytest.fixture(scope="module")
def calibrated(classifier, table):
    return calibrate(classifier, read_table(table))


def test_the_model_has_the_probabilities_that_were_fitted(classifier, table, calibrated):
    params = classifier.predictor.params
    layer = {name: 3 * part for name, part in params["classifier"].items()}
    surer = replace(classifier, predictor=replace(classifier.predictor, params={**params, "classifier": layer}))
    found = calibrate(surer, read_table(table))
    assert found.temperature == pytest.approx(3 * calibrated.temperature, rel=1e-3)
    before, after = (evaluate(model, read_table(table)).scores for model in (surer, found.model))
    for scores, said, bins in (
        (before, found.before, found.reliability_before),
        (after, found.after, found.reliability_after),
    ):
        assert scores["loss"] == pytest.approx(said["loss"], rel=1e-5)
        assert scores["calibration_error"] == pytest.approx(bins.error, abs=1e-5)
    assert after["loss"] < before["loss"]
    assert after["calibration_error"] < before["calibration_error"]
    assert after["confusion_matrix"] == before["confusion_matrix"]
    assert after["loss"] == pytest.approx(calibrated.after["loss"], rel=1e-5)


def test_no_prediction_changes(classifier, calibrated):
    others = [random_dna(90, n) for n in range(100, 200)]
    before, after = (DNABERT2(model).predict(others) for model in (classifier, calibrated.model))
    assert before.labels == after.labels
    assert len(set(after.labels)) > 1
    logits = np.log(before.probabilities.astype(np.float64)) / calibrated.temperature
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(after.probabilities, expected, rtol=0, atol=2e-6)


def test_several_labels(classifier, tmp_path):
    forward = classifier.predictor.forward
    head = replace(forward, head=HeadConfig(task="multi_label"))
    model = replace(classifier, predictor=replace(classifier.predictor, forward=head))
    said = DNABERT2(model).predict(SEQUENCES)
    labels = ["-" if n % 4 == 0 else label for n, label in enumerate(said.labels)]
    table = write_table(tmp_path / "t.csv", list(zip(SEQUENCES, labels, strict=True)))
    found = calibrate(model, read_table(table))
    assert DNABERT2(found.model).predict(SEQUENCES).labels == said.labels
    assert found.after["loss"] < found.before["loss"]
    assert evaluate(found.model, read_table(table)).scores["loss"] == pytest.approx(found.after["loss"], rel=1e-4)


def test_from_the_command_line(dnabert2, classifier_path, table, calibrated, tmp_path):
    out, page = tmp_path / "calibrated", tmp_path / "page.html"
    words = ("calibrate", "--model", classifier_path, "--data", table, "--out", out, "--page", page)
    code, printed, remarks = dnabert2(*words)
    assert code == 0
    assert f"saved {page}\nsaved {out}\n" in printed
    assert f"temperature {calibrated.temperature:.4f}" in remarks
    code, _, errors = dnabert2(*words)
    assert (code, errors) == (2, f"dnabert2: {out} exists; choose another name, or replace it with --force\n")
    model = load_model(out)
    assert model.head == load_model(classifier_path).head
    (note,) = model.provenance["calibration"]
    assert note["temperature"] == pytest.approx(calibrated.temperature)
    expected = DNABERT2(calibrated.model).predict(SEQUENCES[:5]).probabilities
    np.testing.assert_allclose(DNABERT2.load(out).predict(SEQUENCES[:5]).probabilities, expected, rtol=0, atol=1e-6)
    shown = Page(page.read_text())
    for bins in (calibrated.reliability_before, calibrated.reliability_after):
        assert f"{bins.error:.4f}" in shown.text
    assert sum(reference.startswith("data:image/png") for reference in shown.references) == 2

    again = DNABERT2.load(out).calibrate(table)
    first, second = again.save(tmp_path / "twice"), json.loads((tmp_path / "twice" / "provenance.json").read_text())
    assert first == tmp_path / "twice"
    assert second["calibration"][0] == note
    assert second["calibration"][1]["temperature"] == pytest.approx(1, abs=1e-3)


def test_pytorchs_layout_takes_it_along(calibrated, tmp_path):
    save_hugging_face(tmp_path / "hf", calibrated.model.saved())
    expected = DNABERT2(calibrated.model).predict(SEQUENCES[:5]).probabilities
    found = DNABERT2.load(tmp_path / "hf").predict(SEQUENCES[:5]).probabilities
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_what_has_no_probabilities_is_refused(classifier, table):
    forward = classifier.predictor.forward
    regression = replace(forward, head=HeadConfig(task="regression"))
    model = replace(classifier, predictor=replace(classifier.predictor, forward=regression))
    with pytest.raises(UserError, match="predicts measurements, not probabilities"):
        calibrate(model, read_table(table))
