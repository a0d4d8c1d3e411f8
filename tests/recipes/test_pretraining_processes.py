"""Two processes that train together: asked to stop, and left alone."""

import signal
import socket
from pathlib import Path

import pytest

from dnabert2_jax.training.workdir import MetricsLog
from tests.helpers import pretrain_content, start_cli, tiny_corpus, tiny_model, wait_until, write_run


def last_step(workdir: Path) -> int:
    return max((line["step"] for line in MetricsLog.read(workdir)), default=0)


@pytest.fixture
def start_two(tmp_path):
    """Start a run of many steps on two processes, or go on with it; gives them and the run's directory, some steps later."""
    tiny_model(tmp_path / "base")
    tiny_corpus(tmp_path)
    training = {"steps": 100_000, "save_every": 100_000, "evaluate_every": 100_000, "log_every": 1}
    content = pretrain_content(tmp_path / "base", tmp_path / "corpus", training=training, mesh={"data": -1})
    config, workdir = write_run(tmp_path / "run.toml", "pretrain", content), tmp_path / "run"
    started = []

    def start():
        before = last_step(workdir)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            place = f"127.0.0.1:{free.getsockname()[1]}"
        pair = []
        for number in range(2):
            options = ["--coordinator", place, "--num-processes", 2, "--process-id", number]
            pair.append(start_cli("pretrain", "--config", config, "--workdir", workdir, *options))
        started.extend(pair)
        wait_until(pair[0], lambda: last_step(workdir) >= before + 3, timeout=240)
        return pair, workdir

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_a_signal_to_one_process_stops_both_after_the_same_step(start_two, number):
    processes, workdir = start_two()
    processes[number].send_signal(signal.SIGTERM)
    outcomes = [(process.communicate(timeout=60)[1], process.returncode) for process in processes]
    assert [code for _, code in outcomes] == [0, 0], outcomes
    step = last_step(workdir)
    assert f"stopped as requested; step {step} of" in outcomes[0][0]
    assert (workdir / "checkpoints" / f"step_{step:08d}" / "manifest.json").exists()
    again, _ = start_two()
    again[number].send_signal(signal.SIGTERM)
    outcomes = [(process.communicate(timeout=60)[1], process.returncode) for process in again]
    assert [code for _, code in outcomes] == [0, 0], outcomes
    assert f"resuming from step {step} of" in outcomes[0][0]


@pytest.mark.slow
def test_a_dead_process_ends_the_other_with_one_message(start_two):
    processes, _ = start_two()
    processes[1].kill()
    errors = processes[0].communicate(timeout=60)[1]  # sooner than the heartbeat's 100 seconds
    assert processes[0].returncode == 1
    assert errors.count("dnabert2: process 0 lost another process of this run") == 1
    assert "Traceback" not in errors


@pytest.mark.slow
def test_without_the_first_process_nobody_goes_on(start_two):
    """It holds the coordination service: where jax notices that first, it ends the others itself."""
    processes, _ = start_two()
    processes[0].kill()
    errors = processes[1].communicate(timeout=60)[1]
    assert processes[1].returncode in (1, -signal.SIGABRT)
    assert "lost another process" in errors or "JAX distributed service detected fatal errors" in errors
