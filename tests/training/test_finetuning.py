import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from dnabert2_jax.config import HeadConfig
from dnabert2_jax.convert.hugging_face import save_hugging_face
from dnabert2_jax.data.classification import encode_table, evaluation_batches
from dnabert2_jax.data.sequences import read_sequences
from dnabert2_jax.data.tables import LabelSet, read_table
from dnabert2_jax.errors import UserError
from dnabert2_jax.evaluation.metrics import classification_metrics
from dnabert2_jax.hashing import file_sha256
from dnabert2_jax.inference.classify import Classifier, make_predict, predict_rows
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.inference.prediction import predict
from dnabert2_jax.model_directory import load_adapter, load_model, tree_sha256
from dnabert2_jax.modeling.encoder import Compute
from dnabert2_jax.modeling.models import sequence_classifier
from dnabert2_jax.parallel import MeshOptions, spread_rows
from dnabert2_jax.runs import Epochs, run_to_dict
from dnabert2_jax.training.finetuning import Finetuned, finetune
from dnabert2_jax.training.finetuning_steps import evaluation_steps
from dnabert2_jax.training.probe import _outputs, _unscaled, class_logits
from dnabert2_jax.training.targets import balanced_weights
from dnabert2_jax.training.workdir import MetricsLog, Workdir
from tests.helpers import (
    CLASSES,
    finetune_run,
    overflowing_model,
    tiny_model,
    tiny_rows,
    tiny_task,
    with_sections,
    write_table,
)

LORA = {"training": {"method": "lora"}}
COLLAPSES = {
    # A warm-up as long as the run: the rate only rises, and the last evaluations see what it destroyed.
    "optimizer": {"learning_rate": 0.1, "warmup_steps": 1000},
    "training": {"epochs": 12, "patience": 3},
}


