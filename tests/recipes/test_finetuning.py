import json
import re
import shutil
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dnabert2_jax.artifacts.model import load_model
from dnabert2_jax.artifacts.tensors import tree_sha256
from dnabert2_jax.config.loading import run_to_dict
from dnabert2_jax.config.model import HeadConfig
from dnabert2_jax.data.reading import read_sequences
from dnabert2_jax.errors import UserError
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.inference.prediction import predict
from dnabert2_jax.modeling.compute import Compute
from dnabert2_jax.recipes.finetuned import Finetuned
from dnabert2_jax.recipes.finetuning import finetune
from dnabert2_jax.storage.hashes import file_sha256
from dnabert2_jax.tokenizer.kmer import KmerTokenizer
from dnabert2_jax.training.objectives import balanced_weights
from dnabert2_jax.training.optimizer import learning_rate_schedule
from dnabert2_jax.training.workdir import MetricsLog, Workdir
from tests.helpers import CLASSES, finetune_run, overflowing_model, tiny_model, tiny_rows, write_table
from tests.recipes.helpers import dev_mccs, score, tables

pytestmark = pytest.mark.usefixtures("promotion")


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """A report takes seconds to draw; the run that several tests share has written its own."""
    monkeypatch.setattr("dnabert2_jax.recipes.finetuning.report_finetuning", lambda *_: None)


@pytest.fixture(scope="module")
def full(home, make_run) -> Finetuned:
    return finetune(make_run(), home / "full")


def test_a_run_leaves_its_settings_metrics_model_and_scores(home, full):
    left = {path.name for path in (home / "full").iterdir()}
    assert {"checkpoints", "metrics.jsonl", "model", "run.json", "scores.json", "report.html"} <= left
    assert "adapter" not in left
    scores = json.loads((home / "full" / "scores.json").read_text())
    assert scores["test"] == full.test
    assert scores["model"] == str(full.model)
    model = load_model(full.model)
    assert model.kind == "classifier"
    assert model.labels == CLASSES
    assert set(model.params) == {"encoder", "pooler", "classifier"}
    assert model.provenance["metrics"] == {"dev": full.dev, "step": full.best_step, "test": full.test}
    assert model.provenance["parents"] == {
        "tokenizer": model.tokenizer.sha256,
        "base": tree_sha256(load_model(home / "base").params["encoder"]),
        **{split: file_sha256(Path(path)) for split, path in tables(home).items()},
    }


def test_it_learns_and_the_saved_model_scores_what_was_reported(home, full):
    assert full.test["mcc"] > 0.6
    for split, reported in (("test", full.test), ("dev", full.dev)):
        assert score(full.model, home / f"{split}.csv")[1]["confusion_matrix"] == reported["confusion_matrix"]


def test_the_metrics_have_a_line_of_training_and_one_of_dev_at_each_evaluation(home, full, make_run):
    lines = MetricsLog.read(home / "full")
    assert [line["step"] for line in lines] == [6, 6, 12, 12, 18, 18, 24, 24]
    training, dev = lines[::2], lines[1::2]
    assert [line["epoch"] for line in training] == [1, 2, 3, 4]
    assert training[-1]["loss"] < training[0]["loss"]
    schedule = learning_rate_schedule(make_run().optimizer, 24)
    assert [line["learning_rate"] for line in training] == [float(schedule(line["step"] - 1)) for line in training]
    assert all({"dev_mcc", "dev_macro_f1", "dev_accuracy"} <= set(line) for line in dev)


def test_the_first_best_evaluation_is_kept(home, full):
    mccs = dev_mccs(home / "full")
    assert full.dev["mcc"] == max(mccs.values()) == mccs[full.best_step]
    assert full.best_step == next(step for step, mcc in mccs.items() if mcc == full.dev["mcc"])


def test_a_seed_repeats_bit_for_bit_and_another_differs(home, full, make_run):
    again = finetune(make_run(), home / "again")
    weights = [(load_model(r.model).params) for r in (full, again)]
    assert tree_sha256(weights[0]) == tree_sha256(weights[1])
    other = finetune(make_run(seed=2), home / "other")
    assert tree_sha256(load_model(other.model).params) != tree_sha256(weights[0])


