"""Runs whose everything lies in a bucket: corpus, base, tables, checkpoints, logs, model and report."""

import time
from pathlib import Path

import jax
import numpy as np
import pytest

from dnabert2_jax.api import DNABERT2
from dnabert2_jax.config.runs import FinetuneRun, PretrainRun
from dnabert2_jax.recipes.finetuning import finetune
from dnabert2_jax.recipes.pretraining import pretrain
from dnabert2_jax.reports import write_report
from dnabert2_jax.storage import buckets
from dnabert2_jax.storage.copies import local_copy
from dnabert2_jax.storage.manifest import verify_manifest
from tests.emulators import Store, kill_at_request
from tests.helpers import (
    finetune_content,
    parse_run,
    pretrain_content,
    tiny_corpus,
    tiny_model,
    tiny_task,
    untimed_lines,
    write_run,
)
from tests.processes import run_cli, start_cli

STEPS = {"steps": 24, "save_every": 4, "evaluate_every": 12, "log_every": 1}


@pytest.fixture(autouse=True, scope="module")
def promotion():
    """Optax itself relies on jax's usual promotion of dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("buckets")
    tiny_model(path / "base")
    tiny_corpus(path)
    return path


@pytest.fixture(scope="module")
def pretrained(home) -> Path:
    """The same run on this machine's disk."""
    content = pretrain_content(home / "base", home / "corpus", training=STEPS)
    pretrain(parse_run(PretrainRun, content, "test"), home / "pretrained")
    return home / "pretrained"


@pytest.fixture(scope="module")
def finetuned(home) -> Path:
    """The same for an adapter, with a save after every second step."""
    training = {"method": "lora", "epochs": 4, "evaluations_per_epoch": 3, "patience": 1000}
    content = finetune_content(home / "base", tiny_task(home / "task"), training=training)
    finetune(parse_run(FinetuneRun, content, "test"), home / "finetuned")
    return home / "finetuned"


def put(folder: Path, bucket: Path) -> Path:
    """Copy a folder of files into a bucket."""
    buckets.upload({file.name: file for file in folder.iterdir()}, bucket / folder.name)
    return bucket / folder.name


def pretraining_in(bucket: Path, home: Path, tmp_path: Path) -> list:
    content = pretrain_content(put(home / "base", bucket), put(home / "corpus", bucket), training=STEPS)
    return ["pretrain", "--config", write_run(tmp_path / "run.toml", "pretrain", content), "--workdir", bucket / "run"]


def assert_pretrained(workdir: Path, pretrained: Path) -> None:
    """What a run in a bucket left is what the same run left on a disk."""
    model = local_copy(workdir / "model")
    verify_manifest(model)
    assert (model / "model.safetensors").read_bytes() == (pretrained / "model" / "model.safetensors").read_bytes()
    assert buckets.read(workdir / "validation.json") == (pretrained / "validation.json").read_bytes()
    assert untimed_lines(workdir) == untimed_lines(pretrained)
    names = {name.partition("/")[0] for name in buckets.names(workdir)}
    assert names == {path.name for path in pretrained.iterdir()}
    assert (buckets.read(workdir / "report.html") or b"").startswith(b"<!doctype html>")
    assert {name.partition("/")[0] for name in buckets.names(workdir / "checkpoints")} == {"step_00000020", "step_00000024"}


@pytest.mark.parametrize(
    ("status", "says"),
    [(403, "no permission; grant this account"), (400, "probably the bucket is in another region")],
)
def test_a_bucket_without_rights_or_elsewhere_ends_the_command_with_one_line(store, bucket, home, tmp_path, status, says):
    if status == 400 and store.scheme == "gs":
        pytest.skip("Google's store has one address for all regions")
    config = write_run(tmp_path / "run.toml", "pretrain", pretrain_content(home / "base", home / "corpus", training=STEPS))
    store.fault = lambda method, path: status
    ended = run_cli("pretrain", "--config", config, "--workdir", bucket / "run", cwd=tmp_path)
    assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1), ended.stderr
    assert f"dnabert2: {bucket}/run: cannot be used as a run's directory ({says}" in ended.stderr


