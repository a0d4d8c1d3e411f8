import json
import os
import resource
import signal
import subprocess
import sys

import pytest

from dnabert2_jax.errors import UserError
from dnabert2_jax.storage.atomic import NotWritten, atomic_file, write_bytes, write_json


@pytest.fixture
def no_room():
    """A limit on the size of files stands for a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_file_is_replaced_whole(tmp_path):
    file = write_json(tmp_path / "scores.json", {"mcc": 0.5})
    assert json.loads(file.read_text()) == {"mcc": 0.5}
    write_json(file, {"mcc": 0.6})
    assert file.read_text() == '{\n  "mcc": 0.6\n}\n'
    assert list(tmp_path.iterdir()) == [file]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    file = write_bytes(tmp_path / "file", b"old")
    with pytest.raises(ZeroDivisionError), atomic_file(file) as partial:
        partial.write_bytes(b"half" * (1 // 0))
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_full_disk_leaves_the_old_file_and_is_reported(tmp_path, no_room):
    file = write_bytes(tmp_path / "file", b"old")
    with pytest.raises(NotWritten, match=r"file could not be written \(File too large\); what was there is unchanged; make"):
        write_bytes(file, bytes(10_000))
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_places_that_cannot_be_written_to(tmp_path):
    with pytest.raises(UserError, match=r"gone/file could not be written \(No such file or directory\); make room or"):
        write_bytes(tmp_path / "gone" / "file", b"")
    (tmp_path / "file").mkdir()
    with pytest.raises(UserError, match="file could not be written"):
        write_bytes(tmp_path / "file", b"")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_everything_is_flushed_before_it_is_renamed(tmp_path, monkeypatch):
    """fsync of the data, rename, fsync of the directory: in another order a power failure leaves an empty file."""
    calls = []
    names = {}
    real_open, real_replace = os.open, os.replace

    def opened(path, *args, **kwargs):
        descriptor = real_open(path, *args, **kwargs)
        names[descriptor] = os.path.basename(path)
        return descriptor

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "fsync", lambda descriptor: calls.append(("fsync", names[descriptor])))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append(("rename", os.path.basename(a))), real_replace(a, b)))
    write_bytes(tmp_path / "file", b"x")
    assert calls == [("fsync", "file.partial"), ("rename", "file.partial"), ("fsync", tmp_path.name)]


KILLED = """
import os, signal, sys
from pathlib import Path
from dnabert2_jax.storage.atomic import write_bytes

event, file = sys.argv[1], Path(sys.argv[2])
sys.addaudithook(lambda name, args: name == event and "partial" in str(args[0]) and os.kill(os.getpid(), signal.SIGKILL))
write_bytes(file, b"new")
"""


@pytest.mark.parametrize("event", ["open", "os.rename"])
def test_a_kill_leaves_the_old_file_and_the_next_write_succeeds(tmp_path, event):
    file = write_bytes(tmp_path / "file", b"old")
    child = subprocess.run([sys.executable, "-c", KILLED, event, file], check=False)
    assert child.returncode == -signal.SIGKILL
    assert file.read_bytes() == b"old"
    assert write_bytes(file, b"new").read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [file]
