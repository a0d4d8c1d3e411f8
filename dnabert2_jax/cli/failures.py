"""How a command ends: a user's error is one line on standard error and exit code 2; a bug keeps its traceback."""

import errno
import sys
import traceback
from collections.abc import Callable

import typer

from dnabert2_jax.errors import UserError, first_line
from dnabert2_jax.storage.paths import BucketError, explain

_INTERRUPTED = 130
_RESUME = (
    "interrupted; rerun the same command: a run resumes from its last checkpoint, predict, embed and variants from what "
    "they have written, and anything else starts over"
)
_ENVIRONMENT = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
"""System errors that no code can fix: a full disk, or a place without write permission."""


def exit_code(command: Callable[[], int | None]) -> int:
    """Run a command; its exit code is what Typer returns (130 after Ctrl-C), or that of the error that was reported."""
    try:
        try:
            code = command()
        finally:
            sys.stdout.flush()  # a full disk is detected here at the latest
        if code == _INTERRUPTED:
            _report(_RESUME)
        return code or 0
    except typer.TyperException as error:  # a command line that Typer cannot parse
        if usage := error.format_message():  # empty if help was wanted, which is printed already
            _report(_with_advice(usage, error))
    except BrokenPipeError:  # the reader has seen enough, as in `dnabert2 ... | head`
        return 1
    except Exception as error:
        if _explain(error) is None:
            raise
        return report(error)
    return 2


def report(error: BaseException) -> int:
    """Show an error as a command that ends with it does; returns the exit code. A bug keeps its traceback."""
    if isinstance(error, KeyboardInterrupt):
        _report(_RESUME)
        return _INTERRUPTED
    if (explanation := _explain(error)) is None:
        traceback.print_exception(error)
        return 1
    _report(explanation)
    return 2


def _with_advice(usage: str, error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "dnabert2"
    usage = usage.replace("Value error, ", "").rstrip(".")
    return f"{usage}; {path} --help lists what is accepted"


def _report(message: str) -> None:
    print("dnabert2:", *message.splitlines(), file=sys.stderr)


def _explain(error: BaseException) -> str | None:
    """What the user can do about an error; None if it is a bug."""
    if isinstance(error, UserError):
        return str(error)
    what = first_line(error)
    jax = sys.modules.get("jax")
    of_device = jax is not None and isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in what
    if of_device or isinstance(error, MemoryError):
        return (
            f"out of memory ({what}); use smaller batches: for a run, training.batch_size (in another --workdir) or more "
            "microbatches with training.accumulate (resumes the same one), otherwise --batch-tokens, --batch-size or "
            "--sample-bases"
        )
    if isinstance(error, BucketError):
        return str(error)
    if isinstance(error, OSError) and error.errno in _ENVIRONMENT:
        place = error.filename or "the output"
        return f"{place} could not be used ({error.strerror}); make room or choose another place, and rerun"
    if (reason := explain(error)) is not None:
        return f"a request to a bucket failed: {reason}"
    return None
