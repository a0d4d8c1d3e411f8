"""Checkpoints in a bucket; what those in a directory promise is in ``test_checkpoint``."""

import json
import logging

import numpy as np
import pytest

from dnabert2_jax.errors import UserError
from dnabert2_jax.storage import buckets
from dnabert2_jax.training.checkpoint import Checkpoints
from dnabert2_jax.training.checkpoint_store import nothing_saved
from tests.emulators import free_port
from tests.processes import start_script
from tests.training.test_checkpoint import HOSTS, assert_is, make_state, restore, save_steps


def steps_in(bucket) -> set[str]:
    return {name.partition("/")[0] for name in buckets.names(bucket)}


def test_round_trip_is_bitwise_and_old_ones_are_deleted(bucket, tmp_path):
    save_steps(bucket, 3, 7, 9)
    assert steps_in(bucket) == {"step_00000007", "step_00000009"}
    assert_is(restore(bucket), 9)
    assert not (tmp_path / "bucket_cache" / "scratch").exists() or not list(
        (tmp_path / "bucket_cache" / "scratch").iterdir()
    )


def test_every_object_of_a_step_is_in_its_manifest(bucket):
    save_steps(bucket, 3)
    found = buckets.names(bucket / "step_00000003")
    manifest = json.loads(buckets.read(bucket / "step_00000003" / "manifest.json") or b"")
    assert manifest["files"].keys() == found.keys() - {"manifest.json"}


def test_an_unfinished_step_is_removed(bucket, caplog):
    save_steps(bucket, 3, 5)
    buckets.remove_file(bucket / "step_00000005" / "manifest.json")
    with caplog.at_level(logging.WARNING):
        assert_is(restore(bucket), 3)
    assert "step_00000005: the run was stopped before this checkpoint was complete" in caplog.text
    assert steps_in(bucket) == {"step_00000003"}


def test_a_corrupt_object_is_set_aside_and_the_step_before_is_read(bucket, caplog):
    save_steps(bucket, 3, 5)
    name = next(name for name in buckets.names(bucket / "step_00000005") if name.startswith("state/d/"))
    content = bytearray(buckets.read(bucket / "step_00000005" / name) or b"")
    content[len(content) // 2] ^= 1
    buckets.write(bucket / "step_00000005" / name, bytes(content))
    with caplog.at_level(logging.WARNING):
        assert_is(restore(bucket), 3)
    assert f"{bucket}/step_00000005/{name} is damaged: sha256" in caplog.text
    assert "set aside as damaged_step_00000005" in caplog.text
    assert steps_in(bucket) == {"step_00000003", "damaged_step_00000005"}
    buckets.remove(bucket / "step_00000003")
    with pytest.raises(UserError, match="holds no intact checkpoint, only damaged_step_00000005"):
        restore(bucket)


def test_a_second_run_is_refused_while_the_first_is_alive(bucket, monkeypatch):
    monkeypatch.setattr("dnabert2_jax.storage.leases.RENEWED", 0.2)
    monkeypatch.setattr("dnabert2_jax.storage.leases.EXPIRED", 5.0)
    with Checkpoints(bucket), pytest.raises(UserError, match=r"another run .* is writing to"):
        Checkpoints(bucket)
    Checkpoints(bucket).close()


def test_a_run_whose_lock_was_taken_over_seals_nothing(bucket):
    with Checkpoints(bucket) as checkpoints:
        checkpoints.save(3, make_state(3), {"records": 96})
        checkpoints.wait()
        buckets.write(bucket / ".lock", b'{"id": "another", "host": "elsewhere", "pid": 1}')
        checkpoints.save(5, make_state(5), {"records": 160})
        with pytest.raises(UserError, match="was taken over by another run"):
            checkpoints.wait()
    assert "step_00000005/manifest.json" not in buckets.names(bucket)
    assert buckets.read(bucket / ".lock") is not None


def test_a_save_without_rights_is_one_line_and_leaves_the_last_checkpoint(store, bucket):
    with Checkpoints(bucket) as checkpoints:
        checkpoints.save(3, make_state(3), {"records": 96})
        checkpoints.wait()
        store.fault = lambda method, path: 403 if method in ("PUT", "POST") else None
        checkpoints.save(5, make_state(5), {"records": 160})
        with pytest.raises(UserError, match=r"step 5 could not be written to .*no permission") as error:
            checkpoints.wait()
        assert "complete ones are untouched (3); rerun to resume" in str(error.value)
        store.fault = lambda method, path: None
    assert_is(restore(bucket), 3)


def test_what_must_be_older_is_written_before_the_seal(bucket):
    sealed = []
    with Checkpoints(bucket) as checkpoints:
        before_seal = lambda: sealed.append("step_00000003/manifest.json" in buckets.names(bucket))  # noqa: E731
        checkpoints.save(3, make_state(3), {}, before_seal=before_seal)
    assert sealed == [False]


def test_nothing_saved(bucket):
    assert nothing_saved(bucket / "checkpoints")
    buckets.write(bucket / "checkpoints" / "step_00000003" / "contents.json", b"{}")
    assert nothing_saved(bucket / "checkpoints")
    buckets.write(bucket / "checkpoints" / "step_00000003" / "manifest.json", b"{}")
    assert not nothing_saved(bucket / "checkpoints")


@pytest.mark.parametrize("store", ["gs", pytest.param("s3", marks=pytest.mark.slow)], indirect=True)
def test_two_processes_upload_their_own_shards_and_restore_them_laid_out_otherwise(bucket):
    """The script saves and restores; it also damages the newest step, which process 0 sets aside for both."""
    port = str(free_port())
    children = [start_script(HOSTS, bucket, port, process) for process in range(2)]
    for child in children:
        out, errors = child.communicate(timeout=120)
        assert out.endswith("fine\n"), errors[-3000:]
    files = json.loads(buckets.read(bucket / "step_00000001" / "manifest.json") or b"")["files"]
    assert {name for name in files if name.startswith("state/rows/")} == {
        "state/rows/.zarray",
        *(f"state/rows/{shard}.0" for shard in range(4)),
    }
    assert buckets.names(bucket / "step_00000001").keys() == {*files, "manifest.json"}
    wanted = {"rows": np.zeros((8, 8), np.float32), "all": np.zeros((8, 8), np.float32), "count": np.uint32(0)}
    with Checkpoints(bucket) as checkpoints:  # one process reads what two wrote
        restored = checkpoints.restore_latest(wanted)
    assert restored is not None
    np.testing.assert_array_equal(restored.state["rows"], np.arange(64, dtype=np.float32).reshape(8, 8))
