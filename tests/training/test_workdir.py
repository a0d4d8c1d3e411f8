import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnabert2_jax.errors import UserError
from dnabert2_jax.storage import buckets
from dnabert2_jax.storage.atomic import write_json
from dnabert2_jax.training.workdir import MetricsLog, Workdir

RUN = {"command": "pretrain", "seed": 1, "optimizer": {"learning_rate": 1e-3, "clip_norm": 1.0}, "data": {"corpus": "c"}}


def test_a_new_directory_is_made_with_its_run(tmp_path):
    workdir = Workdir(tmp_path / "deep" / "run", RUN)
    assert json.loads((tmp_path / "deep" / "run" / "run.json").read_text()) == RUN
    assert (workdir.checkpoints, workdir.model) == (workdir.path / "checkpoints", workdir.path / "model")
    assert [path.name for path in workdir.path.iterdir()] == ["run.json"]


def test_the_same_run_again_goes_on_in_it(tmp_path):
    Workdir(tmp_path, RUN)
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    Workdir(tmp_path, json.loads(json.dumps(RUN)))


def test_another_run_is_refused_with_every_difference(tmp_path):
    Workdir(tmp_path, RUN).model.mkdir()
    other = {"command": "pretrain", "seed": 2, "optimizer": {"learning_rate": 1e-4, "clip_norm": 1.0}, "lora": {"rank": 4}}
    with pytest.raises(UserError) as error:
        Workdir(tmp_path, other)
    for part in (
        "seed was 1 and is now 2",
        "optimizer.learning_rate was 0.001 and is now 0.0001",
        "data.corpus was 'c' and is now None",
        "lora.rank was None and is now 4",
        "choose another --workdir",
    ):
        assert part in str(error.value)
    assert "clip_norm" not in str(error.value)
    assert json.loads((tmp_path / "run.json").read_text()) == RUN


OTHER = {**RUN, "seed": 2}


def test_a_first_attempt_that_saved_nothing_may_be_corrected_in_place(tmp_path, capsys):
    workdir = Workdir(tmp_path, RUN)
    log_steps(workdir, 0, 1, 2)
    (workdir.checkpoints / "step_00000001" / "state").mkdir(parents=True)  # killed while it was saved
    (workdir.checkpoints / ".lock").touch()
    (tmp_path / "skipped_batch_2.npz").touch()
    again = Workdir(tmp_path, OTHER)
    assert f"{tmp_path}: the earlier run saved nothing; starting over with new settings" in capsys.readouterr().err
    assert json.loads((tmp_path / "run.json").read_text()) == OTHER
    log_steps(again, 0, 1)
    assert MetricsLog.read(tmp_path) == [{"step": 1, "loss": 1 / 7}]
    Workdir(tmp_path, OTHER)
    assert "saved nothing" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "saved", ["checkpoints/step_00000004/manifest.json", "checkpoints/damaged_step_00000004/x", "model/x", "scores.json"]
)
def test_what_was_saved_is_kept_for_its_own_settings(tmp_path, saved):
    Workdir(tmp_path, RUN)
    (tmp_path / saved).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / saved).touch()
    with pytest.raises(UserError, match="seed was 1 and is now 2"):
        Workdir(tmp_path, OTHER)
    assert json.loads((tmp_path / "run.json").read_text()) == RUN


def test_a_run_that_is_still_running_keeps_its_directory(tmp_path):
    workdir = Workdir(tmp_path, RUN)
    workdir.checkpoints.mkdir()
    code = (
        "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print('locked', flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(workdir.checkpoints / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"locked\n"
        with pytest.raises(UserError, match="seed was 1 and is now 2"):
            Workdir(tmp_path, OTHER)
        process.communicate(b"\n")
    Workdir(tmp_path, OTHER)


def test_a_directory_with_something_else_in_it_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="not empty and holds no run"):
        Workdir(tmp_path, RUN)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_kill_before_the_run_was_written_leaves_a_directory_that_can_be_used(tmp_path):
    (tmp_path / "run.json.partial").write_text('{"command"')
    (tmp_path / "process_0_stacks.txt").write_text("Thread 0x1")  # it may have hung before
    Workdir(tmp_path, RUN)
    assert json.loads((tmp_path / "run.json").read_text()) == RUN


@pytest.mark.parametrize("content", [b"", b'{"seed": ', b"[1]", b"\xff"])
def test_a_damaged_run_file_is_a_users_error(tmp_path, content):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(UserError, match=r"run\.json is damaged"):
        Workdir(tmp_path, RUN)


def test_a_file_is_no_directory(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="cannot be used as a run's directory"):
            Workdir(path, RUN)


def test_json_appears_whole(tmp_path):
    file = write_json(tmp_path / "scores.json", {"mcc": 0.5})
    assert json.loads(file.read_text()) == {"mcc": 0.5}
    write_json(file, {"mcc": 0.6})
    assert json.loads(file.read_text()) == {"mcc": 0.6}
    assert list(tmp_path.iterdir()) == [file]


def log_steps(workdir, step, *steps):
    with MetricsLog(workdir, step) as log:
        for number in steps:
            log.write(number, loss=number / 7)


