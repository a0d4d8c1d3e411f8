"""The exception that means "the user can fix this"."""

import difflib
from collections.abc import Iterable


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
    close = difflib.get_close_matches(word, list(accepted), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
