"""The ``dnabert2`` command: one module for each group of commands.

Heavy imports (jax, flax, orbax) stay inside the commands, so that ``dnabert2 --help`` answers at once.
"""

import errno
import logging
import os
import sys
from collections.abc import Callable
from typing import NoReturn

import typer

from dnabert2_jax.cli import convert, data, gue, manage, train, use
from dnabert2_jax.compilation_cache import keep_compiled_programs
from dnabert2_jax.errors import UserError

_INTERRUPTED = 130
_CLOSED = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
"""Errors of the system that no code can mend: a full disk, a place without the right to write."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="DNABERT-2 in JAX: pretrain, fine-tune and use a DNA language model.",
)
app.add_typer(data.tokenizer, name="tokenizer")
app.add_typer(data.corpus, name="corpus")
app.add_typer(train.commands)
app.add_typer(use.commands)
app.add_typer(convert.convert, name="convert")
app.add_typer(gue.gue, name="gue")
app.add_typer(gue.commands)
app.add_typer(manage.adapters, name="adapters")
app.add_typer(manage.config, name="config")
app.add_typer(manage.commands)


def main() -> NoReturn:
    """Run the command line: a user's error is one line on standard error and exit code 2."""
    keep_compiled_programs()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    code = _run(lambda: app(prog_name="dnabert2", standalone_mode=False))
    try:
        sys.stdout.flush()
    except OSError:  # said already; without a place to go, what is left cannot disturb the interpreter's end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _run(command: Callable[[], int | None]) -> int:
    """The code to end with: what Typer returns (of Ctrl-C 130), or that of the error that was said."""
    try:
        try:
            code = command()
        finally:
            sys.stdout.flush()  # a full disk shows here at the latest
        if code == _INTERRUPTED:
            _say("interrupted; the same command again goes on from the last checkpoint of a run, or starts anew")
        return code or 0
    except UserError as error:
        _say(str(error))
    except typer.TyperException as error:  # a command line that Typer cannot read
        if usage := error.format_message():  # empty where the help page was wanted, which is printed already
            _say(_with_advice(usage, error))
    except BrokenPipeError:  # who reads has seen enough, as in `dnabert2 ... | head`
        return 1
    except Exception as error:
        if (explanation := _explain(error)) is None:
            raise
        _say(explanation)
    return 2


def _with_advice(usage: str, error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "dnabert2"
    usage = usage.replace("Value error, ", "").rstrip(".")
    return f"{usage}; {path} --help lists what is accepted"


def _say(message: str) -> None:
    print("dnabert2:", *message.splitlines(), file=sys.stderr)


def _explain(error: Exception) -> str | None:
    """What to do about a machine that is too small or a place that is closed; None where the fault is the program's."""
    what = (str(error) or type(error).__name__).splitlines()[0]
    jax = sys.modules.get("jax")
    of_device = jax is not None and isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in what
    if of_device or isinstance(error, MemoryError):
        return (
            f"not enough memory ({what}); make batches smaller: of a run by training.batch_size (in another --workdir), or "
            "in more parts by training.accumulate (the same one goes on), else by --batch-tokens, --batch-size or "
            "--sample-bases"
        )
    if isinstance(error, OSError) and error.errno in _CLOSED:
        place = error.filename or "the output"
        return f"{place} could not be used ({error.strerror}); make room or choose another place, and run it again"
    return None
