import pytest

from dnabert2_jax.errors import UserError
from dnabert2_jax.storage.directories import atomic_directory
from dnabert2_jax.storage.overwriting import refuse_overwriting, replacing


def test_what_exists_stays_without_force(tmp_path):
    file, folder = tmp_path / "x.csv", tmp_path / "folder"
    refuse_overwriting(file)
    folder.mkdir()
    refuse_overwriting(folder)
    file.touch()
    (folder / "something").touch()
    for path in (file, folder):
        with pytest.raises(UserError, match=f"{path} exists; choose another name, or replace it with --force"):
            refuse_overwriting(path)
        refuse_overwriting(path, force=True)


def test_force_replaces_only_a_directory_of_its_kind(tmp_path):
    out = tmp_path / "out"
    for content in ("old", "new"):
        with atomic_directory(out, may_replace=replacing("marker", "a thing", force=True)) as new:
            (new / "marker").write_text(content)
    assert (out / "marker").read_text() == "new"
    with (
        pytest.raises(UserError, match="exists"),
        atomic_directory(out, may_replace=replacing("marker", "a thing", force=False)),
    ):
        pass
    (out / "marker").rename(out / "notes")
    with (
        pytest.raises(UserError, match=r"out is not a thing \(no marker in it\), so --force does not replace it"),
        atomic_directory(out, may_replace=replacing("marker", "a thing", force=True)),
    ):
        pass
    assert (out / "notes").exists()