def test_seconds_of_a_run_that_went_on_count_those_of_before(make_run, tmp_path, monkeypatch):
    clock = count(0, 1000)  # every look at it takes a thousand seconds
    with monkeypatch.context() as patched:
        patched.setattr("dnabert2_jax.recipes.finetuning_steps.time", SimpleNamespace(monotonic=lambda: next(clock)))
        finetune(make_run(), tmp_path / "run")
    again = finetune(make_run(), tmp_path / "run")
    assert again.first_step_seconds is None
    assert 2000 < again.seconds < next(clock)


def test_rows_that_are_cut_are_reported(tmp_path, home, capsys):
    long = {
        split: str(write_table(tmp_path / f"{split}.csv", tiny_rows(rows, seed, bases=80)))
        for seed, (split, rows) in enumerate({"train": 48, "dev": 24, "test": 30}.items())
    }
    finetune(finetune_run(home / "base", {**long, "max_tokens": 24}), tmp_path / "run")
    said = capsys.readouterr().err
    for split, path in long.items():
        assert re.search(rf"{split} {path}: \d+ rows, .*; \d+ rows were cut to max_tokens 24 and lost \d+ tokens", said)
    assert "rows padded to 24 tokens" in said


def test_letters_that_were_changed_are_reported(tmp_path, home, capsys):
    rows = tiny_rows(48, 0)
    rows[3] = (rows[3][0].lower(), rows[3][1])
    rows[4] = ("NNR" + rows[4][0][3:], rows[4][1])
    changed = {**tables(home), "train": str(write_table(tmp_path / "train.csv", rows))}
    finetune(finetune_run(home / "base", changed), tmp_path / "run")
    assert f"{len(rows[3][0])} lower-case letters upper-cased; 3 ambiguity codes read as [UNK]" in capsys.readouterr().err


def test_pairs_train_with_token_types(tmp_path, home):
    def pairs(rows, seed):
        halves = tiny_rows(2 * rows, seed, bases=20)
        return [(a[0], b[0], a[1]) for a, b in zip(halves[:rows], halves[rows:], strict=True)]

    data = {
        split: str(write_table(tmp_path / f"{split}.csv", pairs(rows, seed), "sequence1,sequence2,label"))
        for seed, (split, rows) in enumerate({"train": 48, "dev": 24, "test": 30}.items())
    }
    result = finetune(finetune_run(home / "base", data), tmp_path / "run")
    base = load_model(home / "base").params["encoder"]["embeddings"]["token_type"]
    trained = load_model(result.model).params["encoder"]["embeddings"]["token_type"]
    assert (np.abs(trained - base).max(1) > 1e-3).all()  # both types were seen
    assert load_model(result.model).head.token_types

    without = finetune(finetune_run(home / "base", {**data, "token_types": False}), tmp_path / "without")
    trained = load_model(without.model).params["encoder"]["embeddings"]["token_type"]
    assert np.abs(trained[1] - base[1]).max() < 1e-4 < 1e-3 < np.abs(trained[0] - base[0]).max()
    # Whoever uses the model reads pairs as it learned them, labelled or not.
    table = tmp_path / "test.csv"
    probabilities, scores = score(without.model, table)
    assert scores["confusion_matrix"] == without.test["confusion_matrix"]
    opened = InferenceModel.load(without.model, Compute())
    used = predict(opened, read_sequences(table)).probabilities
    np.testing.assert_allclose(used, probabilities, rtol=0, atol=1e-5)
    forward = replace(opened.predictor.forward, head=HeadConfig())
    reading_types = replace(opened, predictor=replace(opened.predictor, forward=forward))
    with_types = predict(reading_types, read_sequences(table)).probabilities
    assert np.abs(with_types - probabilities).max() > 1e-3


def test_reading_both_strands_learns_and_is_another_training(home, full, make_run):
    result = finetune(make_run(data={"reverse_complement": True}), home / "strands")
    assert result.test["mcc"] > 0.6
    assert tree_sha256(load_model(result.model).params) != tree_sha256(load_model(full.model).params)


def test_balanced_weights_by_hand():
    weights = balanced_weights(np.array([0, 0, 0, 1, 2, 2]), 3)
    np.testing.assert_allclose(weights, [6 / 9, 6 / 3, 6 / 6])
    assert weights[[0, 0, 0, 1, 2, 2]].mean() == pytest.approx(1)


