"""The ``dnabert2`` command: one module for each command or group of commands.

``app`` is the root, ``options`` what commands share, ``output`` the tables they print, and ``failures`` how they end. Heavy
imports (jax, flax, orbax) stay inside the commands, so that ``dnabert2 --help`` answers at once.
"""

import logging
import os
import sys
from importlib import import_module
from typing import NoReturn

from dnabert2_jax.cli.app import app
from dnabert2_jax.cli.failures import exit_code
from dnabert2_jax.compilation_cache import keep_compiled_programs

__all__ = ["app", "main"]

COMMANDS = (
    *("quickstart", "corpus", "tokenizer", "pretrain", "split", "finetune", "calibrate", "sweep", "inference"),
    *("variants", "track", "explain", "report", "gue", "adapters", "convert", "config", "doctor", "flops"),
)
"""Modules of commands, in the order of the help page."""

for _name in COMMANDS:  # each adds its own to the root
    import_module(f"{__name__}.{_name}")


def main() -> NoReturn:
    """Run the command line: a user's error is one line on standard error and exit code 2."""
    keep_compiled_programs()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    code = exit_code(lambda: app(prog_name="dnabert2", standalone_mode=False))
    try:
        sys.stdout.flush()
    except OSError:  # reported already; the interpreter must not fail on it again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
