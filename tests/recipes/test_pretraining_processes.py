"""Two processes that train together: asked to stop, left alone, and in trouble."""

import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dnabert2_jax.artifacts.model import load_model
from dnabert2_jax.training.workdir import MetricsLog
from tests.helpers import pretrain_content, tiny_corpus, tiny_model, write_run
from tests.processes import start_cli, wait_until


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


@pytest.mark.slow
def test_a_full_disk_on_one_host_ends_both_with_its_message(start_two):
    """A limit on the size of files stands for the disk: process 0 cannot lengthen its log any more."""
    processes, workdir = start_two()
    size = (workdir / "metrics.jsonl").stat().st_size
    resource.prlimit(processes[0].pid, resource.RLIMIT_FSIZE, (size, size))
    began = time.monotonic()
    outcomes = [(process.communicate(timeout=60)[1], process.returncode) for process in processes]
    assert time.monotonic() - began < 15
    assert [code for _, code in outcomes] == [2, 2], outcomes
    assert "could not be used (File too large); make room" in outcomes[0][0]
    assert f"dnabert2: process 0 on {socket.gethostname()} failed: OSError: [Errno 27] File too large" in outcomes[1][0]


PROCESS = """
import sys, threading, time
import jax
config, workdir, port, process = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
jax.config.update("jax_platforms", "cpu")
jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=process, shutdown_timeout_seconds=2)
from dnabert2_jax.cli.failures import report
from dnabert2_jax.config.loading import load_run
from dnabert2_jax.config.runs import PretrainRun
from dnabert2_jax.parallel.ending import end_run, ending_with_the_others
from dnabert2_jax.recipes import pretraining

TROUBLE

with ending_with_the_others(report):
    pretraining.pretrain(load_run(PretrainRun, config, ()), workdir, hung=end_run)
"""

SLOW_SAVE = """
save_model = pretraining.save_model
def save_slowly(*arguments):
    time.sleep(8)
    return save_model(*arguments)
pretraining.save_model = save_slowly
"""

HANGING_READ = """
read = pretraining.PretrainingRows.batch
def hang(rows, records):
    if process == 1 and max(records) > 300:
        threading.Event().wait()
    return read(rows, records)
pretraining.PretrainingRows.batch = hang
"""


HANGING_START = """
def hang(path):
    threading.Event().wait()
if process == 0:
    pretraining.Corpus.open = hang
"""


def outcomes_on_two(tmp_path, trouble, **training):
    """A run on two processes in some trouble: (standard error, exit code) of both, and the run's directory."""
    tiny_model(tmp_path / "base")
    tiny_corpus(tmp_path)
    content = pretrain_content(tmp_path / "base", tmp_path / "corpus", training=training, mesh={"data": -1})
    config, workdir = write_run(tmp_path / "run.toml", "pretrain", content), tmp_path / "run"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-c", PROCESS.replace("TROUBLE", trouble), str(config), str(workdir), port]
    processes = [subprocess.Popen([*command, str(number)], stderr=subprocess.PIPE, text=True) for number in range(2)]
    try:
        return [(process.communicate(timeout=240)[1], process.returncode) for process in processes], workdir
    finally:
        for process in processes:
            process.kill()


@pytest.mark.slow
def test_a_final_save_may_take_longer_than_processes_wait_for_each_other_at_the_end(tmp_path):
    outcomes, workdir = outcomes_on_two(tmp_path, SLOW_SAVE, steps=2)
    assert [code for _, code in outcomes] == [0, 0], outcomes
    assert load_model(workdir / "model").kind == "masked_lm"


@pytest.mark.slow
def test_a_process_that_hangs_is_named_and_ends_the_run_with_the_stacks_of_both(tmp_path):
    outcomes, workdir = outcomes_on_two(tmp_path, HANGING_READ, steps=100_000, log_every=1, hang_timeout=20)
    assert [code for _, code in outcomes] == [1, 1], outcomes
    for errors, _ in outcomes:
        assert f"the others wait for process 1 on {socket.gethostname()} (after asking for batch " in errors
        assert f"what each thread was doing is in {workdir / 'process_N_stacks.txt'}" in errors
    assert "in hang" in (workdir / "process_1_stacks.txt").read_text()
    assert "in hang" not in (workdir / "process_0_stacks.txt").read_text()


@pytest.mark.slow
def test_a_process_that_hangs_before_there_is_a_run_is_named_as_well(tmp_path):
    """The file system with the corpus does not answer."""
    outcomes, workdir = outcomes_on_two(tmp_path, HANGING_START, steps=2, hang_timeout=5)
    assert [code for _, code in outcomes] == [1, 1], outcomes
    for errors, _ in outcomes:
        assert f"the others wait for process 0 on {socket.gethostname()} (after the start)" in errors
    assert {path.name for path in workdir.iterdir()} == {f"process_{number}_stacks.txt" for number in range(2)}
    assert "in hang" in (workdir / "process_0_stacks.txt").read_text()
