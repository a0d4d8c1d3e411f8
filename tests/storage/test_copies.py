import json

import pytest

from dnabert2_jax.errors import UserError
from dnabert2_jax.storage import buckets, copies
from dnabert2_jax.storage.copies import local_copy
from dnabert2_jax.storage.directories import atomic_directory


def test_a_local_path_is_itself(tmp_path):
    assert local_copy(tmp_path / "x") == tmp_path / "x"
    assert local_copy("relative") == copies.Path("relative")


def test_a_file_is_copied_once_and_again_when_it_changed(store, bucket):
    buckets.write(bucket / "data" / "train.csv", b"first")
    copy = local_copy(bucket / "data" / "train.csv")
    assert copy.read_bytes() == b"first"
    assert copy.name == "train.csv"
    inode = copy.stat().st_ino
    assert local_copy(str(bucket / "data" / "train.csv")) == copy
    assert copy.stat().st_ino == inode
    buckets.write(bucket / "data" / "train.csv", b"other")
    assert local_copy(bucket / "data" / "train.csv").read_bytes() == b"other"


def test_a_copy_cut_short_is_copied_again(bucket):
    buckets.write(bucket / "train.csv", b"whole")
    copy = local_copy(bucket / "train.csv")
    copy.write_bytes(b"who")
    assert local_copy(bucket / "train.csv").read_bytes() == b"whole"


def test_a_directory_is_copied_and_compared_with_its_manifest(bucket):
    with atomic_directory(bucket / "model", seal=True) as new:
        (new / "weights").write_text("numbers")
    buckets.write(bucket / "model" / "below" / "checkpoint", b"large")
    copy = local_copy(bucket / "model")
    assert {path.name for path in copy.iterdir()} == {"weights", "manifest.json"}
    buckets.write(bucket / "model" / "weights", b"damaged")
    with pytest.raises(UserError, match=r"model/weights is damaged: its sha256 is not the one in manifest.json"):
        local_copy(bucket / "model")
    buckets.write(bucket / "model" / "weights", b"numbers")
    assert (local_copy(bucket / "model") / "weights").read_text() == "numbers"


def test_what_is_not_there_is_said(bucket):
    with pytest.raises(UserError, match=r"none does not exist; check the name"):
        local_copy(bucket / "none")


def test_the_cache_is_where_the_environment_says(bucket, tmp_path):
    buckets.write(bucket / "x", b"1")
    scheme, _, name = str(bucket).partition("://")
    assert local_copy(bucket / "x") == tmp_path / "bucket_cache" / scheme / name / "x"
    origin = json.loads((tmp_path / "bucket_cache" / scheme / name / ".x.origin").read_text())
    assert origin["sha256"] == {"x": "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"}
