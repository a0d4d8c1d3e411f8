"""Files that grow: what was committed survives a kill, the same job continues, and another one is told."""

import json
import os
import resource
import signal
import subprocess
import sys
import time

import pytest

from dnabert2_jax.errors import UserError
from dnabert2_jax.storage.atomic import atomic_file
from dnabert2_jax.storage.unfinished import check_destinations, moved, resuming

CHILD = """
import sys, time
from pathlib import Path
from dnabert2_jax.storage.unfinished import moved, resuming

with resuming([Path(name) for name in sys.argv[1:]], {"n": 40}) as unfinished:
    for part in range(unfinished.state.get("parts", 0), 40):
        for half in range(2):
            unfinished.write(*(b"%d " % part * (size * 9999) for size in range(1, len(sys.argv))))
            print(part, flush=True)
        unfinished.commit({"parts": part + 1})
    unfinished.finish(moved, moved)
"""


def start(*paths):
    return subprocess.Popen([sys.executable, "-c", CHILD, *map(str, paths)], stdout=subprocess.PIPE, text=True)


def test_two_files_agree_after_kills_at_any_moment(tmp_path):
    paths = [tmp_path / "a.vcf", tmp_path / "b.tsv"]
    kills = 0
    for wanted in (3, 11, 25):
        with start(*paths) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if int(line) >= wanted:
                    time.sleep(0.001 * kills)
                    process.send_signal(signal.SIGKILL)
                    break
        kills += process.returncode == -signal.SIGKILL
        assert not any(path.exists() for path in paths)
    assert kills == 3
    with start(*paths) as process:
        process.communicate()
    for size, path in enumerate(paths, start=1):
        assert path.read_bytes() == b"".join(b"%d " % part * (size * 9999) * 2 for part in range(40))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.vcf", "b.tsv"]


def begin(path, job, **options):
    with resuming([path], job, **options) as unfinished:
        unfinished.write(b"begun")
        unfinished.commit({"parts": 1})


def test_another_job_is_named_and_force_starts_over(tmp_path):
    path = tmp_path / "x.csv"
    begin(path, {"settings": {"long": "cut", "max_tokens": 40}})
    check_destinations([path], force=False)
    with (
        pytest.raises(UserError, match=r"x\.csv\.unfinished is the .* another job \(max_tokens 40, now 60\); .*--force"),
        resuming([path], {"settings": {"long": "cut", "max_tokens": 60}}),
    ):
        pass
    with resuming([path], {"settings": {"long": "cut", "max_tokens": 60}}, force=True) as unfinished:
        assert unfinished.state == {}
        unfinished.write(b"new")
        unfinished.finish(moved)
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(UserError, match="exists; choose another name"):
        check_destinations([path], force=False)


def test_a_job_that_wrote_nothing_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), resuming([tmp_path / "x.csv"], {}) as unfinished:
        unfinished.write(b"%d" % (1 // 0))
    assert not list(tmp_path.iterdir())


def test_a_record_without_its_file_starts_over(tmp_path):
    path = tmp_path / "x.csv"
    begin(path, {})
    os.truncate(tmp_path / "x.csv.unfinished", 2)
    with resuming([path], {}) as unfinished:
        assert unfinished.state == {}
    (tmp_path / "x.csv.unfinished.json").write_text("{")
    with resuming([path], {}) as unfinished:
        assert unfinished.state == {}


def test_two_processes_cannot_write_one_file(tmp_path):
    path = tmp_path / "x.csv"
    with (
        resuming([path], {}),
        pytest.raises(UserError, match=r"x\.csv is being written by another process; wait"),
        resuming([path], {}),
    ):
        pass


def test_a_full_disk_keeps_what_is_done(tmp_path):
    """A limit on the size of files stands for a full disk."""
    path = tmp_path / "x.csv"

    def fill():
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        with resuming([path], {}) as unfinished:
            unfinished.write(b"good")
            unfinished.commit({"parts": 1})
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
            try:
                unfinished.write(bytes(10_000))
                unfinished.commit({"parts": 2})
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    with pytest.raises(
        UserError, match=r"x\.csv could not be written \(File too large\); what is done stays in .*continues"
    ):
        fill()
    with resuming([path], {}) as unfinished:
        assert unfinished.state == {"parts": 1}
        unfinished.finish(moved)
    assert path.read_bytes() == b"good"


def test_a_finish_that_was_interrupted_is_repeated_for_what_is_left(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"

    def fails(unfinished, path):
        with atomic_file(path):
            raise OSError(28, "No space left on device")

    def write_and_finish():
        with resuming([first, second], {}) as unfinished:
            unfinished.write(b"A", b"B")
            unfinished.commit({"parts": 1})
            unfinished.finish(moved, fails)

    with pytest.raises(UserError, match="b could not be written"):
        write_and_finish()
    assert first.read_bytes() == b"A"
    assert json.loads((tmp_path / "a.unfinished.json").read_text())["complete"]
    check_destinations([first, second], force=False)
    with resuming([first, second], {}) as unfinished:
        assert (unfinished.complete, unfinished.state) == (True, {"parts": 1})
        unfinished.finish(moved, moved)
    assert (first.read_bytes(), second.read_bytes()) == (b"A", b"B")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_in_a_bucket_the_parts_lie_on_this_machine(bucket, tmp_path):
    path = bucket / "x.csv"
    begin(path, {"n": 1})
    assert not path.exists()
    check_destinations([path], force=False)
    with resuming([path], {"n": 1}) as unfinished:
        assert unfinished.state == {"parts": 1}
        unfinished.write(b", finished")
        unfinished.finish(moved)
    assert path.read_bytes() == b"begun, finished"
    with pytest.raises(UserError, match="exists"):
        check_destinations([path], force=False)
