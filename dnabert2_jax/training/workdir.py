"""A run's directory: its settings, metrics, checkpoints and model."""

import json
import logging
import re
import shutil
import tempfile
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TextIO

import jax
from tensorboardX import SummaryWriter

from dnabert2_jax.compilation_cache import COMPILED
from dnabert2_jax.config.loading import COMMANDS, Finetuning, default_settings, kind_of_run, parse_run
from dnabert2_jax.config.runs import PretrainRun
from dnabert2_jax.errors import UserError
from dnabert2_jax.parallel.processes import is_first, on_first
from dnabert2_jax.progress import remark
from dnabert2_jax.storage import buckets
from dnabert2_jax.storage.atomic import NotWritten, flush, write_bytes, write_json
from dnabert2_jax.storage.paths import as_path, explain, in_bucket, make_directory
from dnabert2_jax.training.checkpoint_store import nothing_saved
from dnabert2_jax.training.goodput import GOODPUT_FILE

RUN_FILE = "run.json"
METRICS_FILE = "metrics.jsonl"

TENSORBOARD = "tensorboard"

SYNC_SECONDS = 10.0
"""Maximum delay before others see a line of the log."""

logger = logging.getLogger(__name__)

_LOGS = re.compile(
    rf"{re.escape(METRICS_FILE)}|{re.escape(GOODPUT_FILE)}|{COMPILED}|{TENSORBOARD}|profile|skipped_batch_\d+\.npz"
    r"|process_\d+_stacks\.txt|.*\.partial"
)
"""What a run leaves behind if it stopped before saving anything."""

_BEFORE_THE_RUN = re.compile(rf"{re.escape(RUN_FILE)}\.partial|{COMPILED}|process_\d+_stacks\.txt")
"""What may be there before :data:`RUN_FILE` is."""

FREE = (
    *("mesh.", "training.accumulate", "model.remat", "model.unroll", "model.parts", "model.attention"),
    *("training.keep_", "training.skipped_in_a_row", "training.profile_steps", "training.hang_timeout"),
)
"""Settings that may change when a run resumes: how the work is divided or logged, not what it computes."""


