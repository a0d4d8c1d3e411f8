import pytest

from dnabert2_jax.errors import UserError
from dnabert2_jax.storage import buckets
from dnabert2_jax.storage.atomic import NotWritten, atomic_file, write_bytes, write_json
from dnabert2_jax.storage.copies import local_copy
from dnabert2_jax.storage.directories import atomic_directory, existing_directory, files_below, refuse_existing
from dnabert2_jax.storage.manifest import MANIFEST, verify_manifest
from dnabert2_jax.storage.overwriting import refuse_overwriting
from dnabert2_jax.storage.paths import BucketError, as_path
from tests.emulators import Store


def write_directory(path, **files: str) -> None:
    with atomic_directory(path, may_replace=lambda path: None, seal=True) as new:
        for name, content in files.items():
            (new / name).write_text(content)


def contents(path) -> dict[str, str]:
    return {name: (buckets.read(path / name) or b"").decode() for name in buckets.names(path) if name != MANIFEST}


def test_a_file_is_there_once_the_block_has_ended(bucket):
    path = bucket / "deep" / "file.txt"
    with atomic_file(path) as partial:
        partial.write_text("new")
        assert buckets.read(path) is None
    assert path.read_text() == "new"
    assert buckets.names(bucket).keys() == {"deep/file.txt"}


@pytest.mark.parametrize("end", [b"\r", b"\n", b"\r\n", b"\n--==0==--", b"\0"])
def test_bytes_come_back_as_they_were_written(bucket, end, tmp_path):
    """Also those that look like the end of a part of a request: the end of OCDBT's manifest is as good as random."""
    (tmp_path / "file").write_bytes(b"bytes" + end)
    write_bytes(bucket / "file", b"bytes" + end)
    buckets.upload({"other": tmp_path / "file"}, bucket)
    buckets.write(bucket / "empty", b"")
    assert [buckets.read(bucket / name) for name in ("file", "other", "empty")] == [b"bytes" + end, b"bytes" + end, b""]


def test_a_file_that_failed_leaves_the_old_one(bucket):
    write_bytes(bucket / "file", b"old")
    with pytest.raises(NotWritten), atomic_file(bucket / "file") as partial:  # noqa: PT012
        partial.write_text("new")
        raise IsADirectoryError("is a directory")
    assert buckets.read(bucket / "file") == b"old"


def test_an_object_is_created_once(bucket):
    assert buckets.create(bucket / "lock", b"first")
    assert not buckets.create(bucket / "lock", b"second")
    assert buckets.read(bucket / "lock") == b"first"


def test_of_two_that_create_an_object_at_once_one_succeeds(bucket):
    """Both have seen that there is none: the store's own condition decides."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: buckets.create(bucket / "lock", b"%d" % n), range(8)))
    assert sum(won) == 1
    assert buckets.read(bucket / "lock") == b"%d" % won.index(True)


def test_a_directory_is_sealed_and_replaced(bucket):
    write_directory(bucket / "model", a="1", b="2")
    verify_manifest(local_copy(bucket / "model"))
    write_directory(bucket / "model", b="3", c="4")
    verify_manifest(local_copy(bucket / "model"))
    assert contents(bucket / "model") == {"b": "3", "c": "4"}
    assert buckets.names(bucket).keys() == {"model/b", "model/c", "model/manifest.json"}


def test_a_directory_that_exists_is_refused(bucket):
    write_directory(bucket / "model", a="1")
    with pytest.raises(UserError, match=r"model exists; choose another name, or replace it with --force"):
        refuse_overwriting(bucket / "model")
    refuse_overwriting(bucket / "model", force=True)
    with pytest.raises(UserError, match="exists"), atomic_directory(bucket / "model", may_replace=refuse_existing):
        pytest.fail("entered")


@pytest.mark.parametrize("cuts", [(1, 6), pytest.param(range(100), marks=pytest.mark.slow)], ids=["two", "all"])
def test_a_replacement_cut_off_after_any_request_leaves_the_old_directory_or_the_new_one(store: Store, bucket, cuts):
    old, new = {"a": "old", "b": "old"}, {"b": "new", "c": "new"}
    seen = set()
    for cut in cuts:
        path = bucket / f"cut{cut}" / "model"
        write_directory(path, **old)
        requests = iter(range(1000))

        def fault(method: str, request: str, requests=requests, cut=cut) -> int | None:
            return 403 if method != "GET" and method != "HEAD" and next(requests) >= cut else None

        store.fault = fault
        try:
            write_directory(path, **new)
            finished = True
        except NotWritten:
            finished = False
        store.fault = lambda method, request: None
        whole = existing_directory(path)
        verify_manifest(local_copy(path))
        found = contents(whole)
        assert found in (old, new)
        seen.add("new" if found == new else "old")
        write_directory(path, **new)  # the next attempt cleans up
        assert contents(path) == new
        assert existing_directory(path) == path
        assert {name.partition("/")[0] for name in buckets.names(path.parent)} == {"model"}
        if finished:
            break
    assert finished == (cuts == range(100))
    assert seen == {"old", "new"}


def test_files_below(bucket):
    write_json(bucket / "run" / "x.json", {})
    write_json(bucket / "run" / "y" / "z.json", {})
    write_json(bucket / "running.json", {})
    assert files_below(bucket / "run") == ["x.json", "y/z.json"]
    assert files_below(bucket / "none") == []


def test_a_directory_is_moved(bucket):
    write_directory(bucket / "a", x="1")
    buckets.move(bucket / "a", bucket / "b")
    assert buckets.names(bucket).keys() == {"b/x", "b/manifest.json"}


def test_a_bucket_that_does_not_exist_is_named(store):
    path = as_path(f"{store.scheme}://no-such-bucket-here/file")
    with pytest.raises(NotWritten, match=r"no-such-bucket-here/file could not be written \(there is no such bucket"):
        write_bytes(path, b"")
    with pytest.raises(BucketError, match="no such bucket"):
        buckets.names(path)


def test_missing_rights_are_said_once(store, bucket):
    store.fault = lambda method, path: 403
    with pytest.raises(NotWritten, match=r"no permission; grant this account") as error:
        write_bytes(bucket / "file", b"")
    assert "\n" not in str(error.value)
