"""Find the columns of a table by name, tolerating common variants."""

import re
from dataclasses import dataclass, field

from dnabert2_jax.errors import UserError, nearest

_LOOKS_LIKE_DNA = re.compile(r"[ACGTN]{8,}", re.IGNORECASE)

_SYNONYMS = {"sequence": ("seq", "dna", "dnasequence"), "label": ("labels", "class", "target")}
"""Alternative names of the default columns, in normalized form."""

_OPTIONS = ("--sequence-column", "--label-column")


@dataclass(frozen=True)
class Header:
    """The header of a table.

    A column is matched by its exact name; or else by a name that differs only in case, spaces, ``_`` or ``-``; or else by
    another common name, such as ``seq``. Two matches at the same level are an error.

    Attributes:
        source: the file, for messages.
        names: names of the columns.
        expected: the columns that the header must have, for messages: that of sequences, and that of labels if needed.
        notes: which columns were matched under another name; grows as columns are looked up.
    """

    source: str
    names: list[str]
    expected: tuple[str, ...]
    notes: list[str] = field(default_factory=list)

    def has(self, name: str) -> bool:
        """Whether a column has this name or a variant of it.

        Raises:
            UserError: more than one does.
        """
        return self._find(name)[0] is not None

    def column(self, name: str, option: str = "") -> int:
        """The position of a column.

        Args:
            name: its name.
            option: the option that names it, for the message; known for the expected columns.

        Raises:
            UserError: no column matches, or more than one does.
        """
        at, _ = self._find(name)
        if at is None:
            option = option or dict(zip(self.expected, _OPTIONS, strict=False)).get(name, "")
            how = f" with {option}" if option else ""
            remedy = f"rename a column, or name the one to use{how}{nearest(name, self.names)}"
            if self.names and self.names[0].startswith((">", "@")):
                remedy = f"this looks like FASTA or FASTQ: give a table with the columns {', '.join(self.expected)}"
            elif any(_LOOKS_LIKE_DNA.fullmatch(each) for each in self.names):
                remedy = f"the first line holds a sequence: put the header line {','.join(self.expected)} before it"
            elif len(self.names) < len(self.expected):
                remedy = "separate the columns by commas, tabs or semicolons"
            raise UserError(
                f"{self.source}: no column {name!r}; the header has {', '.join(map(repr, self.names))}; {remedy}"
            )
        if self.names[at] != name:
            self.notes.append(f"column {self.names[at]!r} read as {name!r}")
        return at

    def sequence_columns(self, name: str) -> list[int]:
        """Positions of the sequence column, or of the two columns of pairs, which end in 1 and 2.

        Raises:
            UserError: there is neither, or the choice is ambiguous.
        """
        pair = [f"{name}1", f"{name}2"]
        single_level = self._find(name)[1]
        pair_level = min(self._find(each)[1] for each in pair)
        if single_level == pair_level and self._find(name)[0] is not None:
            raise UserError(
                f"{self.source}: the header has both {name!r} and {pair[0]!r} or {pair[1]!r}; keep one of the two layouts"
            )
        return [self.column(name)] if single_level <= pair_level else [self.column(each) for each in pair]

    def _find(self, name: str) -> tuple[int | None, int]:
        """A column's position, and how its name matches the requested one: 0 exactly, 1 as a variant, 2 as a synonym."""
        stem, digit = (name[:-1], name[-1]) if name[-1:] in "12" and name[:-1] in _SYNONYMS else (name, "")
        levels = (
            [at for at, own in enumerate(self.names) if own == name],
            [at for at, own in enumerate(self.names) if _plain(own) == _plain(name)],
            [at for at, own in enumerate(self.names) if _plain(own) in {s + digit for s in _SYNONYMS.get(stem, ())}],
        )
        for level, found in enumerate(levels):
            if len(found) > 1 and level == 0:
                raise UserError(f"{self.source}: {len(found)} columns are called {name!r}; rename all but one")
            if len(found) > 1:
                raise UserError(
                    f"{self.source}: the columns {' and '.join(repr(self.names[at]) for at in found)} could each be "
                    f"{name!r}; rename all but one, or name the one to use"
                )
            if found:
                return found[0], level
        return None, len(levels)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()
