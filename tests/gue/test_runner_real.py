"""Benchmarks with real runs."""

import pytest

from dnabert2_jax.gue.runner import MOST_ATTEMPTS, run_gue
from tests.gue.helpers import SETTINGS, benchmark, command, record
from tests.processes import kill_when, run_cli, start_cli

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("promotion", "no_pictures")]


def test_real_benchmarks_of_several_methods_stand_side_by_side(home, capsys, monkeypatch):
    monkeypatch.chdir(home)
    words = ("gue", "run", "--data", "GUE", "--model", "model", "--tasks", "tf/0", "--seeds", "2")
    options = [word for setting in SETTINGS for word in ("--set", setting)]
    methods = ("probe", "lora", "full")
    for method in methods:
        code, _, errors = command(
            capsys, monkeypatch, *words, *options, "--set", f"training.method={method}", "--workdir", f"by/{method}"
        )
        assert code == 0, errors
    workdirs = [word for method in methods for word in ("--workdir", f"by/{method}")]
    code, output, errors = command(capsys, monkeypatch, "gue", "report", *workdirs, "--out", "side_by_side.html")
    assert code == 0, errors
    assert output.splitlines()[-1] == "saved side_by_side.html"
    assert all(method in output for method in methods)


def test_a_real_run_that_never_moves_collapses(home):
    still = (*SETTINGS, "optimizer.learning_rate=1e-12", "training.epochs=1")
    run_gue(benchmark(home, "still", overrides=still))
    run = record(home / "still", "tf/0")
    assert [attempt["collapsed"] for attempt in run["attempts"]] == [True] * MOST_ATTEMPTS
    assert len({attempt["dev"]["mcc"] for attempt in run["attempts"]}) == 1


def test_a_killed_benchmark_goes_on(home):
    workdir = home / "killed"
    options = [word for setting in SETTINGS for word in ("--set", setting)]
    words = ("gue", "run", "--data", "GUE", "--model", "model", "--workdir", "killed", "--tasks", "tf/0", "--seeds", "2")
    first = workdir / "tasks" / "tf" / "0" / "seed_0.json"
    kill_when(start_cli(*words, *options, cwd=home), first.exists)
    done = first.read_bytes()
    assert not first.with_name("seed_1.json").exists()
    result = run_cli(*words, *options, cwd=home)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "saved killed/report.html"
    assert first.read_bytes() == done
    assert record(workdir, "tf/0", "seed_1")["status"] == "done"
