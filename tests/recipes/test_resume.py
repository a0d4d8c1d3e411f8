"""Runs killed with SIGKILL and started again by the same command end as if nothing had happened, bit for bit."""

import itertools
import json
import signal
import time
from datetime import timedelta
from pathlib import Path

import pytest

from dnabert2_jax.config.runs import FinetuneRun, PretrainRun
from dnabert2_jax.recipes import pretraining as pretraining_recipe
from dnabert2_jax.recipes.finetuning import finetune
from dnabert2_jax.recipes.pretraining import pretrain
from dnabert2_jax.training.goodput import account
from dnabert2_jax.training.signals import Stopped, StopRequests
from dnabert2_jax.training.workdir import MetricsLog
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
from tests.processes import kill_when, run_cli, start_cli, wait_until

pytestmark = pytest.mark.usefixtures("promotion", "undrawn")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("resume")
    tiny_model(path / "base")
    tiny_corpus(path)
    return path


@pytest.fixture(scope="module")
def pretraining(home) -> Path:
    """The TOML file of a run of many saves; its undisturbed outcome lies in ``pretrained``."""
    training = {"steps": 120, "save_every": 10, "evaluate_every": 60, "log_every": 1}
    content = pretrain_content(home / "base", home / "corpus", training=training)
    pretrain(parse_run(PretrainRun, content, "test"), home / "pretrained")
    return write_run(home / "pretrain.toml", "pretrain", content)


@pytest.fixture(scope="module")
def finetuning(home) -> Path:
    """The same for an adapter, with a save after every second step; the undisturbed outcome lies in ``finetuned``."""
    training = {"method": "lora", "epochs": 6, "evaluations_per_epoch": 3, "patience": 1000}
    data = tiny_task(home / "task")
    content = finetune_content(home / "base", data, training=training, optimizer={"learning_rate": 1e-2})
    finetune(parse_run(FinetuneRun, content, "test"), home / "finetuned")
    return write_run(home / "finetune.toml", "finetune", content)


def last_step(workdir: Path) -> int:
    return max((line["step"] for line in MetricsLog.read(workdir)), default=0)


def saves(workdir: Path) -> dict[bool, list[str]]:
    """Checkpoints by whether they are complete. Without a manifest, Orbax is still writing one or it is being hashed."""
    found: dict[bool, list[str]] = {True: [], False: []}
    for path in (workdir / "checkpoints").glob("step_*"):
        found[(path / "manifest.json").exists()].append(path.name)
    return found


def same_lines(left: Path, right: Path) -> None:
    assert untimed_lines(left) == untimed_lines(right)


def same_model(left: Path, right: Path, *names: str) -> None:
    for name in names:
        assert (left / name).read_bytes() == (right / name).read_bytes(), name


def kill_in_a_save(command: list, workdir: Path) -> None:
    """Kill a process while a checkpoint is incomplete, and see that it is; the moment is short, so a try may miss it."""
    for _ in range(8):
        kill_when(start_cli(*command), lambda: all(saves(workdir).values()))
        if saves(workdir)[False]:
            return
    pytest.fail("no kill hit a save")


def test_pretraining_stopped_and_killed_in_a_step_and_in_a_save_ends_the_same(tmp_path, home, pretraining):
    workdir = tmp_path / "run"
    command = ["pretrain", "--config", pretraining, "--workdir", workdir]

    began = time.time()
    process = start_cli(*command)
    wait_until(process, lambda: last_step(workdir) >= 17)
    for _ in range(3):  # a scheduler may repeat itself
        process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 0, errors
    stopped = last_step(workdir)
    assert f"step {stopped} of 120 is saved" in errors
    assert f"step_{stopped:08d}" in saves(workdir)[True]
    assert not saves(workdir)[False]

    kill_when(start_cli(*command), lambda: last_step(workdir) >= stopped + 5)
    kill_in_a_save(command, workdir)
    assert last_step(workdir) < 120
    assert not (workdir / "model").exists()
    finished = run_cli(*command)
    assert finished.returncode == 0, finished.stderr
    assert "resuming from step" in finished.stderr
    same_model(workdir / "model", home / "pretrained" / "model", "model.safetensors", "config.json", "tokenizer.model")
    same_lines(workdir, home / "pretrained")
    assert [line["step"] for line in MetricsLog.read(workdir) if "loss" in line] == list(range(1, 121))
    assert (workdir / "validation.json").read_bytes() == (home / "pretrained" / "validation.json").read_bytes()

    goodput = account(workdir)
    assert goodput.calls >= 3  # a call that was killed before its first line does not show
    assert min(*goodput.seconds.values(), goodput.repeated, goodput.between) > 0
    first, last = json.loads((workdir / "goodput.jsonl").read_text().splitlines()[0]), workdir / "goodput.jsonl"
    assert began < first["call"]
    assert goodput.total == pytest.approx(last.stat().st_mtime - first["call"], abs=0.5)
    assert f"{goodput.share:.1%}" in (workdir / "report.html").read_text()
    assert f"lost to restarts {timedelta(seconds=round(goodput.repeated + goodput.between))}" in finished.stderr