@given(written=st.integers(0, 12), resumed=st.integers(0, 12), cut=st.integers(0, 40))
def test_lines_after_the_checkpoint_are_dropped_and_the_rest_goes_on(tmp_path_factory, written, resumed, cut):
    """A killed run wrote up to some step, the last line perhaps in part, and goes on from a checkpoint before that."""
    workdir = Workdir(tmp_path_factory.mktemp("run"), RUN)
    resumed = min(resumed, written)
    log_steps(workdir, 0, *range(1, written + 1))
    file = workdir.path / "metrics.jsonl"
    content = file.read_bytes()
    safe = content.index(b'{"step": %d' % written) if resumed < written else len(content)
    file.write_bytes(content[: max(safe, len(content) - cut)])
    log_steps(workdir, resumed, *range(resumed + 1, 13))
    assert MetricsLog.read(workdir.path) == [{"step": step, "loss": step / 7} for step in range(1, 13)]


def test_lines_are_there_as_soon_as_they_are_written(tmp_path):
    workdir = Workdir(tmp_path, RUN)
    with MetricsLog(workdir, 0) as log:
        log.write(1, loss=2.0, phase="train")
        assert MetricsLog.read(tmp_path) == [{"step": 1, "loss": 2.0, "phase": "train"}]


def test_lines_are_synced_at_the_interval_and_before_a_checkpoint_counts(tmp_path, monkeypatch):
    """What gcsfuse would have uploaded: a file as it was at its last fsync."""
    monkeypatch.setattr("dnabert2_jax.training.workdir.SYNC_SECONDS", 0.2)
    synced, fsync = {}, os.fsync

    def spy(descriptor):
        fsync(descriptor)
        file = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if file.is_file():
            synced[file.name.partition(".")[0]] = file.read_bytes()

    monkeypatch.setattr("os.fsync", spy)
    workdir = Workdir(tmp_path, RUN)
    with MetricsLog(workdir, 0) as log:
        log.write(1, loss=2.0)
        time.sleep(0.3)
        log.write(2, loss=1.0)
        deadline = time.monotonic() + 20
        while b'"step": 2' not in synced.get("metrics", b"") and time.monotonic() < deadline:
            time.sleep(0.02)
        assert [json.loads(line)["step"] for line in synced["metrics"].splitlines()] == [1, 2]
        assert synced["events"]  # TensorBoard's
        log.write(3, loss=0.5)
        assert b'"step": 3' not in synced["metrics"]
        log.sync()
        assert b'"step": 3' in synced["metrics"]


def test_several_lines_of_one_step_stay(tmp_path):
    workdir = Workdir(tmp_path, RUN)
    log_steps(workdir, 0, 5, 5, 6)
    log_steps(workdir, 5)
    assert [line["step"] for line in MetricsLog.read(tmp_path)] == [5, 5]


def test_no_log_has_no_lines(tmp_path):
    assert MetricsLog.read(tmp_path) == []


def test_a_log_in_a_bucket_is_seen_while_the_run_goes_on(bucket, monkeypatch):
    monkeypatch.setattr("dnabert2_jax.training.workdir.SYNC_SECONDS", 0.1)
    workdir = Workdir(bucket / "run", RUN)
    with MetricsLog(workdir, 0) as log:
        log.write(1, loss=0.5)
        time.sleep(0.2)
        log.write(2, loss=0.25)  # starts an upload in the background
        deadline = time.monotonic() + 20
        while not MetricsLog.read(bucket / "run") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert MetricsLog.read(bucket / "run") == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]
        log.write(3, loss=0.125)
        log.sync()
        assert [line["step"] for line in MetricsLog.read(bucket / "run")] == [1, 2, 3]
    assert any(name.startswith("tensorboard/") for name in buckets.names(bucket / "run"))
    with MetricsLog(workdir, 2):
        assert [line["step"] for line in MetricsLog.read(bucket / "run")] == [1, 2]


def test_a_log_that_cannot_be_uploaded_is_kept_and_uploaded_later(store, bucket, monkeypatch, caplog):
    workdir = Workdir(bucket / "run", RUN)
    with MetricsLog(workdir, 0) as log:
        monkeypatch.setattr("dnabert2_jax.training.workdir.SYNC_SECONDS", 0.0)
        store.fault = lambda method, path: 403
        log.write(1, loss=0.5)
        with pytest.raises(UserError, match=r"metrics.jsonl could not be written \(no permission"):
            log.sync()
        store.fault = lambda method, path: None
    assert "the lines since then are kept" in caplog.text
    assert [line["step"] for line in MetricsLog.read(bucket / "run")] == [1]


def test_a_run_in_a_bucket_is_not_taken_for_another(bucket):
    Workdir(bucket / "run", RUN)
    Workdir(bucket / "run", RUN)
    buckets.write(bucket / "run" / "scores.json", b"{}")
    with pytest.raises(UserError, match=rf"{bucket}/run holds a run with other settings: seed was 1 and is now 2"):
        Workdir(bucket / "run", OTHER)
    buckets.write(bucket / "other" / "file", b"")
    with pytest.raises(UserError, match=rf"{bucket}/other is not empty and holds no run; choose another --workdir"):
        Workdir(bucket / "other", RUN)


def test_a_bucket_that_cannot_be_used_is_one_line(store, bucket):
    store.fault = lambda method, path: 403
    with pytest.raises(UserError, match=r"cannot be used as a run's directory \(no permission") as error:
        Workdir(bucket / "run", RUN)
    assert "\n" not in str(error.value)
