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

    Attributes:
        count: bad records so far.
    """

    count: int

    def __init__(self, source: str, policy: BadRecordPolicy | None) -> None:
        self._source, self._policy = source, policy
        self._messages: list[str] = []
        self.count = 0

    def add(self, error: UserError) -> None:
        """Add a bad record; its message begins with the source."""
        self.count += 1
        if self.count <= _MOST_NAMED:
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
        listed = _listed(self._source, self._messages, self.count)
        if self._policy == "skip" and self.count < records:
            return (f"{self.count:,} of {records:,} records skipped: {listed}",)
        remedy = "" if self._policy is None else "; or leave such records out with --bad-records skip"
        if self._policy == "skip":
            remedy = "; --bad-records skip leaves nothing to read"
        raise UserError(_described(self._source, self._messages, self.count, records) + remedy)


def refuse_records(source: str, errors: Sequence[UserError], records: int) -> None:
    """Raise one error that names all bad records, if there are any."""
    if errors:
        raise UserError(_described(source, [str(error) for error in errors], len(errors), records))


def _described(source: str, messages: Sequence[str], count: int, records: int) -> str:
    if count == 1:
        return messages[0]
    advice = messages[0].partition("; ")[2]
    return f"{source}: {count:,} of {records:,} records cannot be used: {_listed(source, messages, count)}; {advice}"


def _listed(source: str, messages: Sequence[str], count: int) -> str:
    """The problems of the first few of ``count``, without the advice that follows."""
    named = [message.removeprefix(f"{source}, ").partition("; ")[0] for message in messages[:_MOST_NAMED]]
    more = [f"and {count - _MOST_NAMED:,} more"] if count > _MOST_NAMED else []
    return "; ".join([*named, *more])
