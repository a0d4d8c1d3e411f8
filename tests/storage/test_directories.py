import os
import stat

import numpy as np
import pytest
from safetensors.numpy import save_file

from dnabert2_jax.errors import UserError
from dnabert2_jax.storage.atomic import NotWritten
from dnabert2_jax.storage.directories import atomic_directory, existing_directory
from dnabert2_jax.storage.manifest import verify_manifest


def anything(path):
    """Everything may be replaced."""


def test_a_directory_appears_whole_and_sealed(tmp_path):
    with atomic_directory(tmp_path / "deep" / "new", seal=True) as new:
        (new / "a").write_text("1")
        (new / "below").mkdir()
        (new / "below" / "b").write_text("2")
        assert not (tmp_path / "deep" / "new").exists()
    verify_manifest(tmp_path / "deep" / "new")
    assert sorted(path.name for path in (tmp_path / "deep" / "new").iterdir()) == ["a", "below", "manifest.json"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["new"]


def test_nothing_is_replaced_unless_it_may_be(tmp_path):
    (tmp_path / "old").mkdir()
    with atomic_directory(tmp_path / "old") as new:  # it was empty
        (new / "a").write_text("1")
    refused = pytest.raises(UserError, match="old exists; choose another name, or replace it with --force")
    with refused, atomic_directory(tmp_path / "old"):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file exists"), atomic_directory(tmp_path / "file"):
        pass
    with atomic_directory(tmp_path / "old", may_replace=anything) as new:
        (new / "b").write_text("2")
    assert [path.name for path in (tmp_path / "old").iterdir()] == ["b"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "old"]


def test_an_error_leaves_the_old_directory(tmp_path):
    with atomic_directory(tmp_path / "old") as new:
        (new / "a").write_text("1")
    with pytest.raises(ZeroDivisionError), atomic_directory(tmp_path / "old", may_replace=anything):
        raise ZeroDivisionError
    full = pytest.raises(NotWritten, match=r"/old could not be written \(No space left; what was there is unchanged\); make")
    with full, atomic_directory(tmp_path / "old", may_replace=anything):
        raise OSError(28, "No space left")
    assert (tmp_path / "old" / "a").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_a_failed_swap_puts_the_old_directory_back(tmp_path, monkeypatch):
    with atomic_directory(tmp_path / "old") as new:
        (new / "a").write_text("1")
    rename = type(tmp_path).rename
    fails = lambda self, target: rename(self, target) if "partial" not in self.name else (_ for _ in ()).throw(OSError("no"))  # noqa: E731
    monkeypatch.setattr(type(tmp_path), "rename", fails)
    with pytest.raises(NotWritten), atomic_directory(tmp_path / "old", may_replace=anything):
        pass
    assert (tmp_path / "old" / "a").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_a_kill_between_the_two_renames_is_undone(tmp_path, caplog):
    (tmp_path / ".old.previous").mkdir()
    (tmp_path / ".old.previous" / "a").write_text("1")
    (tmp_path / ".old.partial").mkdir()
    assert existing_directory(tmp_path / "old") == tmp_path / ".old.previous"
    with pytest.raises(UserError, match="old exists"), atomic_directory(tmp_path / "old"):
        pass
    assert (tmp_path / "old" / "a").read_text() == "1"
    with atomic_directory(tmp_path / "old", may_replace=anything) as new:
        (new / "b").write_text("2")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_follow_the_umask(tmp_path, umask, mode):
    """safetensors writes files that only their owner can read, whatever the umask."""
    before = os.umask(umask)
    try:
        with atomic_directory(tmp_path / "new", seal=True) as new:
            save_file({"w": np.zeros(3, np.float32)}, new / "model.safetensors")
            (new / "config.json").write_text("{}")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").iterdir()}
    assert modes == dict.fromkeys(("model.safetensors", "config.json", "manifest.json"), mode)
