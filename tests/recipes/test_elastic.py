"""A run goes on with other devices and other processes, on the same loss curve."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from dnabert2_jax.artifacts.model import load_model
from dnabert2_jax.config.runs import PretrainRun
from dnabert2_jax.errors import UserError
from dnabert2_jax.recipes.pretraining import pretrain
from dnabert2_jax.training.workdir import MetricsLog
from tests.helpers import parse_run, pretrain_content, tiny_corpus, tiny_model, with_sections, write_run

LAUNCH = Path(__file__).parents[2] / "launch" / "cpu_processes.sh"
SAVED = (2, 4, 6)


@pytest.fixture(autouse=True, scope="module")
def promotion():
    """Optax itself relies on jax's usual promotion of dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """A report takes seconds to draw."""
    monkeypatch.setattr("dnabert2_jax.recipes.pretraining.report_pretraining", lambda *_: None)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("elastic")
    tiny_model(path / "base")
    tiny_corpus(path)
    return path


@pytest.fixture(scope="module")
def content(home):
    """A run whose epsilon does not turn rounding errors of small gradients into whole steps."""
    training = {"steps": SAVED[-1], "save_every": 2, "evaluate_every": 6, "keep_checkpoints": 3}
    optimizer = {"learning_rate": 1e-2, "epsilon": 1e-3}
    return pretrain_content(home / "base", home / "corpus", training=training, optimizer=optimizer)


@pytest.fixture(scope="module")
def on_eight_devices(home, content):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dnabert2_jax.recipes.pretraining.report_pretraining", lambda *_: None)
        pretrain(parse_run(PretrainRun, with_sections(content, {"mesh": {"data": 8}}), "test"), home / "eight")
    return home / "eight"


def stopped_after(step: int, workdir: Path, copy: Path) -> Path:
    """The directory of a run as it was after a step."""
    shutil.copytree(workdir, copy)
    shutil.rmtree(copy / "model")
    (copy / "validation.json").unlink()
    for later in SAVED:
        if later > step:
            shutil.rmtree(copy / "checkpoints" / f"step_{later:08d}")
    return copy


def on_two_processes(content, home: Path, workdir: Path, devices: int) -> "subprocess.CompletedProcess[str]":
    """The command itself, twice, as the launch script starts it."""
    config = write_run(home / f"{workdir.name}.toml", "pretrain", content)
    command = [LAUNCH, 2, devices, "--", sys.executable, "-m", "dnabert2_jax", "pretrain", "--config", config]
    return subprocess.run(
        [*map(str, command), "--workdir", str(workdir)],
        capture_output=True,
        text=True,
        timeout=300,
    )


def assert_same_curve(found: Path, expected: Path) -> None:
    """The same losses, norms and scores at the same steps, and the same model, to float32 rounding."""

    def curve(path):
        names = ("step", "loss", "gradient_norm", "validation_loss")
        return [{name: line[name] for name in names if name in line} for line in MetricsLog.read(path)]

    assert [line["step"] for line in curve(found)] == [1, 2, 3, 4, 5, 6, 6]
    for a, b in zip(curve(found), curve(expected), strict=True):
        assert a == pytest.approx(b, rel=1e-5)
    models = [load_model(path / "model").params for path in (found, expected)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * max(np.abs(b).max(), 0.1)), *models)


def test_two_processes_go_on_from_what_eight_devices_of_one_saved(tmp_path, home, content, on_eight_devices):
    workdir = stopped_after(4, on_eight_devices, tmp_path / "run")
    mesh = {"data": -1, "shard_optimizer": True}  # whole parameters become spread ones
    result = on_two_processes(with_sections(content, {"mesh": mesh}), home, workdir, 1)
    assert result.returncode == 0, result.stderr
    assert_same_curve(workdir, on_eight_devices)
    # What both would say or write, only the first one does.
    assert result.stdout.count(f"saved {workdir / 'model'}") == 1
    assert result.stderr.count("resuming from step 4 of 6") == 1
    assert len(re.findall("^held-out loss", result.stderr, re.MULTILINE)) == 1
    assert "mesh of 2 (data) x 1 (fsdp) x 1 (sequence) x 1 (tensor) on 2 of 2 devices" in result.stderr
    assert not list(workdir.rglob("*.partial"))


def test_a_run_goes_on_with_devices_that_share_the_tokens_of_each_row(tmp_path, content, on_eight_devices):
    workdir = stopped_after(2, on_eight_devices, tmp_path / "run")
    shared = with_sections(content, {"mesh": {"data": 2, "sequence": 4}})
    pretrain(parse_run(PretrainRun, shared, "test"), workdir)
    assert_same_curve(workdir, on_eight_devices)


@pytest.mark.slow
def test_processes_share_the_tokens_of_each_row(tmp_path, home, content, on_eight_devices):
    workdir = stopped_after(4, on_eight_devices, tmp_path / "run")
    result = on_two_processes(with_sections(content, {"mesh": {"data": 1, "sequence": 4}}), home, workdir, 2)
    assert result.returncode == 0, result.stderr
    assert_same_curve(workdir, on_eight_devices)


@pytest.mark.slow
def test_eight_devices_then_four_then_two_processes_of_four(tmp_path, home, content, on_eight_devices):
    workdir = stopped_after(2, on_eight_devices, tmp_path / "four")
    four = with_sections(content, {"mesh": {"data": 2, "fsdp": 2}, "training": {"accumulate": 2}})
    pretrain(parse_run(PretrainRun, four, "test"), workdir)
    assert_same_curve(workdir, on_eight_devices)
    last = stopped_after(4, workdir, tmp_path / "processes")
    mesh = {"data": -1, "fsdp": 2, "tensor": 2, "shard_optimizer": True}
    result = on_two_processes(with_sections(content, {"mesh": mesh}), home, last, 4)
    assert result.returncode == 0, result.stderr
    assert_same_curve(last, on_eight_devices)


def test_what_changes_more_than_rounding_is_still_refused(tmp_path, content, on_eight_devices):
    workdir = stopped_after(4, on_eight_devices, tmp_path / "run")
    changed = with_sections(content, {"mesh": {"data": 4}, "training": {"batch_size": 16}})
    with pytest.raises(UserError, match=r"settings: training\.batch_size was 8 and is now 16; choose") as refusal:
        pretrain(parse_run(PretrainRun, changed, "test"), workdir)
    assert "mesh" not in str(refusal.value)