class Workdir:
    """The directory of one run.

    The same run resumes in it; a different run is rejected, so that no run continues from weights trained with different
    settings, unless the earlier run saved nothing: a failed first attempt may be corrected in place.
    Settings that affect the result only by rounding (:data:`FREE`) may differ.

    Args:
        path: created if it does not exist; may lie in a bucket.
        run: the effective run, JSON-ready.

    Attributes:
        checkpoints: directory for the training state.
        model: directory for the model.

    Raises:
        UserError: the directory belongs to another run or cannot be written to.
    """

    def __init__(self, path: Path, run: dict[str, Any]) -> None:
        self.path = path = as_path(path)
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        file = path / RUN_FILE
        try:
            make_directory(path)
            if (before := _saved_run(path)) is not None:
                if is_first() and self._has_only_logs() and changes(before, run):
                    remark(f"{path}: the earlier run saved nothing; starting over with new settings")
                else:
                    _refuse_differences(path, before, run, FREE if is_first() else ())
                if before != run:
                    write_json(file, run)
            elif not is_first():
                raise UserError(
                    f"{path}: process {jax.process_index()} does not see the {RUN_FILE} that process 0 wrote there; "
                    "--workdir must be in a bucket or on a file system that all processes share"
                )
            elif not all(map(_BEFORE_THE_RUN.fullmatch, _names(path))):
                raise UserError(f"{path} is not empty and holds no run; choose another --workdir")
            else:
                write_json(file, run)
        except OSError as error:
            raise UserError(
                f"{path}: cannot be used as a run's directory ({explain(error) or error.strerror}); choose another --workdir"
            ) from error

    def _has_only_logs(self) -> bool:
        """Whether the run in the directory has ended without saving a checkpoint or a result."""
        others = _names(self.path) - {RUN_FILE, self.checkpoints.name}
        return all(map(_LOGS.fullmatch, others)) and nothing_saved(self.checkpoints)

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file into the directory atomically; only process 0 writes."""
        if is_first():
            write_json(self.path / name, content)


def open_workdir(path: Path, run: dict[str, Any]) -> Workdir:
    """The directory of a run, in each of its processes: process 0 creates it, and the others check that it is the same run.

    Raises:
        UserError: as for :class:`Workdir`; or processes see different directories or were given different runs.
    """

    def make() -> None:
        Workdir(path, run)

    on_first(make)
    return Workdir(path, run)


def read_run(workdir: Path) -> PretrainRun | Finetuning:
    """The run that made a directory.

    Raises:
        UserError: the directory holds no run, or one of another version.
    """
    content = _saved_run(workdir)
    if content is None:
        raise UserError(f"{workdir} holds no run (there is no {RUN_FILE}); name the --workdir of a pretrain or finetune run")
    kind: type[PretrainRun | Finetuning] = kind_of_run(content.get("command", ""), content)
    return parse_run(kind, content, str(workdir / RUN_FILE))


class MetricsLog:
    """``metrics.jsonl``: one JSON object per line, each with its ``step``; the same numbers are written for TensorBoard.

    A context manager that closes the files. Only process 0 writes; in the others it does nothing.

    Lines become visible to others within :data:`SYNC_SECONDS`, and a kill loses no line of a step that a checkpoint
    holds: the files are synced (fsync, at which gcsfuse uploads them) at that interval and before each checkpoint counts.
    Objects in a bucket cannot be appended to, so the files are written on this machine and uploaded whole each time,
    rather than as a segment per interval, so that the log stays one file that every tool reads; even that of half a million
    steps is a few megabytes.

    Args:
        workdir: the run's directory.
        step: the step from which the run resumes; lines of later steps, written by a killed run, are dropped.

    Raises:
        UserError: they cannot be written.
    """

    def __init__(self, workdir: Workdir, step: int) -> None:
        self.path = workdir.path / METRICS_FILE
        self._local = self._workdir = workdir.path
        self._file: TextIO | None = None
        self._syncing = threading.Lock()
        if not is_first():
            return
        kept = [line for line in self.read(workdir.path) if line["step"] <= step]
        write_bytes(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        if in_bucket(workdir.path):
            self._local = Path(tempfile.mkdtemp(prefix="dnabert2-logs-"))
            write_bytes(self._local / METRICS_FILE, buckets.read(self.path) or b"")
        self._file = (self._local / METRICS_FILE).open("a", buffering=1)
        # Makes TensorBoard ignore the entries of earlier event files for these steps.
        self._events = SummaryWriter(str(self._local / TENSORBOARD), purge_step=step + 1, flush_secs=10)
        self._synced = time.monotonic()
        self._background = ThreadPoolExecutor(max_workers=1, thread_name_prefix="log")
        self._pending: Future[None] | None = None

    def write(self, step: int, **values: float | str | dict[str, float]) -> None:
        """Append one line. A dict is plotted as a group of curves; text is not plotted."""
        if self._file is None:
            return
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            curves = {f"{name}/{key}": number for key, number in value.items()} if isinstance(value, dict) else {name: value}
            for tag, number in curves.items():
                if isinstance(number, int | float):
                    self._events.add_scalar(tag, number, step)
        if time.monotonic() - self._synced > SYNC_SECONDS and (self._pending is None or self._pending.done()):
            self._synced = time.monotonic()
            self._pending = self._background.submit(self._try_sync)

    def sync(self) -> None:
        """Return once all lines are on the disk, or in the bucket.

        Raises:
            NotWritten: they cannot be written.
        """
        with self._syncing:
            if self._file is None:  # closed, and synced then
                return
            try:
                self._events.flush()  # with fsync
                flush(self._local / METRICS_FILE)
                if self._local != self._workdir:
                    files = (file for file in self._local.rglob("*") if file.is_file())
                    buckets.upload({file.relative_to(self._local).as_posix(): file for file in files}, self._workdir)
            except OSError as error:
                raise NotWritten(self.path, error) from error

    def _try_sync(self) -> None:
        try:
            self.sync()
        except UserError as error:
            logger.warning("%s; the lines since then are kept and written with the next ones", error)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if self._file is None:
            return
        self._background.shutdown()
        try:
            if error is None:
                self.sync()
            else:
                self._try_sync()
        finally:
            with self._syncing:
                self._file.close()
                self._file = None
                self._events.close()
                if self._local != self._workdir:
                    shutil.rmtree(self._local, ignore_errors=True)

    @staticmethod
    def read(workdir: Path) -> list[dict[str, Any]]:
        """All lines of a run, except a last line truncated by a kill."""
        lines = (_content(workdir / METRICS_FILE) or b"").decode().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("}\n")]


def _names(path: Path) -> set[str]:
    """What is in a directory."""
    if in_bucket(path):
        return {name.partition("/")[0] for name in buckets.names(path)}
    return {entry.name for entry in path.iterdir()}


def _content(file: Path) -> bytes | None:
    """The content of a file, or None if there is none."""
    if in_bucket(file):
        return buckets.read(file)
    return file.read_bytes() if file.exists() else None


def _saved_run(workdir: Path) -> dict[str, Any] | None:
    """The run that a directory holds, JSON-ready, or None if it holds none."""
    file = workdir / RUN_FILE
    if (content := _content(file)) is None:
        return None
    try:
        run = json.loads(content)
    except ValueError:
        run = None
    if not isinstance(run, dict):
        raise UserError(f"{file} is damaged: it holds no run; restore it from a copy, or choose another --workdir")
    return run


def _refuse_differences(path: Path, old: dict[str, Any], new: dict[str, Any], free: tuple[str, ...]) -> None:
    if changed := changes(old, new, free):
        raise UserError(
            f"{path} holds a run with other settings: {'; '.join(changed)}; choose another --workdir, or the settings "
            "it was started with"
        )


def changes(old: dict[str, Any], new: dict[str, Any], free: tuple[str, ...] = FREE) -> list[str]:
    """The settings that differ between two runs, except those that are free to differ, as text.

    A run that an earlier version recorded lacks the settings that did not exist then; it behaved as their defaults do.
    """
    command = old.get("command", "")
    defaults = flat_settings(default_settings(kind_of_run(command, old))) if command in COMMANDS else {}
    before, after = defaults | flat_settings(old), defaults | flat_settings(new)
    return [
        f"{key} was {before.get(key)!r} and is now {after.get(key)!r}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and not key.startswith(free)
    ]


def flat_settings(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The settings of a nested dict by dotted name, as in ``--set``."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flat_settings(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
