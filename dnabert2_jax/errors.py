"""The exception that means "the user can fix this"."""

import difflib
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """Bad input, a bad option, or a damaged file.

    The message names what was read (file, record, row or key), the value found, what is accepted, and what to do.
    The command line prints it as one line and exits with code 2; nothing else is caught.
    """


class WrongTaskError(UserError):
    """Labels that are valid for another task (``data.task``), which the message names."""


def nearest(word: str, accepted: Iterable[str]) -> str:
    """A hint such as `` (did you mean 'hidden_size'?)``, or an empty string if nothing is close.

    Args:
        word: what the user wrote.
        accepted: the words that would have been valid.
    """
    close = difflib.get_close_matches(word, list(accepted), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def counted(number: int, unit: str) -> str:
    """A number of things, such as ``1 row`` or ``2,000 rows``."""
    return f"{number:,} {unit}{'s' * (number != 1)}"


def listed(names: Sequence[str], most: int) -> str:
    """Names separated by commas, the first ``most`` of them: ``a, b and 3 more``."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")