# Three runs of the command, so one store of the two has to do outside of `make test-all`.
@pytest.mark.parametrize("store", ["gs", pytest.param("s3", marks=pytest.mark.slow)], indirect=True)
def test_pretraining_killed_in_a_save_and_in_the_export_ends_the_same(store: Store, bucket, home, pretrained, tmp_path):
    command = pretraining_in(bucket, home, tmp_path)
    assert kill_at_request(store, start_cli(*command, cwd=tmp_path), "step_00000008", 2)
    assert "step_00000008/manifest.json" not in buckets.names(bucket / "run" / "checkpoints")
    assert kill_at_request(store, start_cli(*command, cwd=tmp_path), "run/model/", 2)
    finished = run_cli(*command, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert "resuming from step 24 of 24" in finished.stderr
    assert f"saved {bucket}/run/model" in finished.stdout
    assert_pretrained(bucket / "run", pretrained)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bucket_cache", "run.toml"]  # no folder called gs:


@pytest.mark.slow  # ten runs of a whole pretraining for each store; the test above has the moments that matter
def test_pretraining_killed_ten_times_at_random_moments_ends_the_same(store: Store, bucket, home, pretrained, tmp_path):
    import random

    draw, command = random.Random(0), pretraining_in(bucket, home, tmp_path)
    for part in (
        ["checkpoints/step_"] * 4 + ["metrics.jsonl"] * 2 + ["run/validation.json", "run/model", "run/model", "run/report"]
    ):
        kill_at_request(store, start_cli(*command, cwd=tmp_path), part, draw.randrange(6))
    finished = run_cli(*command, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert_pretrained(bucket / "run", pretrained)


@pytest.mark.slow  # storage/test_buckets.py cuts the same replacement off after each of its requests
def test_finetuning_killed_while_its_best_adapter_is_replaced_ends_the_same(store, bucket, home, finetuned, tmp_path):
    training = {"method": "lora", "epochs": 4, "evaluations_per_epoch": 3, "patience": 1000}
    tables = {split: f"{put(home / 'task', bucket)}/{split}.csv" for split in ("train", "dev", "test")}
    content = finetune_content(put(home / "base", bucket), tables, training=training)
    config = write_run(tmp_path / "run.toml", "finetune", content)
    command = ["finetune", "--config", config, "--workdir", bucket / "run"]
    killed = kill_at_request(store, start_cli(*command, cwd=tmp_path), ".adapter.next/", 4)
    finished = run_cli(*command, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert killed
    adapter, model = local_copy(bucket / "run" / "adapter"), local_copy(bucket / "run" / "model")
    assert (adapter / "adapter.safetensors").read_bytes() == (finetuned / "adapter" / "adapter.safetensors").read_bytes()
    assert (model / "model.safetensors").read_bytes() == (finetuned / "model" / "model.safetensors").read_bytes()
    assert untimed_lines(bucket / "run") == untimed_lines(finetuned)
    opened = DNABERT2.load(str(bucket / "run" / "adapter"))  # finds its base in the bucket
    here = DNABERT2.load(finetuned / "adapter")
    np.testing.assert_array_equal(opened.predict(["ACGT" * 8]).outputs, here.predict(["ACGT" * 8]).outputs)
    page = write_report(bucket / "run")
    assert buckets.read(page) is not None


@pytest.mark.slow  # every request of a whole run waits
def test_a_store_that_is_slow_changes_nothing_but_time(stores, bucket, store, home, pretrained, tmp_path):
    store.fault = lambda method, path: time.sleep(0.05)
    finished = run_cli(*pretraining_in(bucket, home, tmp_path), cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert_pretrained(bucket / "run", pretrained)
