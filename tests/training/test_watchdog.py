"""A watchdog over one thread that stands still. Over two processes: tests/recipes/test_pretraining_processes.py."""

import threading
import time

import pytest

from dnabert2_jax.training.watchdog import Watchdog, who_hangs


def stand_still_until(moment: threading.Event) -> None:
    assert moment.wait(30)


def test_a_run_that_stands_still_is_reported_once_with_the_stack_of_every_thread(tmp_path):
    reasons, reported = [], threading.Event()

    def hung(reason):
        reasons.append(reason)
        reported.set()

    with Watchdog(tmp_path, 0.2, hung) as watchdog:
        for batch in watchdog.watch(iter("ab")):
            if batch == "b":
                stand_still_until(reported)
        time.sleep(0.5)
    (reason,) = reasons
    file = tmp_path / "process_0_stacks.txt"
    assert "no progress for 1 s after reading batch 2" in reason
    assert f"what each thread was doing is in {file}" in reason
    stacks = file.read_text()
    assert "in stand_still_until" in stacks
    assert all(f"{thread.ident:016x} " in stacks for thread in threading.enumerate())


def test_a_second_run_that_is_refused_leaves_the_first_one_its_stacks(tmp_path):
    reported = threading.Event()
    with Watchdog(tmp_path, 0.2, lambda _: reported.set()) as first:
        while not list(tmp_path.iterdir()):
            time.sleep(0.01)
        with Watchdog(tmp_path, 60, lambda _: None):
            pass
        assert not list(tmp_path.iterdir())
        first.reached("the first step")
        stand_still_until(reported)
    assert "in stand_still_until" in (tmp_path / "process_0_stacks.txt").read_text()


def test_a_directory_that_is_not_there_yet_gets_the_stacks_or_is_removed(tmp_path):
    reported = threading.Event()
    with Watchdog(tmp_path / "hung" / "run", 0.2, lambda _: reported.set()):
        stand_still_until(reported)
    assert "in stand_still_until" in (tmp_path / "hung" / "run" / "process_0_stacks.txt").read_text()
    with Watchdog(tmp_path / "fine", 60, lambda _: None):
        pass
    assert not (tmp_path / "fine").exists()


def test_a_place_that_is_no_directory_is_left_to_the_run_to_report(tmp_path):
    (tmp_path / "file").write_text("")
    reported = threading.Event()
    with Watchdog(tmp_path / "file" / "run", 0.2, lambda _: reported.set()):
        stand_still_until(reported)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_progress_is_no_reason_to_end(tmp_path):
    reasons = []
    with Watchdog(tmp_path, 0.2, reasons.append) as watchdog:
        for number in range(24):
            time.sleep(0.1)
            watchdog.reached(f"point {number}")
    assert not reasons
    assert not list(tmp_path.iterdir())  # no stacks, no file


def test_a_timeout_of_zero_watches_nothing(tmp_path):
    before = threading.active_count()
    with Watchdog(tmp_path, 0, lambda _: None):
        assert threading.active_count() == before
    assert not list(tmp_path.iterdir())


def note(count, point="step 7"):
    return {"host": "node", "count": count, "point": point}


@pytest.mark.parametrize(
    ("notes", "says"),
    [
        (
            {0: note(9), 1: note(8, "reading batch 4"), 2: note(9)},
            "the others wait for process 1 on node (after reading batch 4)",
        ),
        (
            {0: note(9), 1: note(8), 2: note(8)},
            "the others wait for process 1 on node (after step 7) and process 2 on node (after step 7)",
        ),
        ({0: note(9), 1: note(9)}, "all 2 processes have reached the same point"),
    ],
    ids=["one", "two", "equal"],
)
def test_the_process_that_the_others_wait_for_is_named(notes, says):
    assert who_hangs(notes) == says
