"""What commands print on standard output, and the pages that they write beside their results."""

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dnabert2_jax.config.inference import STANDARD_STREAM
from dnabert2_jax.storage.overwriting import refuse_overwriting


def results() -> Console:
    """Standard output: as wide as the terminal, or wide enough not to shorten anything in a file or a pipe."""
    console = partial(Console, highlight=False, markup=False, emoji=False)
    return console() if sys.stdout.isatty() else console(force_terminal=False, width=200)


def print_table(records: Sequence[Mapping[str, str]], console: Console | None = None) -> None:
    """Print records that share their keys, which become the header."""
    table = Table(*records[0])
    for record in records:
        table.add_row(*record.values())
    (console or results()).print(table)


def print_saved(path: Path) -> None:
    """Print what was written, unless standard output holds the result itself."""
    if str(path) != STANDARD_STREAM:
        print(f"saved {path}")


def check_page(page: Path | None, *, force: bool) -> None:
    """Check before the work that an HTML page, if one is wanted, can be written after it."""
    from dnabert2_jax.inference.output import check_output

    if page is not None:
        check_output(page, (".html",))
        refuse_overwriting(page, force=force)
