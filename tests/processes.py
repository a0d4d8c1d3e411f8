"""The command in a process of its own, forked from one that has imported what commands import.

Importing takes a command two to five seconds of CPU time, more than most of what tests have it do. The process is real: it
has its own memory, signals, standard error and exit code.
"""

import atexit
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

_FORK_SERVER = multiprocessing.get_context("forkserver")
_FORK_SERVER.set_forkserver_preload(
    [
        *(f"dnabert2_jax.{module}" for module in ("cli", "api", "gue.runner", "reports", "variants.scoring")),
        *(f"dnabert2_jax.recipes.{module}" for module in ("pretraining", "finetuning", "sweep")),
        *("sklearn.metrics", "sklearn.linear_model", "matplotlib.backends.backend_agg"),
    ]
)


def _of_jax() -> dict[str, str]:
    """The variables that JAX reads when it is imported."""
    return {name: value for name, value in os.environ.items() if name.startswith("JAX_")}


_AT_FIRST = _of_jax()


class Command:
    """``dnabert2 ARGUMENTS``, with as much of ``subprocess.Popen`` as tests need."""

    def __init__(self, *arguments: object, cwd: Path | None = None) -> None:
        assert _of_jax() == _AT_FIRST, "JAX has been imported with other variables: start an interpreter"
        self.args = ["dnabert2", *map(str, arguments)]
        self._written = Path(tempfile.mkdtemp(prefix="dnabert2-command-"))
        self._files = [self._written / "stdout", self._written / "stderr"]
        environment = {**os.environ, "COLUMNS": "120"}
        inputs = (self.args, cwd or Path.cwd(), environment, self._files)
        self._said: tuple[str, str] | None = None
        self._process = _FORK_SERVER.Process(target=_run, args=inputs)
        self._process.start()

    @property
    def returncode(self) -> int | None:
        """The exit code, or minus the signal that ended it; None as long as it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        assert self._process.pid is not None
        with suppress(ProcessLookupError):  # it may have ended
            os.kill(self._process.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it wrote to standard output and standard error, once it has ended."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        if self._said is None:
            # There are no files yet where it was killed at once.
            out, errors = (file.read_text() if file.exists() else "" for file in self._files)
            self._said = out, errors
            shutil.rmtree(self._written)
        return self._said


def _run(arguments: list[str], directory: Path, environment: dict[str, str], files: list[Path]) -> None:
    for stream, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), stream)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = arguments
    from dnabert2_jax.cli import main

    try:
        main()
    finally:
        atexit._run_exitfuncs()  # multiprocessing leaves them out
