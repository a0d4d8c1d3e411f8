"""Where the time of a run went, over all its calls: goodput is the fraction spent on steps whose result was kept.

A run that is killed, preempted or moved consists of several calls of the same command. Each call appends the time spent so
far to ``goodput.jsonl``; if it is killed, only the time since its last line is unaccounted for. Nothing is ever removed from
that file: :func:`account` works out afterward which steps were lost and repeated.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import jax

from dnabert2_jax.parallel.processes import is_first
from dnabert2_jax.storage import buckets
from dnabert2_jax.storage.paths import BucketError, in_bucket

logger = logging.getLogger(__name__)

GOODPUT_FILE = "goodput.jsonl"

PHASES = {
    "steps": "steps",
    "input": "waiting for input",
    "evaluation": "evaluation",
    "saves": "saving",
    "compilation": "compiling",
    "start": "starting: reading input, restoring the checkpoint",
}
"""What a call spends time on, with its display name. Every second belongs to exactly one phase."""

_COMPILING = "/jax/core/compile/"
"""How jax's events for tracing, lowering and compiling begin."""


class Ledger:
    """Assigns every second of a call to one of :data:`PHASES`; a context manager.

    Time counts as ``start`` until :meth:`enter` is called. Compilation is counted separately wherever it happens.

    Attributes:
        seconds: by phase, up to the last change of phase.
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self._phase = "start"
        self._called, self._since = time.time(), time.monotonic()
        self._thread = threading.get_ident()
        self._compilations: list[tuple[float, float]] = []
        self._file: Path | None = None
        self._first = 0
        self._written = b""

    def __enter__(self) -> "Ledger":
        jax.monitoring.register_event_time_span_listener(self._compiled)
        return self

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_time_span_listener(self._compiled)

    def keep_in(self, workdir: Path, step: int) -> None:
        """From now on, :meth:`record` appends to the file of a run's directory.

        Args:
            workdir: the directory.
            step: the last one before this call.
        """
        self._file, self._first = workdir / GOODPUT_FILE, step
        if in_bucket(workdir) and is_first():
            self._written = buckets.read(self._file) or b""

    def enter(self, phase: str) -> str:
        """Spend the time from now on in a phase.

        Returns:
            The phase until now.
        """
        now = time.monotonic()
        compiling = sum(end - begin for begin, end in self._compilations)
        self._compilations.clear()
        self.seconds[self._phase] += now - self._since - compiling
        self.seconds["compilation"] += compiling
        before, self._phase, self._since = self._phase, phase, now
        return before

    @contextmanager
    def phase(self, name: str, after: Any = ()) -> Iterator[None]:
        """A context whose time belongs to a phase; the surrounding phase resumes after it.

        Args:
            name: the phase.
            after: arrays to wait for first: what the devices still have to compute is not this phase's time.
        """
        jax.block_until_ready(after)  # type: ignore[no-untyped-call]
        around = self.enter(name)
        try:
            yield
        finally:
            self.enter(around)

    def record(self, step: int) -> None:
        """Append what was spent so far; only process 0 writes. A call that has taken no step leaves no line.

        Args:
            step: the last one taken.
        """
        if self._file is None or step == self._first or not is_first():
            return
        self.enter(self._phase)
        spent = {phase: round(seconds, 3) for phase, seconds in self.seconds.items()}
        line = {"call": round(self._called, 3), "from": self._first, "step": step, "seconds": spent}
        if not in_bucket(self._file):
            return _append(self._file, line)
        self._written += json.dumps(line).encode() + b"\n"  # an object must be rewritten whole, and this one is small
        try:
            buckets.write(self._file, self._written)
        except BucketError as error:
            logger.warning("%s; the account of time is written with the next line", error)

    def _compiled(self, event: str, start_time: float, end_time: float, **_: str | int) -> None:
        if not event.startswith(_COMPILING) or threading.get_ident() != self._thread:
            return
        # Spans nest, as a function that is traced calls others; the outermost ends last and replaces those within.
        while self._compilations and self._compilations[-1][0] >= start_time:
            self._compilations.pop()
        self._compilations.append((start_time, end_time))


@dataclass(frozen=True)
class Goodput:
    """Where the time of a run went.

    Attributes:
        seconds: by phase, of what was kept.
        repeated: seconds of work after the checkpoint that the next call resumed from.
        between: seconds between calls: after a call's last line, and before the next one began.
        calls: number of calls that took steps.
    """

    seconds: dict[str, float]
    repeated: float
    between: float
    calls: int

    @property
    def total(self) -> float:
        """Seconds from the first call to the last line."""
        return sum(self.seconds.values()) + self.repeated + self.between

    @property
    def share(self) -> float:
        """Fraction of the time that went into steps that were kept."""
        return self.seconds["steps"] / self.total

    def rows(self) -> list[tuple[str, float]]:
        """Display name and seconds of each phase; losses to restarts come last."""
        rows = [(words, self.seconds[phase]) for phase, words in PHASES.items()]
        if self.calls > 1:
            rows += [("lost: repeated after a restart", self.repeated), ("lost: between calls", self.between)]
        return rows

    def summary(self) -> str:
        """One line for the terminal, omitting phases below half a percent."""
        shares = [(words.partition(":")[0], seconds / self.total) for words, seconds in self.rows()[: len(PHASES)]]
        parts = [f"{words} {share:.1%}" for words, share in shares if share >= 0.005]
        if self.calls > 1:
            lost = timedelta(seconds=round(self.repeated + self.between))
            parts.append(f"lost to restarts {lost} in {self.calls} calls")
        return f"{timedelta(seconds=round(self.total))} in all: {', '.join(parts)}"


def account(workdir: Path) -> Goodput | None:
    """Where the time of the run in a directory went; None if no call has recorded a step."""
    calls = [list(lines) for _, lines in groupby(_lines(workdir / GOODPUT_FILE), key=lambda line: line["call"])]
    if not calls:
        return None
    seconds, repeated, between = dict.fromkeys(PHASES, 0.0), 0.0, 0.0
    for n, lines in enumerate(calls):
        # Work done after the checkpoint that a later call resumed from is lost.
        resumed_from = min((later[0]["from"] for later in calls[n + 1 :]), default=lines[-1]["step"])
        kept = [line["seconds"] for line in lines if line["step"] <= resumed_from]
        for phase, spent in (kept[-1] if kept else {}).items():
            seconds[phase] += spent
        repeated += _total(lines[-1]) - (sum(kept[-1].values()) if kept else 0.0)
        if n + 1 < len(calls):
            ended = lines[-1]["call"] + _total(lines[-1])
            between += max(0.0, calls[n + 1][0]["call"] - ended)  # clocks of two hosts may differ
    return Goodput(seconds, repeated, between, len(calls))


def _total(line: dict[str, Any]) -> float:
    return float(sum(line["seconds"].values()))


def _append(file: Path, line: dict[str, Any]) -> None:
    """Write one line at the end of a file, and to the disk; a line that a kill left unfinished is closed first."""
    with file.open("ab+") as stream:
        unfinished = stream.tell() and stream.seek(-1, os.SEEK_END) >= 0 and stream.read(1) != b"\n"
        stream.write(b"\n" * bool(unfinished) + json.dumps(line).encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())


def _lines(file: Path) -> Sequence[dict[str, Any]]:
    """The lines of a file; those that a kill left unfinished are skipped."""
    found = []
    for text in file.read_text().splitlines() if file.exists() else ():
        try:
            found.append(json.loads(text))
        except ValueError:
            continue
    return found
