"""Several labels a row, and measurements: from the tables to whatever uses the trained model."""

import csv
import json
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from dnabert2_jax import DNABERT2
from dnabert2_jax.artifacts.adapter import SavedAdapter
from dnabert2_jax.artifacts.model import load_model, save_model
from dnabert2_jax.baselines.kmer import KmerBaseline
from dnabert2_jax.cli import main
from dnabert2_jax.config.model import HeadConfig, LoraConfig
from dnabert2_jax.convert.hugging_face import load_hugging_face, save_hugging_face
from dnabert2_jax.convert.peft import save_peft
from dnabert2_jax.data.reading import read_table
from dnabert2_jax.data.splits import load_splits
from dnabert2_jax.errors import UserError
from dnabert2_jax.inference.prediction import Predictions
from dnabert2_jax.metrics.scores import multi_label_metrics, regression_metrics
from dnabert2_jax.recipes.finetuned import Finetuned
from dnabert2_jax.recipes.finetuning import finetune
from dnabert2_jax.reports.embeddings import embed_test_rows
from dnabert2_jax.reports.page import Pictures
from dnabert2_jax.training.workdir import MetricsLog
from tests.helpers import finetune_run, tiny_model, write_table

TASKS = ("multi_label", "regression")
LORA = pytest.param("regression", "lora", marks=pytest.mark.slow)
UNIT, OFFSET = 40.0, 500.0
"""A measurement is the share of G and C in a unit and from a zero of its own."""

pytestmark = pytest.mark.usefixtures("promotion")


