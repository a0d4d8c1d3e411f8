"""Commands and scripts in processes of their own, forked from one that has imported what commands import.

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
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

# System libraries of macOS may not survive a fork: there, each process starts from nothing.
_CONTEXT: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
_CONTEXT.set_forkserver_preload(
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


class Process:
    """A function in a process of its own, with as much of ``subprocess.Popen`` as tests need."""

    def __init__(self, function: Callable[..., None], arguments: list[str], cwd: Path | None = None) -> None:
        assert _of_jax() == _AT_FIRST, "JAX has been imported with other variables: start an interpreter"
        self.args = arguments
        self._written = Path(tempfile.mkdtemp(prefix="dnabert2-process-"))
        self._files = [self._written / "stdout", self._written / "stderr"]
        self._said: tuple[str, str] | None = None
        inputs = (function, arguments, cwd or Path.cwd(), dict(os.environ), self._files)
        self._process = _CONTEXT.Process(target=_run, args=inputs)
        self._process.start()

    @property
    def returncode(self) -> int | None:
        """The exit code, or minus the signal that ended it; None as long as it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return int(self._process.pid)

    def send_signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):  # it may have ended
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    @property
    def output(self) -> str:
        """What it has written to standard output so far."""
        return self._files[0].read_text() if self._files[0].exists() else ""

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


def start_cli(*arguments: object, cwd: Path | None = None) -> Process:
    """``dnabert2 ARGUMENTS``."""
    return Process(_command, ["dnabert2", *map(str, arguments)], cwd)


def start_script(code: str, *arguments: object) -> Process:
    """``python -c CODE ARGUMENTS``."""
    return Process(_script, [code, *map(str, arguments)])


def run_cli(*arguments: object, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    process = start_cli(*arguments, cwd=cwd)
    out, errors = process.communicate(timeout=120)
    assert process.returncode is not None
    return subprocess.CompletedProcess(process.args, process.returncode, out, errors)


def run_script(code: str, *arguments: object) -> str:
    """What it prints; it has to succeed."""
    process = start_script(code, *arguments)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return out


def wait_until(process: "Process | subprocess.Popen[str]", condition: Callable[[], bool], timeout: float = 180) -> None:
    """Returns as soon as the condition holds; fails where the process ends by itself, or nothing happens."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None, f"ended too early:\n{process.communicate()[1]}"
        if time.monotonic() > deadline:
            process.kill()
            raise AssertionError(f"the moment waited for never came:\n{process.communicate()[1]}")
        time.sleep(0.001)  # rather than take the core that the process needs


def kill_when(process: Process, condition: Callable[[], bool]) -> None:
    """SIGKILL as soon as the condition holds."""
    wait_until(process, condition)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def _run(
    function: Callable[[], None], arguments: list[str], directory: Path, environment: dict[str, str], files: list[Path]
) -> None:
    for stream, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), stream)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = arguments
    try:
        function()
    finally:
        atexit._run_exitfuncs()  # multiprocessing leaves them out


def _command() -> None:
    from dnabert2_jax.cli import main

    os.environ["COLUMNS"] = "120"
    main()


def _script() -> None:
    code, sys.argv[0] = sys.argv[0], "-c"
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
