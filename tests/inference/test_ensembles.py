"""Several models at once: the mean of what they say, and its spread."""

import csv
import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from dnabert2_jax.api import DNABERT2
from dnabert2_jax.artifacts.model import load_model, save_model
from dnabert2_jax.data.reading import read_table
from dnabert2_jax.data.sequences import given_sequences
from dnabert2_jax.errors import UserError
from dnabert2_jax.inference.evaluation import evaluate
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.inference.prediction import predict
from dnabert2_jax.metrics.scores import classification_metrics
from dnabert2_jax.modeling.compute import Compute
from tests.genome.helpers import random_dna, write_fasta
from tests.helpers import write_table

SEQUENCES = given_sequences([random_dna(n, n) for n in (30, 200, 77)])


@pytest.fixture(scope="module")
def paths(classifier_path, tmp_path_factory):
    """Three models with the same encoder and other last layers."""
    folder = tmp_path_factory.mktemp("ensemble")
    model = load_model(classifier_path)
    others = []
    for seed in (1, 2):
        noise = np.random.default_rng(seed)
        layer = {k: v + noise.normal(0, 0.3, v.shape).astype(np.float32) for k, v in model.params["classifier"].items()}
        others.append(folder / f"model{seed}")
        save_model(others[-1], replace(model, params={**model.params, "classifier": layer}))
    return [classifier_path, *others]


@pytest.fixture(scope="module")
def models(paths):
    return [InferenceModel.load(path, Compute()) for path in paths]


def test_mean_and_standard_deviation_over_models(models):
    each = [predict(model, SEQUENCES, max_tokens=40) for model in models]
    together = predict(models[0], SEQUENCES, ensemble=models[1:], max_tokens=40)
    stacked = np.stack([one.probabilities for one in each]).astype(np.float64)
    np.testing.assert_allclose(together.probabilities, stacked.mean(0), rtol=0, atol=1e-7)
    np.testing.assert_allclose(together.spread, stacked.std(0), rtol=0, atol=1e-7)
    assert together.spread.max() > 0.01
    np.testing.assert_allclose(together.probabilities.sum(1), 1, atol=1e-6)
    assert together.labels == [models[0].labels[c] for c in stacked.mean(0).argmax(1)]
    assert together.windows.tolist() == each[0].windows.tolist() != [1, 1, 1]
    assert together[1]["spread_other"] == together.spread[1, 2]
    np.testing.assert_array_equal(together[1:].spread, together.spread[1:])
    assert "spread_other" not in each[0].columns()


def test_a_model_with_itself_is_the_model(models):
    alone, twice = predict(models[0], SEQUENCES), predict(models[0], SEQUENCES, ensemble=[models[0]])
    np.testing.assert_array_equal(alone.probabilities, twice.probabilities)
    assert not twice.spread.any()


def test_models_must_predict_the_same(models):
    forward = models[1].predictor.forward

    def other_head(**changes):
        head = replace(forward, head=replace(forward.head, **changes))
        return replace(models[1], predictor=replace(models[1].predictor, forward=head))

    for other, expected in (
        (
            replace(models[1], labels=("coding", "other", "intergenic")),
            "the classes coding, other, intergenic, there coding,",
        ),
        (other_head(task="multi_label"), "the task multi_label, there single_label"),
        (other_head(max_tokens=64), "the limit of tokens 64, there 512"),
    ):
        with pytest.raises(UserError, match=f"{models[1].path} does not predict what {models[0].path} does: {expected}"):
            predict(models[0], SEQUENCES, ensemble=[other])


def test_the_mean_is_scored(models, tmp_path):
    rows = [(random_dna(60, n), models[0].labels[n % 3]) for n in range(24)]
    table = read_table(write_table(tmp_path / "t.csv", rows))
    found = evaluate(models[0], table, ensemble=models[1:])
    mean = np.stack([evaluate(model, table).predictions.probabilities for model in models]).mean(0)
    expected = classification_metrics(np.arange(24) % 3, mean, models[0].labels)
    assert found.scores["loss"] == pytest.approx(expected["loss"], rel=1e-6)
    assert found.scores["confusion_matrix"] == expected["confusion_matrix"]


def test_from_the_command_line_and_from_python(dnabert2, paths, models, tmp_path):
    fasta = write_fasta(tmp_path / "x.fa", {"a": random_dna(60, 1), "b": random_dna(60, 2)})
    out, both = tmp_path / "p.csv", ("--model", paths[0], "--model", paths[1])
    assert dnabert2("predict", *both, "--data", fasta, "--out", out)[0] == 0
    rows = list(csv.DictReader(out.read_text().splitlines()))
    record = json.loads((tmp_path / "p.csv.json").read_text())
    assert [record["model"], record["ensemble"][0]["model"]] == list(map(str, paths[:2]))
    assert record["model_sha256"] != record["ensemble"][0]["model_sha256"]
    first, second = map(DNABERT2, models[:2])
    (part,) = first.iter_predict(fasta, ensemble=[second])
    for n, row in enumerate(rows):
        for column, value in part[n].items():
            if column.startswith(("p_", "spread_")):
                assert float(row[column]) == pytest.approx(value, abs=1e-5)
    assert part.spread.max() > 0.01

    table = write_table(tmp_path / "t.csv", [(random_dna(60, n), first.labels[n % 3]) for n in range(6)])
    code, printed, _ = dnabert2("evaluate", *both, "--data", table, "--out", "-")
    scores = json.loads(printed)
    assert (code, len(scores["record"]["ensemble"])) == (0, 1)
    assert scores["loss"] == pytest.approx(first.evaluate(table, ensemble=[second])["loss"], abs=1e-6)


def test_a_model_of_other_classes_is_one_line(dnabert2, paths, tmp_path):
    model = load_model(paths[0])
    layer = jax.tree.map(lambda x: x[..., :2], model.params["classifier"])
    two = save_model(tmp_path / "two", replace(model, labels=("no", "yes"), params={**model.params, "classifier": layer}))
    words = ("--data", write_fasta(tmp_path / "x.fa", {"a": "ACGT"}), "--out", tmp_path / "p.csv")
    code, _, errors = dnabert2("predict", "--model", paths[0], "--model", two.path, *words)
    assert code == 2
    assert "the classes no, yes, there coding, intergenic, other" in errors.replace("\n", " ")
