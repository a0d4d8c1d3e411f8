"""Unique record names in a few bytes each: files of reads may have many millions."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.config.inference import DuplicateNames
from dnabert2_jax.errors import UserError

_RECENT = 65_536


class UniqueNames:
    """The names of the records read so far.

    Only a 64-bit hash of each name is stored (the full name if repeats are numbered), so an apparent repeat is looked up
    in the file.

    Args:
        source: the file, for messages.
        policy: what to do with repeated names; None means ``error`` for callers that do not offer numbering.
        find: reads the number of the first record with a given name from the file.
    """

    def __init__(self, source: str, policy: DuplicateNames | None, find: Callable[[str], int]) -> None:
        self._source, self._policy, self._find = source, policy, find
        self._hashes = _Hashes()
        self._records: dict[str, int] = {}
        self._occurrences: dict[str, int] = {}
        self._given = set[str]()

    def unique(self, name: str, number: int) -> str:
        """The name of record ``number``, as given or numbered.

        Raises:
            UserError: an earlier record has the same name.
        """
        if self._policy == "number":
            return self._numbered(name, number)
        if self._hashes.add(hash(name)) and (earlier := self._find(name)) < number:
            raise self._repeated(f"the name {name!r}", number, earlier)
        return name

    def _numbered(self, name: str, number: int) -> str:
        wanted = name
        if name in self._records and name not in self._given:
            self._occurrences[name] = self._occurrences.get(name, 1) + 1
            name = f"{wanted}_{self._occurrences[wanted]}"
            self._given.add(name)
        if name in self._records:
            which = f"the name {name!r}" if name == wanted else f"{wanted!r}, numbered {name!r},"
            raise self._repeated(which, number, self._records[name])
        self._records[name] = number
        return name

    def _repeated(self, which: str, number: int, earlier: int) -> UserError:
        remedy = "rename or remove one of the two"
        if self._policy == "error":
            remedy += ", or have repeats numbered with --duplicate-names number"
        return UserError(
            f"{self._source}, record {number}: {which} is also that of record {earlier}; names (the first word of a header) "
            f"must be unique: {remedy}"
        )


class _Hashes:
    """A set of 64-bit numbers, eight bytes each."""

    def __init__(self) -> None:
        self._recent = set[int]()
        self._sorted: NDArray[np.int64] = np.empty(0, np.int64)

    def add(self, number: int) -> bool:
        """Add a number; returns whether it was in the set already."""
        at = int(self._sorted.searchsorted(number))
        if number in self._recent or (at < len(self._sorted) and self._sorted[at] == number):
            return True
        self._recent.add(number)
        if len(self._recent) == _RECENT:
            recent = np.sort(np.fromiter(self._recent, np.int64, _RECENT))
            self._sorted = np.insert(self._sorted, self._sorted.searchsorted(recent), recent)
            self._recent.clear()
        return False