def test_a_run_told_to_stop_while_it_saves_its_model_finishes(tmp_path, home, monkeypatch):
    saved = pretraining_recipe.save_model

    def told_to_stop(*arguments) -> None:
        signal.raise_signal(signal.SIGTERM)
        saved(*arguments)

    monkeypatch.setattr(pretraining_recipe, "save_model", told_to_stop)
    training = {"steps": 2, "save_every": 2, "evaluate_every": 2, "log_every": 1}
    content = pretrain_content(home / "base", home / "corpus", training=training)
    pretrain(parse_run(PretrainRun, content, "test"), tmp_path / "run")
    assert (tmp_path / "run" / "model" / "manifest.json").exists()


@pytest.mark.slow  # pretraining, which saves with the same loop, is killed in a save above
def test_finetuning_killed_in_a_save_ends_the_same(tmp_path, home, finetuning):
    workdir = tmp_path / "run"
    command = ["finetune", "--config", finetuning, "--workdir", workdir]
    kill_in_a_save(command, workdir)
    assert last_step(workdir) < 36
    finished = run_cli(*command)
    assert finished.returncode == 0, finished.stderr
    assert "resuming from step" in finished.stderr
    same_model(workdir / "adapter", home / "finetuned" / "adapter", "adapter.safetensors")
    same_model(workdir / "model", home / "finetuned" / "model", "model.safetensors", "config.json")
    same_lines(workdir, home / "finetuned")
    scores = [json.loads((path / "scores.json").read_text()) for path in (workdir, home / "finetuned")]
    for key in ("test", "dev", "best_step", "trained_parameters"):
        assert scores[0][key] == scores[1][key]


# Pretraining, which has the same loop, is stopped with SIGTERM above; training/test_signals.py has both signals.
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_finetuning_stopped_in_the_middle_of_an_epoch_ends_the_same(tmp_path, home, finetuning, number):
    """By its scheduler or by Ctrl-C, between two of the evaluations, which are two steps apart."""
    workdir = tmp_path / "run"
    command = ["finetune", "--config", finetuning, "--workdir", workdir]
    stopped = 0
    while stopped % 2 == 0:  # a stop may hit an evaluation: go on from there and stop again
        process = start_cli(*command)
        wait_until(process, lambda before=stopped: last_step(workdir) >= before + 4)
        process.send_signal(number)
        errors = process.communicate(timeout=60)[1]
        assert process.returncode == 0, errors
        stopped = last_step(workdir)
        assert f"step {stopped} of 36 is saved. Run the same command to resume" in errors
        assert f"step_{stopped:08d}" in saves(workdir)[True]
    finished = run_cli(*command)
    assert finished.returncode == 0, finished.stderr
    assert f"resuming from step {stopped} of 36" in finished.stderr
    same_model(workdir / "adapter", home / "finetuned" / "adapter", "adapter.safetensors")
    same_model(workdir / "model", home / "finetuned" / "model", "model.safetensors", "config.json")
    evaluations = [[line for line in MetricsLog.read(path) if "dev_mcc" in line] for path in (workdir, home / "finetuned")]
    assert evaluations[0] == evaluations[1]


def test_finetuning_stopped_before_its_first_evaluation_has_nothing_to_keep_yet(tmp_path, home):
    """Stopped after its first step, of six to the first evaluation."""
    content = finetune_content(home / "base", tiny_task(tmp_path / "task"), training={"epochs": 1})
    run, stop = parse_run(FinetuneRun, content, "test"), StopRequests.after
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StopRequests, "after", lambda self, step: step == 1 or stop(self, step))
        with pytest.raises(Stopped):
            finetune(run, tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()
    assert finetune(run, tmp_path / "run").best_step == 6


@pytest.mark.slow
@pytest.mark.parametrize("command", ["pretrain", "finetune"])
def test_killed_again_and_again_at_any_moment(tmp_path, home, command, request):
    config = request.getfixturevalue("pretraining" if command == "pretrain" else "finetuning")
    undisturbed = home / ("pretrained" if command == "pretrain" else "finetuned")
    workdir = tmp_path / "run"
    arguments = [command, "--config", config, "--workdir", workdir]
    for kill in itertools.count():
        process = start_cli(*arguments)
        deadline = time.monotonic() + 2.0 + 0.37 * kill  # from before the first step to well into the run
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.001)
        if process.poll() is not None:
            break
        kill_when(process, lambda: True)
    errors = process.communicate()[1]
    assert process.returncode == 0, errors
    assert kill > 5
    same_model(workdir / "model", undisturbed / "model", "model.safetensors")
    same_lines(workdir, undisturbed)
