"""Labels at every base: from a genome and its annotation to a saved model, a page, and tracks."""

import json
import shutil
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from dnabert2_jax import DNABERT2
from dnabert2_jax.artifacts.adapter import extract_adapter, load_adapter
from dnabert2_jax.artifacts.model import load_model
from dnabert2_jax.cli import main
from dnabert2_jax.config.loading import load_run, parse_run
from dnabert2_jax.config.per_base import PerBaseRun
from dnabert2_jax.convert.hugging_face import save_hugging_face
from dnabert2_jax.convert.peft import save_peft
from dnabert2_jax.data.by_length import choose_lengths, evaluation_batches
from dnabert2_jax.doctor import check_model
from dnabert2_jax.errors import UserError
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.metrics.bases import base_metrics, joined
from dnabert2_jax.modeling.compute import Compute
from dnabert2_jax.recipes.finetuned import Finetuned
from dnabert2_jax.recipes.finetuning import finetune
from dnabert2_jax.recipes.finetuning_per_base import prepare_windows
from dnabert2_jax.recipes.sweep import Choice, sweep
from dnabert2_jax.reports.embeddings import embed_test_rows
from dnabert2_jax.reports.run import write_report
from dnabert2_jax.training.workdir import MetricsLog
from dnabert2_jax.variants.scoring import checked_scores
from tests.genome.helpers import random_dna, write_fasta
from tests.helpers import tiny_model, with_sections, write_run

pytestmark = pytest.mark.usefixtures("promotion")

ISLAND, APART = 40, 160


