"""The account of a run's time. Runs that are really killed are in tests/recipes/test_resume.py."""

import json
import threading
import time

import jax
import pytest

from dnabert2_jax.training.goodput import GOODPUT_FILE, PHASES, Ledger, account


def line(call, first, step, **seconds):
    return {"call": call, "from": first, "step": step, "seconds": dict.fromkeys(PHASES, 0.0) | seconds}


def write(workdir, *lines):
    (workdir / GOODPUT_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_every_second_belongs_to_one_phase():
    with Ledger() as ledger:
        began = time.monotonic()
        time.sleep(0.03)
        ledger.enter("steps")
        time.sleep(0.05)
        with ledger.phase("evaluation"):
            time.sleep(0.02)
            with ledger.phase("saves"):
                time.sleep(0.04)
        time.sleep(0.05)
        ledger.enter("input")
        elapsed = time.monotonic() - began
    spent = ledger.seconds
    assert sum(spent.values()) == pytest.approx(elapsed, abs=0.01)
    assert spent["start"] >= 0.03
    assert spent["steps"] >= 0.1
    assert spent["evaluation"] >= 0.02
    assert spent["saves"] >= 0.04
    assert spent["input"] == spent["compilation"] == 0.0


def test_a_phase_ends_with_its_error():
    ledger = Ledger()
    ledger.enter("steps")
    with pytest.raises(OSError, match="full"), ledger.phase("saves"):
        raise OSError("full")
    assert ledger.enter("input") == "steps"


def test_what_the_devices_still_compute_is_not_the_time_of_the_phase():
    step = jax.jit(lambda x: jax.lax.fori_loop(0, 30, lambda _, y: y @ y / 1e3, x))
    x = step(jax.numpy.ones((500, 500))).block_until_ready()
    ledger = Ledger()
    ledger.enter("steps")
    y = step(x)
    with ledger.phase("saves", after=y):
        began = time.monotonic()
        y.block_until_ready()
        waited = time.monotonic() - began
    assert ledger.seconds["steps"] > 5 * waited


def test_compiling_counts_as_such_wherever_it_happens_and_nested_traces_count_once():
    inner = jax.jit(lambda x: jax.lax.sort(x) * 3)

    @jax.jit
    def outer(x):
        time.sleep(0.05)  # while it is traced
        return inner(x) + inner(x + 1)

    with jax.numpy_dtype_promotion("standard"), Ledger() as ledger:
        x = jax.numpy.ones(7)
        ledger.enter("evaluation")
        before, began = ledger.seconds["compilation"], time.monotonic()
        outer(x).block_until_ready()
        ledger.enter("steps")
        elapsed = time.monotonic() - began
    compiling = ledger.seconds["compilation"] - before
    assert 0.05 <= compiling <= elapsed
    assert compiling + ledger.seconds["evaluation"] == pytest.approx(elapsed, abs=0.01)
    assert ledger.seconds["evaluation"] >= 0


def test_compiling_in_another_thread_takes_no_time_from_this_one():
    def compile_something():
        jax.jit(lambda x: jax.lax.sort(x) * 5)(jax.numpy.ones(11)).block_until_ready()

    with Ledger() as ledger:
        thread = threading.Thread(target=compile_something)
        thread.start()
        thread.join()
        ledger.enter("steps")
    assert ledger.seconds["compilation"] == 0.0


def test_a_ledger_that_is_closed_hears_of_no_more_compilations():
    with Ledger() as ledger:
        pass
    jax.jit(lambda x: jax.lax.sort(x) * 7)(jax.numpy.ones(13)).block_until_ready()
    ledger.enter("steps")
    assert ledger.seconds["compilation"] == 0.0


def test_a_run_that_was_never_stopped(tmp_path):
    write(tmp_path, line(100.0, 0, 10, start=2, steps=6), line(100.0, 0, 20, start=2, steps=16, saves=2))
    found = account(tmp_path)
    assert (found.calls, found.repeated, found.between, found.total) == (1, 0.0, 0.0, 20.0)
    assert found.share == 0.8
    assert dict(found.rows())["saving"] == 2.0
    assert not any("lost" in words for words, _ in found.rows())
    assert found.summary() == "0:00:20 in all: steps 80.0%, saving 10.0%, starting 10.0%"


def test_steps_after_the_checkpoint_are_lost_and_so_is_the_time_between_calls(tmp_path):
    write(
        tmp_path,
        line(100.0, 0, 10, start=2, steps=10, saves=1),  # saved here
        line(100.0, 0, 14, start=2, steps=14, saves=1),  # killed at 117
        line(150.0, 10, 20, start=3, steps=11),
    )
    found = account(tmp_path)
    assert found.calls == 2
    assert found.repeated == 4.0
    assert found.between == 150.0 - 117.0
    assert found.seconds["steps"] == 21.0
    assert found.total == 164.0 - 100.0  # from the first call to the last line
    assert found.summary().endswith("lost to restarts 0:00:37 in 2 calls")


def test_a_checkpoint_that_was_damaged_loses_the_calls_since_the_one_before(tmp_path):
    write(
        tmp_path,
        line(0.0, 0, 10, steps=10),
        line(0.0, 0, 20, steps=20),
        line(30.0, 20, 25, start=1, steps=5),
        line(40.0, 10, 30, start=1, steps=20),
    )
    found = account(tmp_path)
    assert (found.seconds["steps"], found.seconds["start"]) == (30.0, 1.0)
    assert found.repeated == 10.0 + 6.0
    assert found.between == 10.0 + 4.0
    assert found.total == 61.0


def test_the_clock_of_another_host_may_be_behind(tmp_path):
    write(tmp_path, line(100.0, 0, 10, steps=10), line(105.0, 10, 20, steps=10))
    assert account(tmp_path).between == 0.0


def test_a_line_that_a_kill_left_unfinished_costs_only_itself(tmp_path):
    write(tmp_path, line(0.0, 0, 10, steps=10))
    with (tmp_path / GOODPUT_FILE).open("a") as stream:
        stream.write('{"call": 0.0, "from": 0, "st')
    assert account(tmp_path).seconds["steps"] == 10.0
    ledger = Ledger()
    ledger.keep_in(tmp_path, 10)
    ledger.record(11)
    assert account(tmp_path).calls == 2


def test_a_call_that_takes_no_step_leaves_no_line(tmp_path):
    ledger = Ledger()
    ledger.record(3)  # before it knows where
    ledger.keep_in(tmp_path, 3)
    ledger.record(3)
    assert not (tmp_path / GOODPUT_FILE).exists()
    assert account(tmp_path) is None
