"""Names are told apart by few bits, and a repeat is still found with its record."""

import pytest

from dnabert2_jax.errors import UserError
from dnabert2_jax.genome import names
from dnabert2_jax.genome.names import UniqueNames


def test_repeats_are_found_among_recent_and_older_names(monkeypatch):
    monkeypatch.setattr(names, "_RECENT", 16)
    given = [f"read{number}" for number in range(100)]
    for repeated in (0, 15, 16, 95, 99):
        unique = UniqueNames("x.fa", None, lambda name: given.index(name) + 1)
        assert [unique.unique(name, number) for number, name in enumerate(given, start=1)] == given
        with pytest.raises(
            UserError, match=rf"record 101: the name 'read{repeated}' is also that of record {repeated + 1};"
        ):
            unique.unique(f"read{repeated}", 101)


def test_equal_hashes_of_different_names_are_no_repeat():
    class Name(str):
        def __hash__(self) -> int:
            return 1

    given = [Name("a"), Name("b"), Name("c")]
    unique = UniqueNames("x.fa", None, lambda name: given.index(name) + 1)
    assert [unique.unique(name, number) for number, name in enumerate(given, start=1)] == given