def planted_genome(home: Path) -> None:
    """Contigs with islands of purines, read on their own strand; BED has the islands, GFF3 what overlaps them besides."""
    genome, bed, gff = {}, [], ["##gff-version 3"]
    for n in range(4):
        letters = list(random_dna(1000, n))
        for start in range(90, 1000 - ISLAND, APART):
            strand = "+-"[start // APART % 2]
            letters[start : start + ISLAND] = random_dna(ISLAND, 100 * n + start, {"+": "AG", "-": "CT"}[strand])
            bed.append(f"chr{n}\t{start}\t{start + ISLAND}\tisland\t0\t{strand}")
            gff.append(f"chr{n}\ttest\tisland\t{start + 1}\t{start + ISLAND}\t.\t{strand}\t.\tID=i{start}")
            gff.append(f"chr{n}\ttest\tshore\t{start + 21}\t{start + ISLAND + 20}\t.\t{strand}\t.\tID=s{start}")
        genome[f"chr{n}"] = "".join(letters)
    write_fasta(home / "g.fa", genome)
    (home / "islands.bed").write_text("\n".join(bed) + "\n")
    (home / "islands.gff3").write_text("\n".join(gff) + "\n")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("per_base")
    tiny_model(path / "base")
    planted_genome(path)
    return path


OF_FULL = {"data": {"reverse_complement": True}, "mesh": {"data": 2}}
"""What the run of all weights has besides: both strands, and two devices."""


def content_of(home: Path, **changes) -> dict[str, Any]:
    content = {
        "seed": 1,
        "model": {"path": str(home / "base"), "precision": "float32"},
        "data": {
            "task": "per_base",
            "fasta": str(home / "g.fa"),
            "annotation": str(home / "islands.bed"),
            "dev_contigs": ["chr2"],
            "test_contigs": ["chr3"],
            "window": 250,
        },
        "optimizer": {"learning_rate": 1e-2, "warmup_steps": 2},
        "training": {"epochs": 16, "batch_size": 4, "padded_lengths": 1, "patience": 16},
        "mesh": {"data": 1},
        "lora": {"rank": 2},
    }
    return with_sections(content, changes)


def run_of(home: Path, **changes) -> PerBaseRun:
    return parse_run(PerBaseRun, content_of(home, **changes), "test")


@pytest.fixture(scope="module")
def trained(home, undrawn) -> Callable[[str], Finetuned]:
    """Each method when it is asked for first."""

    @cache
    def train(method: str) -> Finetuned:
        changes = OF_FULL if method == "full" else {}
        return finetune(run_of(home, training={"method": method}, **changes), home / method)

    return train


def test_a_sweep_varies_runs_on_a_genome(home, undrawn, tmp_path):
    training = {"epochs": 1, "method": "probe"}
    config = write_run(tmp_path / "run.toml", "finetune", content_of(home, training=training))
    found = sweep(config, [], [Choice.parse("training.focal_gamma=0,2")], tmp_path / "sweep", trials=2)
    assert (found.score, found.task, found.dev) == ("auprc", "per_base", "chr2")
    assert found.ranked[0].dev["auprc"] == max(trial.dev["auprc"] for trial in found.trials)
    best = load_run(PerBaseRun, tmp_path / "sweep" / "best.toml")
    assert str(best.training.focal_gamma).removesuffix(".0") == found.ranked[0].settings["training.focal_gamma"]
    assert "compared on chr2" in (tmp_path / "sweep" / "sweep.html").read_text()


METHODS = ["full", *(pytest.param(method, marks=pytest.mark.slow) for method in ("lora", "probe"))]


@pytest.mark.parametrize("method", METHODS)
def test_islands_are_learned_and_the_saved_model_scores_as_the_run_said(method, home, trained):
    result = trained(method)
    assert result.test["auprc"] > 0.9
    assert result.test["segment_f1"] > 0.7
    assert result.test["n"] == 1000
    low, high = result.intervals["scores"]["macro_f1"]
    assert low <= result.test["macro_f1"] <= high
    scores = json.loads((home / method / "scores.json").read_text())
    assert scores["test"] == result.test
    assert scores["best_step"] == result.best_step

    model = InferenceModel.load(result.model, Compute())
    assert (model.kind, model.labels) == ("base_classifier", ("background", "island"))
    assert (model.head.task, model.head.window) == ("per_base", 250)
    job = prepare_windows(run_of(home), home / f"{method}_again")
    batches = evaluation_batches(job.test, 4, choose_lengths(job.test.lengths, 1))
    outputs = model.predictor.class_outputs(batches)
    np.testing.assert_allclose(outputs[job.test.letters >= 0].sum(-1), 1, rtol=1e-5)
    places = (joined(rows, job.test.breaks) for rows in (job.test.labels, outputs))
    again = base_metrics(*places, model.labels, several=False)
    assert again["auprc"] == pytest.approx(result.test["auprc"], rel=1e-4)
    assert again["loss"] == pytest.approx(result.test["loss"], rel=1e-3)


def test_training_starts_from_the_frequencies_of_labels(home, undrawn, tmp_path):
    one_step = {"training": {"max_steps": 1, "batch_size": 12}, "optimizer": {"learning_rate": 1e-9}}
    finetune(run_of(home, **one_step), tmp_path / "frequencies")
    finetune(run_of(home, training={**one_step["training"], "class_weights": "balanced"}), tmp_path / "zeros")
    first, zeros = (MetricsLog.read(tmp_path / name)[0]["loss"] for name in ("frequencies", "zeros"))
    share = 6 * ISLAND / 1000
    entropy = -share * np.log(share) - (1 - share) * np.log(1 - share)
    assert first == pytest.approx(entropy, rel=0.02)
    assert zeros == pytest.approx(np.log(2), rel=0.02)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_frozen_stays(method, home, trained):
    result, base = trained(method), load_model(home / "base")
    saved = load_model(result.model)
    pairs = zip(*(jax.tree.leaves(model.params["encoder"]) for model in (saved, base)), strict=True)
    changed = any((ours != theirs).any() for ours, theirs in pairs)
    assert changed == (method != "probe")
    heads = sum(leaf.size for name, part in saved.params.items() if name != "encoder" for leaf in jax.tree.leaves(part))
    whole = heads + sum(leaf.size for leaf in jax.tree.leaves(saved.params["encoder"]))
    if method == "lora":
        assert heads < result.trained_parameters < whole
    else:
        assert result.trained_parameters == {"full": whole, "probe": heads}[method]


@pytest.mark.slow
def test_an_adapter_is_saved_with_its_heads_and_opens_as_the_merged_model(home, trained):
    result = trained("lora")
    adapter = load_adapter(result.adapter)
    assert set(adapter.params) == {"adapter", "bases", "classifier"}
    opened, merged = (InferenceModel.load(path, Compute()) for path in (result.adapter, result.model))
    assert opened.kind == merged.kind == "base_classifier"
    for a, b in zip(*(jax.tree.leaves(model.predictor.params) for model in (opened, merged)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    of_run, base = load_model(result.model), load_model(home / "base")
    extracted, lost = extract_adapter(of_run, base, rank=2, targets=adapter.lora.targets, max_loss=0.01)
    assert lost < 1e-3
    assert extracted.head == adapter.head
    with pytest.raises(UserError, match="labels every base, which PEFT's layout cannot express"):
        save_peft(home / "peft", adapter)


def test_the_log_has_the_scores_of_every_evaluation(home, trained):
    result = trained("full")
    lines = [line for line in MetricsLog.read(home / "full") if "dev_auprc" in line]
    assert {line["step"] for line in lines} == {2 * n for n in range(1, 17)}
    assert set(lines[-1]) >= {"dev_auprc", "dev_top_k", "dev_segment_f1", "dev_macro_f1", "dev_mcc", "dev_loss"}
    best = max(lines, key=lambda line: line["dev_auprc"])
    assert result.dev["auprc"] == best["dev_auprc"]
    assert result.best_step == best["step"]


def test_the_page_shows_bases_segments_windows_and_what_to_do_next(home, trained, tmp_path, monkeypatch):
    trained("full")
    monkeypatch.undo()
    work = shutil.copytree(home / "full", tmp_path / "full", ignore=shutil.ignore_patterns("checkpoints"))
    page = write_report(work).read_text()
    for words in ("Bases by label", "top-k accuracy", "exact F1", "chr3", "--format bed", "full fine-tuning", "AUPRC"):
        assert words in page, words


@pytest.mark.slow
def test_the_command_reads_the_task_and_says_the_scores(home, trained, monkeypatch, capsys):
    """Called again on the finished run."""
    result = trained("full")
    run = write_run(home / "full.toml", "finetune", content_of(home, **OF_FULL))
    monkeypatch.setattr(sys, "argv", ["dnabert2", "finetune", "--config", str(run), "--workdir", str(home / "full")])
    with pytest.raises(SystemExit) as ended:
        main()
    out, remarks = capsys.readouterr()
    assert not ended.value.code
    assert out == f"saved {result.model}, scores in {home / 'full' / 'scores.json'}\n"
    assert f"test AUPRC {result.test['auprc']:.4f}" in remarks
    assert "(1,000 bases; 95% intervals)" in remarks
    with pytest.raises(UserError, match="single_label, this one has per_base"):
        embed_test_rows(home / "full")


def test_a_run_with_another_annotation_does_not_resume(home, trained, tmp_path):
    trained("full")
    work = shutil.copytree(home / "full", tmp_path / "full")
    (tmp_path / "islands.bed").write_text((home / "islands.bed").read_text().replace("chr0\t90\t130", "chr0\t91\t130"))
    record = json.loads((work / "run.json").read_text())
    record["data"]["annotation"] = str(tmp_path / "islands.bed")
    (work / "run.json").write_text(json.dumps(record))
    changes = with_sections(OF_FULL, {"data": {"annotation": str(tmp_path / "islands.bed")}})
    with pytest.raises(UserError, match="annotation"):
        finetune(run_of(home, **changes), work)


def test_what_cannot_be_done_with_it_says_so(home, trained, tmp_path):
    result = trained("full")
    model = DNABERT2.load(result.model)
    assert repr(model) == f"DNABERT2({str(result.model)!r}, kind='base_classifier', hidden_size=32)"
    with pytest.raises(UserError, match=r"is a base_classifier; prediction needs a classifier: .*, or `dnabert2 track`"):
        model.predict(["ACGT"])
    with pytest.raises(UserError, match="is a base_classifier; a classification head needs a classifier"):
        model.class_logits([[1, 5, 2]])
    with pytest.raises(UserError, match="is a base_classifier; ism needs a classifier"):
        model.explain(["ACGT"], "ism")
    with pytest.raises(UserError, match="labels every base, for which the original has no head"):
        save_hugging_face(tmp_path / "hf", load_model(result.model))
    assert not list(tmp_path.iterdir())
    assert checked_scores(InferenceModel.load(result.model, Compute()), ()) == ("emb",)
    assert model.embed(["ACGTACGT"]).shape == (1, 32)
    assert dict(check_model(result.model))


@pytest.mark.slow
def test_several_labels_on_both_strands(home, undrawn):
    changes = {
        "data": {
            "annotation": str(home / "islands.gff3"),
            "features": ["island", "shore"],
            "overlaps": "several",
            "stranded": True,
        },
    }
    result = finetune(run_of(home, **changes), home / "several")
    assert result.test["classes"] == ["island", "shore"]
    assert result.test["n"] == 2000
    by_label = result.test["by_label"]
    assert by_label["island"]["bases"] == by_label["shore"]["bases"] == 6 * ISLAND
    assert by_label["island"]["auprc"] > 0.9  # the other strand's islands are not taken for it
    model = load_model(result.model)
    assert model.head.several
    assert model.labels == ("island", "shore")


def test_overlapping_labels_are_refused_before_anything_is_written(home):
    changes = {"data": {"annotation": str(home / "islands.gff3"), "features": ["island", "shore"]}}
    with pytest.raises(UserError, match=r"islands\.gff3: \d+ features overlap one of another label"):
        finetune(run_of(home, **changes), home / "refused")
    assert not (home / "refused").exists()
