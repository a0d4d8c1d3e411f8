"""The ``dnabert2`` command: one module for each group of commands.

Heavy imports (jax, flax, orbax) stay inside the commands, so that ``dnabert2 --help`` answers at once.
"""

import logging
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import typer

from dnabert2_jax.cli import data, manage, train, use
from dnabert2_jax.errors import UserError

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
app.add_typer(manage.adapters, name="adapters")
app.add_typer(manage.config, name="config")
app.add_typer(manage.commands)


def main() -> NoReturn:
    """Run the command line: a user's error is one line on standard error and exit code 2."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    sys.exit(_run(app))


def _run(command: Callable[[], Any]) -> int:
    try:
        command()
    except UserError as error:
        print(f"dnabert2: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("dnabert2: interrupted", file=sys.stderr)
        return 130
    return 0