def test_weights_and_smoothing_reach_the_training_loss(home, make_run, tmp_path):
    """Nearly all rows of one class: balanced weights keep the loss up, smoothing too."""
    rows = [row for row in tiny_rows(96, 0) if row[1] == "plain"][:40] + [("GCGCCGCGGC" * 4, "rich")] * 8
    data = {"train": str(write_table(tmp_path / "train.csv", rows))}
    settings = {"class_weights": "balanced", "label_smoothing": 0.3, "epochs": 1}
    losses = []
    for n, training in enumerate(({"epochs": 1}, settings)):
        finetune(make_run(data=data, training=training), tmp_path / str(n))
        losses.append(MetricsLog.read(tmp_path / str(n))[0]["loss"])
    assert losses[1] > 1.2 * losses[0]


def test_an_encoder_of_one_token_type_cannot_tell_the_two_of_a_pair(tmp_path):
    tiny_model(tmp_path / "base", type_vocab_size=1)
    rows = [("ACGT" * 5, "GGCA" * 5, str(n % 2)) for n in range(8)]
    table = str(write_table(tmp_path / "pairs.csv", rows, "sequence1,sequence2,label"))
    data = dict.fromkeys(("train", "dev", "test"), table)
    with pytest.raises(
        UserError, match=r"pairs\.csv holds pairs, and the encoder has token type 0 only .*token_types=false"
    ):
        finetune(finetune_run(tmp_path / "base", data), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_settings_are_refused_with_the_differences(home, full, make_run):
    with pytest.raises(
        UserError, match=r"lora\.rank was 2 and is now 4; .*optimizer\.learning_rate was 0\.01 and is now 0\.1"
    ):
        finetune(make_run(optimizer={"learning_rate": 0.1}, lora={"rank": 4}), home / "full")


@pytest.mark.parametrize("changed", ["base", "train", "dev", "test"])
def test_a_changed_input_under_the_same_path_is_refused(tmp_path, home, full, changed):
    """The checkpoints of a run under whose feet a file is changed."""
    shutil.copytree(home / "base", tmp_path / "base")
    for path in tables(home).values():
        shutil.copy(path, tmp_path)
    run = finetune_run(tmp_path / "base", tables(tmp_path))
    workdir = Workdir(tmp_path / "run", run_to_dict(run))
    shutil.copytree(home / "full" / "checkpoints", workdir.checkpoints)
    if changed == "base":
        tiny_model(tmp_path / "base", seed=1)
    else:
        write_table(tmp_path / f"{changed}.csv", tiny_rows(24, seed=9))
    with pytest.raises(UserError, match=rf"run: {changed} changed since this run began; use another --workdir"):
        finetune(run, workdir.path)


def test_a_diverged_run_says_so(tmp_path, home, make_run):
    overflowing_model(home / "base", tmp_path / "base")
    with pytest.raises(UserError, match="training diverged; lower optimizer"):
        finetune(make_run(model={"path": str(tmp_path / "base")}), tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()


def test_an_unknown_attention_backend_leaves_no_directory_behind(tmp_path, make_run):
    with pytest.raises(UserError, match=r"attention backend 'blocket' is unknown; .*did you mean 'blocked'"):
        finetune(make_run(model={"attention": "blocket"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_label_that_train_lacks_is_refused_before_any_work(tmp_path, home):
    rows = [*tiny_rows(10, 0), ("ACGTACGT", "unheard-of")]
    data = {**tables(home), "test": str(write_table(tmp_path / "test.csv", rows))}
    with pytest.raises(UserError, match=r"test\.csv, line 12: label 'unheard-of' is not a class"):
        finetune(finetune_run(home / "base", data), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_leaving_merges_out_is_another_training_and_repeats(home, full, make_run, tmp_path):
    run = make_run(data={"bpe_dropout": 0.2, "reverse_complement": True})
    first, again = (finetune(run, tmp_path / name) for name in ("first", "again"))
    models = [load_model(result.model) for result in (full, first, again)]
    hashes = [tree_sha256(model.params) for model in models]
    assert hashes[1] == hashes[2] != hashes[0]
    _, scores = score(first.model, home / "test.csv")  # its test rows have the tokenizer's own tokens
    assert scores["confusion_matrix"] == first.test["confusion_matrix"]


def test_k_mers_have_no_merges_to_leave_out(make_run, tmp_path):
    KmerTokenizer(3, 3).save(tmp_path / "kmers")
    run = make_run(data={"bpe_dropout": 0.2}, model={"path": None, "size": "1m", "tokenizer": str(tmp_path / "kmers")})
    with pytest.raises(UserError, match="this tokenizer of k-mers makes none"):
        finetune(run, tmp_path / "run")
    assert not (tmp_path / "run").exists()
