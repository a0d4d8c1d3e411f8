"""The root of the ``dnabert2`` command, to which every module of this package adds its commands."""

from typing import Annotated

import typer

from dnabert2_jax.version import __version__

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help: at 80 columns, boxes break words, and mark-up swallows text in brackets
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    help="DNABERT-2 in JAX: pretrain, fine-tune and use a DNA language model.",
    epilog="Example: dnabert2 quickstart --workdir runs/quickstart",
)


def group(name: str, help_text: str) -> typer.Typer:
    """A group of commands, ``dnabert2 NAME ...``."""
    commands = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=help_text)
    app.add_typer(commands, name=name)
    return commands


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"dnabert2_jax {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """DNABERT-2 in JAX: pretrain, fine-tune and use a DNA language model."""
