"""The command of a pod, really run as process 1 of a PID namespace."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from dnabert2_jax.training.workdir import MetricsLog
from tests.helpers import pretrain_content, tiny_corpus, tiny_model, write_run
from tests.launch.helpers import GKE, SPOT_NODE_SECONDS, dry_run
from tests.processes import wait_until


def _pod_command(directory: Path, dnabert2: str) -> tuple[list[str], dict[str, str]]:
    """The command of a pod whose workdir this is, and an environment in which ``dnabert2`` is this script."""
    (directory / "dnabert2").write_text(f"#!/bin/sh\n{dnabert2}\n")
    (directory / "dnabert2").chmod(0o755)
    text = dry_run("gke_jobset.sh", "run", "--", "dnabert2", "pretrain", "--workdir", str(directory), **GKE)
    pod = yaml.safe_load(text)["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    return pod["containers"][0]["command"], {"PATH": f"{directory}:{os.environ['PATH']}"}


def _write_model(directory: Path) -> None:
    (directory / "model").mkdir()
    (directory / "model" / "config.json").touch()


def test_a_pod_ends_well_only_with_a_model(tmp_path):
    """The command of the manifest, with a stand-in for dnabert2."""
    command, env = _pod_command(tmp_path, 'echo "$@" >> "$3/called"')
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(command, env=env, timeout=0.5)
    _write_model(tmp_path)
    assert subprocess.run(command, env=env, timeout=10).returncode == 0
    assert (tmp_path / "called").read_text().splitlines() == [f"pretrain --workdir {tmp_path}"] * 2


def test_a_pod_hands_on_the_failure_of_its_run(tmp_path):
    command, env = _pod_command(tmp_path, "exit 3")
    _write_model(tmp_path)
    assert subprocess.run(command, env=env, timeout=10).returncode == 3


def _namespace() -> Sequence[str]:
    """A command that runs another one as process 1, as a container does; skips where nobody may."""
    command = ("unshare", "--fork", "--pid", "--mount-proc", "--kill-child")
    if not shutil.which("unshare") or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("needs unshare and the right to make a PID namespace (root)")
    return command


SAVES_ON_SIGTERM = """
trap 'echo saving > "$3/said"; sleep 0.3; echo saved >> "$3/said"; exit 0' TERM
echo ready
while true; do sleep 0.05; done
"""


@pytest.mark.parametrize(("with_model", "code"), [(False, 143), (True, 0)])
def test_a_pod_passes_sigterm_to_its_run_and_fails_unless_there_is_a_model(tmp_path, with_model, code):
    """As process 1 of a PID namespace, to which the kernel delivers no signal that it has no handler for."""
    namespace = _namespace()
    command, env = _pod_command(tmp_path, SAVES_ON_SIGTERM)
    if with_model:
        _write_model(tmp_path)
    with subprocess.Popen([*namespace, *command], env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            [first] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            os.kill(int(first), signal.SIGTERM)
            assert process.wait(timeout=10) == code
        finally:
            process.kill()
    assert (tmp_path / "said").read_text() == "saving\nsaved\n"  # it was waited for


def test_sigterm_would_not_reach_a_run_in_the_foreground_of_process_1(tmp_path):
    """Why the command of a pod is more than the run: the control for the test above."""
    namespace = _namespace()
    _, env = _pod_command(tmp_path, SAVES_ON_SIGTERM)
    command = ["sh", "-c", f"dnabert2 pretrain --workdir {tmp_path}; true"]
    with subprocess.Popen([*namespace, *command], env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            [first] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            os.kill(int(first), signal.SIGTERM)
            time.sleep(0.5)
            assert process.poll() is None
            assert not (tmp_path / "said").exists()
        finally:
            process.kill()


@pytest.mark.slow
def test_a_pod_whose_node_is_preempted_saves_in_time_and_the_next_one_ends_the_run(tmp_path):
    """The manifest's own command around a real run, twice, each as process 1 of a PID namespace."""
    namespace = _namespace()
    tiny_model(tmp_path / "base")
    corpus = tiny_corpus(tmp_path)
    training = {"steps": 200, "save_every": 1000, "evaluate_every": 200, "log_every": 1}
    config = write_run(
        tmp_path / "run.toml", "pretrain", pretrain_content(tmp_path / "base", corpus.path, training=training)
    )
    workdir = tmp_path / "run"
    run = ["--", sys.executable, "-m", "dnabert2_jax", "pretrain", "--config", str(config), "--workdir", str(workdir)]
    pod = yaml.safe_load(dry_run("gke_jobset.sh", "run", *run, **GKE))["spec"]["replicatedJobs"][0]["template"]["spec"]
    command = pod["template"]["spec"]["containers"][0]["command"]
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}

    with subprocess.Popen([*namespace, *command], env=env, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_until(process, lambda: len(MetricsLog.read(workdir)) >= 3)
            [first] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            told = time.monotonic()
            os.kill(int(first), signal.SIGTERM)
            code = process.wait(timeout=60)
            took = time.monotonic() - told
        finally:
            process.kill()
    assert code == 143  # a failure, so that the JobSet starts it again
    [saved] = (workdir / "checkpoints").glob("step_*/manifest.json")
    assert took < SPOT_NODE_SECONDS
    again = subprocess.run([*namespace, *command], env=env, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    assert f"resuming from step {int(saved.parent.name.removeprefix('step_'))} of 200" in again.stderr
    assert (workdir / "model" / "config.json").is_file()