def rows(count: int, seed: int) -> list[tuple[str, str, str]]:
    """(sequence, labels, measurement): rich in G and C, rich in A, both or neither."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        gc, purine = rng.uniform(0.1, 0.3, 2) + 0.6 * rng.integers(0, 2, 2)
        p = np.array([(1 - gc) * purine, gc * (1 - purine), gc * purine, (1 - gc) * (1 - purine)])
        sequence = "".join(rng.choice(list("ACGT"), 40, p=p))
        share = {letters: sum(map(sequence.count, letters)) / 40 for letters in ("GC", "AG")}
        labels = ";".join(name for name, letters in (("gc", "GC"), ("purine", "AG")) if share[letters] > 0.5) or "-"
        made.append((sequence, labels, f"{OFFSET + UNIT * share['GC']:.3f}"))
    return made


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tasks")
    tiny_model(path / "base")
    for seed, (split, count) in enumerate({"train": 96, "dev": 32, "test": 40}.items()):
        made = rows(count, seed)
        write_table(path / "multi_label" / f"{split}.csv", [(s, labels) for s, labels, _ in made])
        write_table(path / "regression" / f"{split}.csv", [(s, value) for s, _, value in made])
    return path


def data_of(home: Path, task: str) -> dict[str, str]:
    return {"task": task, **{split: str(home / task / f"{split}.csv") for split in ("train", "dev", "test")}}


@pytest.fixture(scope="module")
def trained(home) -> Callable[[str, str], Finetuned]:
    """Each case when it is asked for first; several labels on two devices.

    Full fine-tuning with its report, but for the pictures that every task has: they take seconds to draw.
    """

    @cache
    def train(task: str, method: str) -> Finetuned:
        with pytest.MonkeyPatch.context() as patch:
            if method != "full":
                patch.setattr("dnabert2_jax.recipes.finetuning.report_finetuning", lambda *_: None)
            patch.setattr("dnabert2_jax.reports.sections.draw_pictures", lambda *_: Pictures(()))
            mesh = {"data": 2 if task == "multi_label" else 1}
            run = finetune_run(home / "base", data_of(home, task), training={"method": method}, mesh=mesh)
            return finetune(run, home / f"{task}_{method}")

    return train


@pytest.mark.parametrize("method", ["full", "probe"])
def test_labels_are_learned(trained, method):
    result = trained("multi_label", method)
    assert load_model(result.model).labels == ("gc", "purine")
    assert result.test["mcc"] > 0.5
    assert result.test["by_label"]["gc"]["auroc"] > 0.8


@pytest.mark.parametrize(("task", "method"), [("regression", "full"), LORA, ("regression", "probe")])
def test_measurements_are_learned_in_their_unit(home, trained, task, method):
    result = trained(task, method)
    assert result.test["spearman"] > 0.7
    assert result.test["rmse"] < np.std([float(label) for label in read_table(home / "regression" / "test.csv").labels])
    head = load_model(result.model).head
    values = np.array([float(label) for label in read_table(home / "regression" / "train.csv").labels])
    assert (head.task, head.mean, head.deviation) == (
        "regression",
        pytest.approx(values.mean()),
        pytest.approx(values.std()),
    )


@pytest.mark.parametrize("task", TASKS)
def test_the_kept_evaluation_is_the_best_by_the_tasks_score(home, trained, task):
    key = {"multi_label": "dev_mcc", "regression": "dev_spearman"}[task]
    kept = trained(task, "full")
    scores = {line["step"]: line[key] for line in MetricsLog.read(home / f"{task}_full") if key in line}
    assert len(scores) > 1
    assert kept.dev[key.removeprefix("dev_")] == max(scores.values()) == scores[kept.best_step]
    training = [line for line in MetricsLog.read(home / f"{task}_full") if "loss" in line]
    assert [("accuracy" in line) for line in training] == [task == "multi_label"] * len(training)


@pytest.mark.parametrize(
    ("task", "method"),
    [
        ("multi_label", "full"),
        pytest.param("multi_label", "probe", marks=pytest.mark.slow),
        pytest.param("regression", "full", marks=pytest.mark.slow),
        LORA,
        ("regression", "probe"),
    ],
)
def test_evaluate_and_predict_say_what_was_reported(home, trained, task, method, tmp_path, monkeypatch, capsys):
    result, table = trained(task, method), home / task / "test.csv"
    for command in (f"evaluate --out {tmp_path / 'scores.json'}", f"predict --out {tmp_path / 'said.csv'}"):
        words = [*command.split(), "--data", str(table), "--model", str(result.adapter or result.model)]
        monkeypatch.setattr(sys, "argv", ["dnabert2", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0, capsys.readouterr().err
    scores = json.loads((tmp_path / "scores.json").read_text())
    with (tmp_path / "said.csv").open() as file:
        said = list(csv.DictReader(file))
    written = read_table(table).labels
    if task == "regression":
        assert list(said[0]) == ["name", "value", "windows", "cut_bases", "note", "label"]
        again = regression_metrics(
            np.array(list(map(float, written))), np.array([float(row["value"]) for row in said]), deviation=1.0
        )
        assert again["rmse"] == pytest.approx(scores["rmse"], rel=1e-4) == pytest.approx(result.test["rmse"], rel=1e-4)
    else:
        assert list(said[0]) == ["name", "label", "p_gc", "p_purine", "windows", "cut_bases", "note", "input_label"]
        right = np.mean([row["label"] == label for row, label in zip(said, written, strict=True)])
        assert right == pytest.approx(scores["exact_match"]) == pytest.approx(result.test["exact_match"])
        assert scores["by_label"]["gc"]["mcc"] == pytest.approx(result.test["by_label"]["gc"]["mcc"], abs=1e-6)


def said_by(model: DNABERT2) -> Predictions:
    """Predictions of a few sequences, the same ones always, so that their programs are compiled once."""
    return model.predict([sequence for sequence, _, _ in rows(12, 9)], reverse_complement=True)


def test_python_gives_labels_or_values(trained):
    several = said_by(DNABERT2.load(trained("multi_label", "full").model))
    assert several.labels == [
        ";".join(name for name, p in zip(("gc", "purine"), row, strict=True) if p > 0.5) or "-"
        for row in several.probabilities
    ]
    assert len(set(several.labels)) > 2
    with pytest.raises(UserError, match="predictions are in `labels` and `probabilities`"):
        _ = several.values
    measured = said_by(DNABERT2.load(trained("regression", "full").model))
    assert measured.values.shape == (12,)
    assert OFFSET < measured.values.min() < measured.values.max() < OFFSET + UNIT
    for name in ("labels", "probabilities"):
        with pytest.raises(UserError, match="predictions are in `values`"):
            getattr(measured, name)


@pytest.mark.parametrize("task", TASKS)
def test_hugging_faces_layout_keeps_the_task(trained, task, tmp_path):
    """A regression's last layer gives the table's unit there, as its users expect of a model without a scale beside it."""
    model = load_model(trained(task, "full").model)
    save_hugging_face(tmp_path / "hf", model)
    settings = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert settings["problem_type"] == {"multi_label": "multi_label_classification"}.get(task, task)
    back = load_hugging_face(tmp_path / "hf")
    assert (back.head.task, back.labels) == (task, model.labels)
    save_model(tmp_path / "back", back)
    expected = said_by(DNABERT2.load(model.path)).outputs
    for again in (DNABERT2.load(tmp_path / "back"), DNABERT2.from_hf(tmp_path / "hf")):
        np.testing.assert_allclose(said_by(again).outputs, expected, rtol=1e-5, atol=1e-5)


def test_pefts_layout_has_no_place_for_it(home, tmp_path):
    adapter = SavedAdapter(
        base=load_model(home / "base"),
        params={},
        lora=LoraConfig(),
        labels=("value",),
        head=HeadConfig(task="regression"),
        provenance={},
    )
    with pytest.raises(UserError, match=r"an adapter for the task regression, .* merge it with `dnabert2 merge`"):
        save_peft(tmp_path / "peft", adapter)
    assert not (tmp_path / "peft").exists()


def test_the_reports_show_what_the_task_has(home, trained):
    several_scores, measured_scores = (trained(task, "full").test for task in TASKS)
    several, measured = ((home / f"{task}_full" / "report.html").read_text() for task in TASKS)
    for said in ("test mean MCC", "test micro F1", "All labels are correct on", "<td>purine</td>"):
        assert said in several
    for said in ("test Spearman", "test R²", "mean absolute error", "standard deviation"):
        assert said in measured
    assert (home / "regression_full" / "pictures" / "predictions.png").stat().st_size > 5000
    deviation = load_model(home / "regression_full" / "model").head.deviation
    with np.load(home / "regression_full" / "test_predictions.npz") as kept:
        scores = regression_metrics(kept["labels"], kept["values"], deviation=deviation)
    assert scores == measured_scores
    with np.load(home / "multi_label_full" / "test_predictions.npz") as kept:
        scores = multi_label_metrics(kept["labels"], kept["probabilities"], ("gc", "purine"))
    assert scores == several_scores


def test_a_map_is_for_classes(home, trained):
    trained("regression", "full")
    with pytest.raises(UserError, match=r"needs a run with data\.task single_label, this one has regression"):
        embed_test_rows(home / "regression_full")


def test_the_kmer_regression_is_for_classes(home):
    splits = load_splits(*(home / "regression" / f"{split}.csv" for split in ("train", "dev", "test")), task="regression")
    with pytest.raises(UserError, match="the k-mer regression needs one class per row; the task is regression"):
        KmerBaseline().fit(splits.train, splits.dev, splits.labels)


@pytest.mark.parametrize(
    ("task", "key", "value"),
    [
        *((task, "label_smoothing", 0.1) for task in TASKS),
        ("regression", "class_weights", "balanced"),
        ("regression", "focal_gamma", 2),
        ("regression", "selection", "mcc"),
        ("multi_label", "selection", "spearman"),
        ("single_label", "selection", "spearman"),
    ],
)
def test_settings_without_a_meaning_are_refused(home, task, key, value):
    with pytest.raises(UserError, match=rf"training\.{key} .*{task}"):
        finetune_run(home / "base", {**data_of(home, "regression"), "task": task}, training={key: value})
