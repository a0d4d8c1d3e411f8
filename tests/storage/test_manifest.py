import json

import pytest

from dnabert2_jax.errors import UserError
from dnabert2_jax.storage.manifest import manifest_files, verify_manifest, write_manifest


@pytest.fixture
def sealed(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "a").write_text("A")
    (tmp_path / "below" / "b").write_text("BB")
    write_manifest(tmp_path)
    return tmp_path


def test_a_manifest_lists_every_file(sealed):
    assert {name: entry["size"] for name, entry in manifest_files(sealed).items()} == {"a": 1, "below/b": 2}
    assert json.loads((sealed / "manifest.json").read_text())["format"] == 1
    verify_manifest(sealed)
    (sealed / "other").write_text("added later")
    verify_manifest(sealed)


def test_sealing_again_counts_what_is_there_now(sealed):
    (sealed / "a").write_text("changed")
    write_manifest(sealed)
    verify_manifest(sealed)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda file: file.write_text("BC"),
            r"below/b is damaged: sha256 .*, but .* was written; .* or recreate it",
        ),
        (lambda file: file.write_text("B"), r"below/b is damaged: 1 bytes, but 2 were written; restore"),
        (lambda file: file.unlink(), r"below/b is missing, but its manifest lists it; restore"),
    ],
)
def test_damage_is_named(sealed, damage, message):
    damage(sealed / "below" / "b")
    with pytest.raises(UserError, match=message):
        verify_manifest(sealed)


def test_a_manifest_that_cannot_be_read(sealed):
    (sealed / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        verify_manifest(sealed)
    (sealed / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"manifest\.json is missing; restore"):
        verify_manifest(sealed)
