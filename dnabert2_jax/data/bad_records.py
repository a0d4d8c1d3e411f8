"""Unusable records: either one error names all of them, or they are skipped and counted."""

from collections.abc import Sequence

from dnabert2_jax.config.inference import BadRecordPolicy
from dnabert2_jax.errors import UserError

_MOST_NAMED = 10


class BadRecords:
    """Collects problems with the records of one source.

    Args:
        source: the file or other origin, with which messages begin.
        policy: ``error`` or ``skip``; None for callers that cannot skip records, so that messages do not offer it.
    """

    def __init__(self, source: str, policy: BadRecordPolicy | None) -> None:
        self._source, self._policy = source, policy
        self._messages: list[str] = []

    def add(self, error: UserError) -> None:
        """Add a bad record; its message begins with the source."""
        self._messages.append(str(error))

    def finish(self, records: int) -> tuple[str, ...]:
        """Report all of them at the end.

        Args:
            records: total number of records, good and bad.

        Returns:
            A note about the skipped records; empty if there are none.

        Raises:
            UserError: there are bad records and the policy is not to skip them, or no good records are left.
        """
        if not self._messages:
            return ()
        if self._policy == "skip" and len(self._messages) < records:
            return (f"{len(self._messages):,} of {records:,} records skipped: {_listed(self._source, self._messages)}",)
        remedy = "" if self._policy is None else "; or leave such records out with --bad-records skip"
        if self._policy == "skip":
            remedy = "; --bad-records skip leaves nothing to read"
        raise UserError(_described(self._source, self._messages, records) + remedy)


def refuse_records(source: str, errors: Sequence[UserError], records: int) -> None:
    """Raise one error that names all bad records, if there are any."""
    if errors:
        raise UserError(_described(source, [str(error) for error in errors], records))


def _described(source: str, messages: Sequence[str], records: int) -> str:
    if len(messages) == 1:
        return messages[0]
    advice = messages[0].partition("; ")[2]
    return f"{source}: {len(messages):,} of {records:,} records cannot be used: {_listed(source, messages)}; {advice}"


def _listed(source: str, messages: Sequence[str]) -> str:
    """The problems of the first few, without the advice that follows."""
    named = [message.removeprefix(f"{source}, ").partition("; ")[0] for message in messages[:_MOST_NAMED]]
    more = [f"and {len(messages) - _MOST_NAMED:,} more"] if len(messages) > _MOST_NAMED else []
    return "; ".join([*named, *more])
