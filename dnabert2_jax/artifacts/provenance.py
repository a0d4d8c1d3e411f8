"""The record of how an artifact was made."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from dnabert2_jax.version import installed_versions


def make_provenance(
    command: Sequence[str],
    *,
    run_config: Mapping[str, Any],
    parents: Mapping[str, str],
    metrics: Mapping[str, Any],
    training_data: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The record of how something was made.

    Args:
        command: the command line, one word per item.
        run_config: the complete settings of the run.
        parents: what it was made from, name to hash (``{"corpus": sha256, "base": sha256}``).
        metrics: the scores it reached.
        training_data: for a classifier, the ``shortest`` and ``longest`` row in bases, and whether rows are ``pairs``;
            omitted if unknown.

    Returns:
        A JSON-ready dict that also holds the date (UTC) and the versions in use.
    """
    return {
        "command": list(command),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": installed_versions(),
        "run_config": dict(run_config),
        "parents": dict(parents),
        "metrics": dict(metrics),
        **({"training_data": dict(training_data)} if training_data else {}),
    }
