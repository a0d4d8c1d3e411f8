"""Sequences in input order: cleaned by the letters policy, each with its name and, in a labeled table, its label."""

from collections.abc import Hashable, Iterable, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.data.bad_records import BadRecords
from dnabert2_jax.errors import UserError, counted
from dnabert2_jax.genome.letters import COMPLEMENTS, LetterCounts, clean_letters
from dnabert2_jax.storage.paths import as_path

_COMPLEMENT = str.maketrans(*COMPLEMENTS)


@dataclass(frozen=True)
class Sequences:
    """Clean sequences, or pairs of them, in input order.

    Attributes:
        source: the file or other origin, for messages.
        names: name of each sequence.
        sequences: upper-case letters of each; the first sequence where rows are pairs.
        pairs: the second sequence of each row, or None.
        letters: letter counts and changes of the letters policy, both sequences together.
        notes: other assumptions made or records skipped while reading.
        columns: the other columns of an unlabeled table, by name. [sequences] each.
    """

    source: str
    names: list[str]
    sequences: list[str]
    pairs: list[str] | None
    letters: LetterCounts
    notes: tuple[str, ...] = field(default=(), kw_only=True)
    columns: dict[str, list[str]] = field(default_factory=dict, kw_only=True)

    def __len__(self) -> int:
        """Number of sequences (or pairs)."""
        return len(self.sequences)

    def row_bases(self) -> list[int]:
        """Bases of each row, both sequences of a pair together."""
        seconds = self.pairs if self.pairs is not None else [""] * len(self)
        return [len(a) + len(b) for a, b in zip(self.sequences, seconds, strict=True)]

    def where(self, row: int) -> str:
        """Source and name of a sequence, for messages."""
        return f"{self.source}, {self.names[row]!r}"

    def keys(self) -> list[Hashable]:
        """The letters of each row: its sequence, or its pair."""
        return list(self.sequences if self.pairs is None else zip(self.sequences, self.pairs, strict=True))

    def summary(self) -> str:
        """A line about what was read and changed, for the terminal."""
        rows = counted(len(self), "sequence" if self.pairs is None else "pair")
        return "; ".join([f"{self.source}: {rows}, {self.letters.bases:,} bases", *self.changes()])

    def changes(self) -> list[str]:
        """What the letters policy changed, and assumptions made, for the terminal; often empty."""
        return [*self.letters.changes(), *self.notes]


@dataclass(frozen=True)
class Table(Sequences):
    """The labeled rows of one file.

    Attributes:
        labels: labels as written.
        lines: line of the file on which each row starts, from 1.
    """

    labels: list[str]
    lines: list[int]

    @property
    def path(self) -> Path:
        """The file."""
        return as_path(self.source)

    def take(self, rows: SequenceOf[int] | NDArray[np.integer]) -> "Table":
        """A subset of the rows, with their lines in the file."""
        return replace(
            self,
            names=[self.names[row] for row in rows],
            sequences=[self.sequences[row] for row in rows],
            pairs=None if self.pairs is None else [self.pairs[row] for row in rows],
            labels=[self.labels[row] for row in rows],
            lines=[self.lines[row] for row in rows],
        )

    def where(self, row: int) -> str:
        """File and line of a row, for messages."""
        return f"{self.source}, line {self.lines[row]}"


AnySequences = TypeVar("AnySequences", bound=Sequences)


GivenSequences = Iterable[str] | Mapping[Any, str]
"""Sequences from Python: a list, array, generator or pandas Series of them, or a dict from names."""


def given_sequences(
    sequences: GivenSequences, pairs: Iterable[str] | None = None, names: Iterable[str] | None = None
) -> Sequences:
    """Sequences from Python, cleaned by the letters policy.

    Args:
        sequences: DNA in either case, IUPAC codes allowed.
        pairs: the second sequence of each pair, if rows are pairs.
        names: a name for each; by default the keys of a dict, the index of a Series, or else numbers from 1.

    Raises:
        UserError: there are no sequences, a table was given instead of a column, or lists differ in length; or a sequence is
            missing, empty, not text or holds a letter that is not DNA (the message names all such rows).
    """
    keys, firsts = _keys_and_values("sequences", sequences)
    _, seconds = (None, None) if pairs is None else _keys_and_values("pairs", pairs)
    if names is not None:
        chosen = [str(name) for name in _keys_and_values("names", names)[1]]
    else:
        chosen = [str(n) for n in range(1, len(firsts) + 1)] if keys is None else [str(key) for key in keys]
    for argument, values in (("pairs", seconds), ("names", chosen)):
        if values is not None and len(values) != len(firsts):
            raise UserError(f"{len(values)} {argument} for {len(firsts)} sequences; give one for each")
    if not firsts:
        raise UserError("there are no sequences; give at least one")
    letters, bad = LetterCounts(), BadRecords("sequences", None)
    cleaned: dict[str, list[str]] = {}
    for argument, values in (("sequences", firsts), ("pairs", seconds)):
        for n, text in enumerate(values or ()):
            row = f"{argument}[{n if keys is None else keys[n]!r}]"
            try:
                if not isinstance(text, str | bytes):
                    raise UserError(f"{row} is {text!r}, not text; fill in the sequence or drop the row")
                cleaned.setdefault(argument, []).append(clean_sequence(text, letters, "", row))
            except UserError as error:
                bad.add(error)
    bad.finish(len(firsts))
    return Sequences("sequences", chosen, cleaned["sequences"], cleaned.get("pairs"), letters)


def _keys_and_values(argument: str, values: Any) -> tuple[list[Any] | None, list[Any]]:
    """The keys of a collection, if it has any, and its values."""
    if isinstance(values, str | bytes):
        raise UserError(f"{argument} is a single string; give a list of strings: [{argument}]")
    if hasattr(values, "columns"):  # a DataFrame of pandas or polars, or a table of Arrow
        columns = [str(name) for name in getattr(values, "column_names", values.columns)]
        likely = next((name for name in columns if "seq" in name.casefold() or "dna" in name.casefold()), columns[0])
        raise UserError(
            f"{argument} is a {type(values).__name__} with the columns {', '.join(map(repr, columns))}; give the one with "
            f"the sequences, such as frame[{likely!r}]"
        )
    if isinstance(values, Mapping):
        return list(values), list(values.values())
    index = getattr(values, "index", None)
    return None if index is None or callable(index) else list(index), list(values)


def clean_sequence(text: str | bytes, letters: LetterCounts, source: str, record: str) -> str:
    """One sequence after the letters policy, counted in ``letters``.

    Args:
        text: letters as given.
        letters: the counts to add to.
        source: the file, for the error message; empty if the record's name says it all.
        record: record name or row number, for the error message.

    Raises:
        UserError: it is empty, or holds a letter that is not DNA.
    """
    if not text:
        where = f"{source}, {record}" if source else record
        raise UserError(f"{where}: the sequence is empty; fill it in or remove it")
    clean, counts = clean_letters(text, source=source, record=record)
    letters.add(counts)
    return clean.tobytes().decode("ascii")


def reverse_complement(sequence: str) -> str:
    """The reverse complement of an upper-case sequence; an ambiguity code becomes the code of the complements."""
    return sequence.translate(_COMPLEMENT)[::-1]


def other_strand(sequences: AnySequences) -> AnySequences:
    """The same sequences (or table), reverse-complemented; the sequences of a pair keep their order."""
    pairs = None if sequences.pairs is None else list(map(reverse_complement, sequences.pairs))
    return replace(sequences, sequences=list(map(reverse_complement, sequences.sequences)), pairs=pairs)
