"""Progress of long work: a bar on a terminal, occasional lines elsewhere."""

import sys
import time
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

# FORCE_COLOR, which Jupyter and CI set, must not put a moving bar into a file.
console = Console(
    stderr=True, highlight=False, markup=False, emoji=False, force_terminal=None if sys.stderr.isatty() else False
)
"""For progress and remarks; results go to standard output. Brackets and colons in names are not markup."""

if not console.is_terminal:
    console.width = 140  # a file has no width, and at 80 columns tables would truncate names

_SECONDS_BETWEEN_LINES = 10.0


class ProgressBar:
    """A progress bar with figures beside it, as a context manager.

    Args:
        title: what is being done; None shows nothing.
        total: units of work.
        done: units done before, by a run that resumes.
    """

    def __init__(self, title: str | None, total: int, done: int = 0) -> None:
        self._title, self._total, self._done = title, total, done
        self._figures = ""
        self._began, self._done_before, self._timed = time.monotonic(), done, False
        self._last_line, self._said = self._began, ""
        self._bar: Progress | None = None
        if console.is_terminal and title is not None:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}", markup=False),
                TimeRemainingColumn(),
                console=console,
            )
            self._task = self._bar.add_task(title, total=total, completed=done, figures="")

    def __enter__(self) -> "ProgressBar":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif error is None:
            self._print()

    def advance(self, units: int = 1, figures: str | None = None) -> None:
        """Count ``units`` as done; ``figures`` replaces the text beside the bar."""
        if units and not self._timed:
            # The first units pay for compiling; the time left is estimated from those after them.
            self._timed, self._began, self._done_before = True, time.monotonic(), self._done + units
        self._done += units
        self._figures = self._figures if figures is None else figures
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, figures=self._figures)
        elif time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            self._print()

    def _print(self) -> None:
        if self._title is None:
            return
        self._last_line = time.monotonic()
        parts = [self._title, f"{self._done:,}/{self._total:,}", self._figures]
        if self._done_before < self._done < self._total:
            seconds = (self._last_line - self._began) / (self._done - self._done_before) * (self._total - self._done)
            parts.append(f"{timedelta(seconds=round(seconds))} left")
        line = "  ".join(part for part in parts if part)
        if line != self._said:
            console.print(line, soft_wrap=True)
        self._said = line


def remark(text: str) -> None:
    """Print one line about what was found or done."""
    console.print(text, soft_wrap=True)
