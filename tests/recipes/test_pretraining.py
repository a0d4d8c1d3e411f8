import json
import math
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest

from dnabert2_jax.artifacts.model import load_model, save_model
from dnabert2_jax.artifacts.tensors import tree_sha256
from dnabert2_jax.config.loading import run_to_dict
from dnabert2_jax.convert.hugging_face import save_hugging_face
from dnabert2_jax.errors import UserError
from dnabert2_jax.modeling.models import sequence_classifier
from dnabert2_jax.recipes.pretraining import pretrain
from dnabert2_jax.storage.hashes import file_sha256
from dnabert2_jax.tokenizer.training import train_bpe
from dnabert2_jax.training.optimizer import learning_rate_schedule
from dnabert2_jax.training.workdir import MetricsLog, Workdir
from tests.genome.helpers import random_dna
from tests.helpers import overflowing_model, pretrain_run, tiny_config, tiny_corpus, tiny_model


@pytest.fixture(autouse=True, scope="module")
def promotion():
    """Optax itself relies on jax's usual promotion of dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """A report takes seconds to draw; the runs that several tests share have written theirs."""
    monkeypatch.setattr("dnabert2_jax.recipes.pretraining.report_pretraining", lambda *_: None)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    path = tmp_path_factory.mktemp("pretraining")
    tiny_model(path / "base")
    tiny_corpus(path)
    return path


@pytest.fixture(scope="module")
def make_run(home):
    return lambda **changes: pretrain_run(home / "base", home / "corpus", **changes)


@pytest.fixture(scope="module")
def finished(home, make_run):
    """A finished run: its directory and the model that it returned."""
    return home / "run", pretrain(make_run(), home / "run")


def copy_of(finished, path):
    shutil.copytree(finished[0], path)
    return path


def test_a_run_leaves_its_settings_metrics_checkpoints_scores_and_model(finished):
    workdir, model = finished
    left = {path.name for path in workdir.iterdir()}
    assert {"checkpoints", "metrics.jsonl", "model", "run.json", "validation.json", "report.html"} <= left
    assert not [name for name in left if name.endswith(".partial")]
    assert [path.name for path in sorted((workdir / "checkpoints").glob("step_*"))] == ["step_00000008", "step_00000012"]
    saved = load_model(workdir / "model")
    assert saved.kind == "masked_lm"
    assert saved.path == model.path
    assert tree_sha256(saved.params) == tree_sha256(model.params)
    scores = json.loads((workdir / "validation.json").read_text())
    assert saved.provenance["metrics"] == scores
    assert scores["perplexity"] == pytest.approx(math.exp(scores["loss"]))
    assert saved.provenance["run_config"] == json.loads((workdir / "run.json").read_text())
    assert set(saved.provenance["parents"]) == {"corpus", "tokenizer", "base"}


def test_the_metrics_have_every_step_and_evaluation(finished, make_run):
    lines = MetricsLog.read(finished[0])
    training = [line for line in lines if "loss" in line]
    assert [line["step"] for line in training] == list(range(1, 13))
    assert set(training[0]) == {
        "step",
        "loss",
        "perplexity",
        "masked_accuracy",
        "gradient_norm",
        "update_norm",
        "skipped_steps",
        "tokens_per_second",
        "input_wait",
        "host_memory_bytes",
        "learning_rate",
    }
    assert training[0]["loss"] == pytest.approx(math.log(64), abs=0.4)
    assert all(line["tokens_per_second"] > 0 and line["gradient_norm"] > 0 for line in training)
    assert all(line["update_norm"] > 0 and line["skipped_steps"] == 0 for line in training)
    assert all(0 <= line["input_wait"] <= 1 and line["host_memory_bytes"] > 1e7 for line in training)
    schedule = learning_rate_schedule(make_run().optimizer, 12)
    assert [line["learning_rate"] for line in training] == [float(schedule(step)) for step in range(12)]
    evaluations = [line for line in lines if "validation_loss" in line]
    assert [line["step"] for line in evaluations] == [6, 12]
    scores = json.loads((finished[0] / "validation.json").read_text())
    assert {name.removeprefix("validation_"): evaluations[-1][name] for name in evaluations[-1] if name != "step"} == scores
    by_species = scores["loss_by_species"]
    assert set(by_species) == {"first", "second"}
    assert min(by_species.values()) <= scores["loss"] <= max(by_species.values())


def test_a_seed_repeats_bit_for_bit_and_another_differs(home, finished, make_run):
    again = pretrain(make_run(), home / "again")
    assert tree_sha256(again.params) == tree_sha256(finished[1].params)
    other = pretrain(make_run(seed=2), home / "other")
    assert tree_sha256(other.params) != tree_sha256(finished[1].params)

    def losses(workdir):
        return [line["loss"] for line in MetricsLog.read(workdir) if "loss" in line]

    assert losses(home / "again") == losses(finished[0]) != losses(home / "other")


def test_rhythm_and_watching_change_no_parameter(home, finished, make_run):
    rhythm = {"log_every": 5, "save_every": 3, "evaluate_every": 7}
    keeping = {"keep_checkpoints": 1, "keep_every": 6, "profile_steps": 2}
    model = pretrain(make_run(training=rhythm | keeping), home / "rhythm")
    kept = sorted(path.name for path in (home / "rhythm" / "checkpoints").glob("step_*"))
    assert kept == ["step_00000006", "step_00000012"]
    assert len(list((home / "rhythm" / "profile").rglob("*.xplane.pb"))) == 1
    assert tree_sha256(model.params) == tree_sha256(finished[1].params)
    lines = MetricsLog.read(home / "rhythm")
    assert [line["step"] for line in lines if "loss" in line] == [5, 10, 12]
    assert [line["step"] for line in lines if "validation_loss" in line] == [7, 12]
    means = [line["loss"] for line in lines if "loss" in line]
    each = [line["loss"] for line in MetricsLog.read(finished[0]) if "loss" in line]
    # The mean over the masked tokens of five steps; rows are full here, so every step masks as many.
    assert means == pytest.approx([sum(each[:5]) / 5, sum(each[5:10]) / 5, sum(each[10:]) / 2], rel=1e-3)


def test_a_finished_run_started_again_is_left_as_it_is(tmp_path, finished, make_run, capsys):
    workdir = copy_of(finished, tmp_path / "run")
    model = pretrain(make_run(), workdir)
    assert tree_sha256(model.params) == tree_sha256(finished[1].params)
    for name in ("metrics.jsonl", "run.json", "validation.json"):
        assert (workdir / name).read_bytes() == (finished[0] / name).read_bytes()
    assert "resuming from step 12 of 12" in capsys.readouterr().err


def test_a_run_that_lost_its_newest_checkpoint_goes_on_from_the_one_before(tmp_path, finished, make_run, caplog):
    workdir = copy_of(finished, tmp_path / "run")
    state = next(path for path in (workdir / "checkpoints" / "step_00000012").rglob("*") if path.stat().st_size > 1000)
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes(content)
    shutil.rmtree(workdir / "model")
    model = pretrain(make_run(), workdir)
    assert "damaged_step_00000012" in caplog.text
    assert tree_sha256(model.params) == tree_sha256(finished[1].params)
    steps = [line["step"] for line in MetricsLog.read(workdir) if "loss" in line]
    assert steps == list(range(1, 13))


def test_other_settings_are_refused_with_the_differences(finished, make_run):
    with pytest.raises(UserError, match=r"training\.steps was 12 and is now 20; choose another --workdir"):
        pretrain(make_run(training={"steps": 20}), finished[0])


@pytest.mark.parametrize("changed", ["corpus", "tokenizer", "base"])
def test_a_changed_input_under_the_same_path_is_refused(tmp_path, home, finished, changed):
    """The checkpoints of a run under whose feet a directory is changed."""
    for name in ("base", "corpus"):
        shutil.copytree(home / name, tmp_path / name)
    run = pretrain_run(tmp_path / "base", tmp_path / "corpus")
    workdir = Workdir(tmp_path / "run", run_to_dict(run))
    shutil.copytree(finished[0] / "checkpoints", workdir.checkpoints)
    if changed == "corpus":
        shutil.rmtree(tmp_path / "corpus")
        tiny_corpus(tmp_path, seed=1)
    elif changed == "tokenizer":
        model = load_model(tmp_path / "base")
        save_model(tmp_path / "base", replace(model, tokenizer=train_bpe([random_dna(20_000, 5)], vocab_size=64)))
    else:
        tiny_model(tmp_path / "base", seed=1)
    with pytest.raises(UserError, match=rf"run: {changed} changed since this run began; use another --workdir"):
        pretrain(run, workdir.path)


def test_pretraining_goes_on_from_a_masked_language_model_only(tmp_path, home, make_run):
    model = load_model(home / "base")
    params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), sequence_classifier(tiny_config(), 2).abstract())
    save_model(tmp_path / "classifier", replace(model, kind="classifier", params=params, labels=("0", "1")))
    with pytest.raises(UserError, match="is a classifier; pretraining starts from a masked_lm"):
        pretrain(make_run(model={"path": str(tmp_path / "classifier")}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_pretraining_goes_on_from_a_hugging_face_directory_and_records_its_files(tmp_path, home, make_run):
    hugging_face = save_hugging_face(tmp_path / "hf", load_model(home / "base"))
    parents = pretrain(make_run(model={"path": str(hugging_face)}), tmp_path / "run").provenance["parents"]
    assert parents["base/model.safetensors"] == file_sha256(hugging_face / "model.safetensors")
    assert parents["base"] == tree_sha256(load_model(home / "base").params["encoder"])


def test_a_diverged_run_says_so_and_leaves_no_model(tmp_path, home, make_run):
    overflowing_model(home / "base", tmp_path / "base")
    run = make_run(model={"path": str(tmp_path / "base")}, training={"skipped_in_a_row": 3})
    with pytest.raises(UserError, match=r"in 3 steps in a row, up to step 3: training diverged; lower optimizer"):
        pretrain(run, tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()
    lines = MetricsLog.read(tmp_path / "run")
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all(line["skipped_steps"] == 1 and "loss" not in line for line in lines)
    assert {line["learning_rate"] for line in lines} == {float(learning_rate_schedule(run.optimizer, 12)(0))}
    with np.load(tmp_path / "run" / "skipped_batch_3.npz") as kept:
        assert kept["records"].tolist() == list(range(16, 24))
        assert kept["input_ids"].shape == (8, 16)


def test_random_weights_of_a_named_size(tmp_path, home, make_run, monkeypatch):
    monkeypatch.setattr("dnabert2_jax.config.model.NAMED_SIZES", {"tiny": tiny_config()})
    load_model(home / "base").tokenizer.save(tmp_path / "tokenizer")
    content = {"path": None, "size": "tiny", "tokenizer": str(tmp_path / "tokenizer")}
    model = pretrain(make_run(model=content), tmp_path / "run")
    assert model.config == tiny_config()
    assert model.provenance["parents"]["base"] == "random weights"