@pytest.fixture(autouse=True, scope="module")
def promotion():
    """Optax itself relies on jax's usual promotion of dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """A report takes seconds to draw; the runs that several tests share have written theirs."""
    monkeypatch.setattr("dnabert2_jax.training.finetuning.report_finetuning", lambda *_: None)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("finetuning")
    tiny_model(path / "base")
    tiny_task(path)
    return path


def tables(home: Path) -> dict[str, str]:
    return {split: str(home / f"{split}.csv") for split in ("train", "dev", "test")}


@pytest.fixture(scope="module")
def make_run(home):
    return lambda **changes: finetune_run(home / "base", tables(home), **changes)


@pytest.fixture(scope="module")
def full(home, make_run) -> Finetuned:
    return finetune(make_run(), home / "full")


@pytest.fixture(scope="module")
def lora(home, make_run) -> Finetuned:
    return finetune(make_run(**LORA), home / "lora")


@pytest.fixture(scope="module")
def probe(home, make_run) -> Finetuned:
    return finetune(make_run(training={"method": "probe"}), home / "probe")


@pytest.fixture(scope="module")
def collapsed(home, make_run) -> Finetuned:
    return finetune(make_run(**COLLAPSES), home / "collapsed")


def score(directory: Path, table: Path):
    classifier = Classifier.load(directory, Compute())
    data = read_table(table)
    probabilities = classifier.score(data, batch_size=7, max_tokens=512)
    return probabilities, classification_metrics(classifier.labels.encode(data), probabilities, classifier.labels.names)


def dev_mccs(workdir: Path) -> dict[int, float]:
    return {line["step"]: line["dev_mcc"] for line in MetricsLog.read(workdir) if "dev_mcc" in line}


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
    schedule = make_run().optimizer.schedule(24)
    assert [line["learning_rate"] for line in training] == [float(schedule(line["step"] - 1)) for line in training]
    assert all({"dev_mcc", "dev_macro_f1", "dev_accuracy"} <= set(line) for line in dev)


def test_the_first_best_evaluation_is_kept(home, full):
    mccs = dev_mccs(home / "full")
    assert full.dev["mcc"] == max(mccs.values()) == mccs[full.best_step]
    assert full.best_step == next(step for step, mcc in mccs.items() if mcc == full.dev["mcc"])


def test_a_run_that_gets_worse_stops_early_and_keeps_its_best(home, collapsed):
    mccs = dev_mccs(home / "collapsed")
    steps = list(mccs)
    assert steps[-1] < 72
    assert len(steps) - 1 - steps.index(collapsed.best_step) == 3  # evaluations without a better one
    assert mccs[steps[-1]] < mccs[collapsed.best_step] == collapsed.dev["mcc"] == max(mccs.values())
    _, dev = score(collapsed.model, home / "dev.csv")
    assert dev["confusion_matrix"] == collapsed.dev["confusion_matrix"]
    assert dev["mcc"] > mccs[steps[-1]]


def test_a_run_that_stopped_early_is_finished(home, collapsed, make_run, tmp_path):
    shutil.copytree(home / "collapsed", tmp_path / "run")
    again = finetune(make_run(**COLLAPSES), tmp_path / "run")
    assert again.test == collapsed.test
    assert again.best_step == collapsed.best_step
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (home / "collapsed" / "metrics.jsonl").read_bytes()


def test_a_seed_repeats_bit_for_bit_and_another_differs(home, full, make_run):
    again = finetune(make_run(), home / "again")
    weights = [(load_model(r.model).params) for r in (full, again)]
    assert tree_sha256(weights[0]) == tree_sha256(weights[1])
    other = finetune(make_run(seed=2), home / "other")
    assert tree_sha256(load_model(other.model).params) != tree_sha256(weights[0])


class TestProbe:
    def test_the_saved_model_scores_what_was_reported(self, home, probe):
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

    def test_the_best_penalty_on_dev_is_kept(self, home, probe):
        mccs = dev_mccs(home / "probe")
        assert list(mccs) == [1, 2, 3, 4, 5]
        assert probe.dev["mcc"] == max(mccs.values()) == mccs[probe.best_step]

    def test_it_repeats_bit_for_bit_in_the_same_directory(self, home, probe, make_run):
        before = tree_sha256(load_model(probe.model).params)
        again = finetune(make_run(training={"method": "probe"}), home / "probe")
        assert again.test == probe.test
        assert tree_sha256(load_model(probe.model).params) == before

    @pytest.mark.parametrize("classes", [2, 3])
    def test_the_linear_layer_is_the_scaled_regression(self, classes):
        labels = np.arange(60) % classes
        rows = np.random.default_rng(classes).normal(3, 2, (60, 5)) + labels[:, None]
        scaler = StandardScaler().fit(rows)
        regression = LogisticRegression(C=0.1).fit(scaler.transform(rows), labels)
        expected = regression.predict_proba(scaler.transform(rows))
        layer = _unscaled(*class_logits(regression), scaler)
        np.testing.assert_allclose(_outputs(layer, rows, HeadConfig()), expected, rtol=0, atol=1e-6)

    def test_the_originals_layout_cannot_hold_it(self, probe, tmp_path):
        with pytest.raises(UserError, match="is a linear probe: it reads means over tokens"):
            save_hugging_face(tmp_path / "hf", load_model(probe.model))
        assert not (tmp_path / "hf").exists()

    def test_smoothing_is_refused(self, make_run):
        with pytest.raises(UserError, match=r"label_smoothing is for full and lora"):
            make_run(training={"method": "probe", "label_smoothing": 0.1})


class TestLora:
    def test_the_adapter_directory_holds_adapter_and_heads_only_and_names_its_base(self, home, lora):
        assert lora.adapter == home / "lora" / "adapter"
        names = sorted(path.name for path in lora.adapter.iterdir())
        assert names == ["adapter.json", "adapter.safetensors", "manifest.json", "provenance.json"]
        tensors = load_file(lora.adapter / "adapter.safetensors")
        projections = [f"adapter.{name}.{m}" for name in ("Wqkv", "gated_layers", "out", "wo") for m in "AB"]
        heads = ["classifier.bias", "classifier.kernel", "pooler.dense.bias", "pooler.dense.kernel"]
        assert sorted(tensors) == sorted(projections + heads)
        assert sum(tensor.size for tensor in tensors.values()) == lora.trained_parameters
        header = json.loads((lora.adapter / "adapter.json").read_text())
        assert header["base_sha256"] == tree_sha256(load_model(home / "base").params["encoder"])
        assert header["lora"]["rank"] == 2
        assert all(np.abs(tensors[name]).max() > 0 for name in projections)  # B has left zero

    def test_the_base_is_untouched(self, home, lora, tmp_path):
        tiny_model(tmp_path / "base")
        files = ("model.safetensors", "tokenizer.model", "config.json")
        assert [(home / "base" / f).read_bytes() for f in files] == [(tmp_path / "base" / f).read_bytes() for f in files]

    def test_checkpoints_hold_nothing_of_the_base(self, home, lora):
        contents = json.loads(next((home / "lora" / "checkpoints").glob("step_*/contents.json")).read_text())
        names = set(contents["arrays"])
        assert not [name for name in names if "encoder" in name or "embeddings" in name]
        assert {name.split(".")[1] for name in names if name.startswith("trainable.")} == {"adapter", "pooler", "classifier"}

    def test_the_merged_model_scores_as_the_adapter_beside_its_base(self, home, lora):
        adapter, data = load_adapter(lora.adapter), read_table(home / "test.csv")
        encoded = encode_table(data, adapter.base.tokenizer, LabelSet(adapter.labels), 512)
        predict = make_predict(sequence_classifier(adapter.base.config, 2), adapter.lora)
        params = jax.device_put({**adapter.params, "encoder": adapter.base.params["encoder"]})
        unmerged = predict_rows(predict, params, evaluation_batches(encoded, 8, (24,)))
        for directory in (lora.model, lora.adapter):
            merged, scores = score(directory, home / "test.csv")
            np.testing.assert_allclose(merged, unmerged, rtol=0, atol=2e-5)
            assert scores["confusion_matrix"] == lora.test["confusion_matrix"]

    def test_the_merged_encoder_is_another_than_the_base(self, home, lora):
        model, adapter = load_model(lora.model), load_adapter(lora.adapter)
        base = adapter.base.params["encoder"]["layers"]
        for name in ("Wqkv", "out", "gated_layers", "wo"):
            difference = model.params["encoder"]["layers"][name]["kernel"] - base[name]["kernel"]
            for layer in difference:
                assert np.linalg.matrix_rank(layer, tol=1e-5) == 2
        np.testing.assert_array_equal(
            model.params["encoder"]["embeddings"]["word"], adapter.base.params["encoder"]["embeddings"]["word"]
        )


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


def test_a_run_is_evaluated_several_times_an_epoch_but_never_twice_a_step(tmp_path, make_run):
    many = {"training": {"evaluations_per_epoch": 9, "patience": 4}}
    finetune(make_run(**many), tmp_path / "run")
    steps = list(dev_mccs(tmp_path / "run"))
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) >= 5


@pytest.mark.parametrize(
    ("steps_per_epoch", "training", "expected"),
    [
        (6, {"epochs": 2}, [6, 12]),
        (6, {"epochs": 2, "max_steps": 8}, [6, 8]),
        (6, {"epochs": 2, "max_steps": 20}, [6, 12, 18, 20]),
        (100, {"max_steps": 30}, [30]),
        (100, {"max_steps": 60, "evaluations_per_epoch": 4}, [25, 50, 60]),
        (1, {"max_steps": 3, "evaluations_per_epoch": 2}, [1, 2, 3]),
    ],
)
def test_evaluations_end_with_the_run(steps_per_epoch, training, expected):
    assert evaluation_steps(Epochs(**training), steps_per_epoch) == expected


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 100))
def test_evaluations_are_in_order_whatever_the_length(steps_per_epoch, per_epoch, max_steps):
    steps = evaluation_steps(Epochs(max_steps=max_steps, evaluations_per_epoch=per_epoch), steps_per_epoch)
    assert steps == sorted(set(steps))
    assert steps[0] >= 1
    assert steps[-1] == max_steps
    assert max(np.diff([0, *steps])) <= -(-steps_per_epoch // per_epoch) + 1


@pytest.mark.parametrize("batching", ["by_length", "packed"])
def test_a_run_of_so_many_steps_ends_there_with_its_schedule(home, make_run, tmp_path, batching):
    """Eight steps are a whole epoch of six and two of the next one."""
    result = finetune(make_run(training={"epochs": 1, "max_steps": 8, "batching": batching}), tmp_path / "run")
    assert list(dev_mccs(tmp_path / "run")) == [6, 8]
    assert result.best_step in (6, 8)
    rates = {line["step"]: line["learning_rate"] for line in MetricsLog.read(tmp_path / "run") if "learning_rate" in line}
    assert rates[8] == pytest.approx(1e-2 / 6)  # the last of six steps down to zero, after two of warm-up


@pytest.mark.parametrize("method", ["full", pytest.param("lora", marks=pytest.mark.slow)])
def test_devices_share_a_batch_without_changing_it(home, make_run, request, tmp_path, capsys, method):
    """Sums are added in another order, and dropout belongs to rows: the losses agree to rounding."""
    alone = request.getfixturevalue(method)
    shared = finetune(make_run(training={"method": method}, mesh={"data": 4}), tmp_path / "run")
    assert "; on 4 devices" in capsys.readouterr().err
    lines = [MetricsLog.read(path) for path in (home / method, tmp_path / "run")]
    for one, four in zip(*lines, strict=True):
        assert four == pytest.approx(one, rel=2e-3, abs=2e-3)
        if "learning_rate" in one and one["step"] == 6:  # before rounding has grown over epochs
            assert four["loss"] == pytest.approx(one["loss"], rel=1e-5)
    assert shared.test["confusion_matrix"] == alone.test["confusion_matrix"]


@pytest.mark.parametrize(
    ("mesh", "said"),
    [
        ({"data": 3}, r"3 \(data\) devices do not divide the 8 rows"),
        ({"data": 9}, r"do not divide the 8 rows"),
        ({"data": 1, "fsdp": 2}, "fine-tuning spreads rows alone; of this section it takes data"),
    ],
)
def test_devices_that_cannot_share_a_batch(make_run, tmp_path, mesh, said):
    with pytest.raises(UserError, match=said):
        finetune(make_run(mesh=mesh), tmp_path / "run")


@pytest.mark.parametrize(("rows", "devices"), [(8, 8), (12, 6), (7, 7), (11, 1), (1, 1)])
def test_as_many_devices_as_divide_the_rows_are_taken(rows, devices):
    layout = spread_rows(MeshOptions(), rows, {"w": np.zeros(2)})
    assert (layout.mesh.size if layout else 1) == devices


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
    with_types = predict(replace(opened, head=HeadConfig()), read_sequences(table)).probabilities
    assert np.abs(with_types - probabilities).max() > 1e-3


def test_by_loss_the_evaluation_of_lowest_dev_loss_is_kept(home, make_run):
    result = finetune(make_run(**with_sections(COLLAPSES, {"training": {"selection": "loss"}})), home / "by_loss")
    losses = {line["step"]: line["dev_loss"] for line in MetricsLog.read(home / "by_loss") if "dev_loss" in line}
    assert result.dev["loss"] == min(losses.values()) == losses[result.best_step]
    assert result.best_step < max(losses)
    assert len(losses) - 1 - list(losses).index(result.best_step) == 3  # patience


def test_packed_rows_learn_and_a_finished_run_stays_finished(home, make_run, tmp_path, capsys):
    packed = make_run(training={"batching": "packed"})
    result = finetune(packed, home / "packed")
    assert result.test["mcc"] > 0.6
    assert re.search(r"8 sequences packed into \d rows of", capsys.readouterr().err)
    assert result.first_step_seconds > 0
    shutil.copytree(home / "packed", tmp_path / "run")
    again = finetune(packed, tmp_path / "run")
    assert again.first_step_seconds is None  # nothing was left to do
    assert again.test == result.test


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
    with pytest.raises(UserError, match=r"attention backend 'blocket' is unknown; .* did you mean 'blocked'"):
        finetune(make_run(model={"attention": "blocket"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_label_that_train_lacks_is_refused_before_any_work(tmp_path, home):
    rows = [*tiny_rows(10, 0), ("ACGTACGT", "unheard-of")]
    data = {**tables(home), "test": str(write_table(tmp_path / "test.csv", rows))}
    with pytest.raises(UserError, match=r"test\.csv, line 12: label 'unheard-of' is not a class"):
        finetune(finetune_run(home / "base", data), tmp_path / "run")
    assert not (tmp_path / "run").exists()
