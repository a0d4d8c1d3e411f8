"""Unusable records: either one error names all of them, or they are skipped and counted."""

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
        if not self.count:
            return ()
        if self._policy == "skip" and self.count < records:
            return (f"{self.count:,} of {records:,} records skipped: {self._listed()}",)
        remedy = "" if self._policy is None else "; or leave such records out with --bad-records skip"
        if self._policy == "skip":
            remedy = "; --bad-records skip leaves nothing to read"
        message = self._messages[0]
        if self.count > 1:
            counts = f"{self.count:,} of {records:,} records cannot be used"
            message = f"{self._source}: {counts}: {self._listed()}; {message.partition('; ')[2]}"
        raise UserError(message + remedy)

    def _listed(self) -> str:
        """The first problems, without the advice that follows."""
        named = [message.removeprefix(f"{self._source}, ").partition("; ")[0] for message in self._messages]
        more = [f"and {self.count - _MOST_NAMED:,} more"] if self.count > _MOST_NAMED else []
        return "; ".join([*named, *more])
