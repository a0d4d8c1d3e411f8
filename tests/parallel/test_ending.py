"""Real processes that end together. Errors of whole runs are in tests/recipes/test_pretraining_processes.py."""

import socket

import pytest

from tests.processes import start_script

PROCESS = """
import os, sys, time
import jax
port, process = sys.argv[1], int(sys.argv[2])
jax.config.update("jax_platforms", "cpu")
jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=process, shutdown_timeout_seconds=2)
from dnabert2_jax.cli.failures import report
from dnabert2_jax.parallel.ending import ending_with_the_others
from dnabert2_jax.parallel.processes import on_first

def run():
    WORK

with ending_with_the_others(report):
    run()
print("fine", flush=True)
"""


@pytest.fixture
def on_two():
    """Run lines of code on two processes: (exit code, standard output, standard error) of both."""
    started = []

    def run(work):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        code = PROCESS.replace("WORK", "\n    ".join(work.strip().splitlines()))
        for number in range(2):
            started.append(start_script(code, port, number))
        ends = [(process.communicate(timeout=90), process.returncode) for process in started]
        return [(code, out, errors) for (out, errors), code in ends]

    yield run
    for process in started:
        process.kill()


def test_what_the_first_returns_all_get_however_long_it_takes(on_two):
    """Longer than the two seconds that a process may wait for the others at the end."""
    for code, out, errors in on_two("assert on_first(lambda: time.sleep(4)) == 0\nassert on_first(lambda: 7) == 7"):
        assert (code, out) == (0, "fine\n"), errors


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        ("OSError(28, 'No space left on device', 'metrics.jsonl')", 2, "No space left on device"),
        ("KeyError('bug')", 1, "KeyError: 'bug'"),
    ],
    ids=["system", "bug"],
)
def test_any_error_on_the_first_reaches_those_that_wait_for_it(on_two, error, code, message):
    first, second = on_two(f"def fail():\n    raise {error}\non_first(fail)")
    assert (first[0], second[0]) == (code, 2), (first, second)
    assert message in first[2]
    assert "dnabert2: process 0 " in second[2]
    assert message in second[2]
    assert ("Traceback" in first[2]) == (code == 1)  # a bug keeps its own


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_anywhere_ends_the_others_with_its_message(on_two, failing):
    """Where the others are busy, and look at nothing."""
    outcomes = on_two(f"if process == {failing}:\n    raise OSError(28, 'No space left on device', 'x')\ntime.sleep(80)")
    assert [code for code, _, _ in outcomes] == [2, 2], outcomes
    assert "x could not be used (No space left on device)" in outcomes[failing][2]
    host = socket.gethostname()
    assert f"dnabert2: process {failing} on {host} failed: OSError: [Errno 28] No space" in outcomes[1 - failing][2]
    assert "lost another" not in outcomes[1 - failing][2]


def test_one_that_is_killed_while_another_waits_for_it_is_named_in_one_line(on_two):
    """As in a save, where Orbax synchronizes the hosts; jax's error is a ValueError there."""
    (code, _, errors), (lost, _, _) = on_two(
        """
from jax.experimental.multihost_utils import sync_global_devices
sync_global_devices("both")
if process == 1:
    os.kill(os.getpid(), 9)
sync_global_devices("alone")
"""
    )
    assert (code, lost) == (1, -9), errors
    assert errors.count("dnabert2: process 0 lost another process of this run (UNKNOWN: Gloo AllGather failed") == 1
    assert "Traceback" not in errors
