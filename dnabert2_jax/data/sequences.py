"""Sequences as they were given: cleaned by the letters policy, each with its name, and in a table each with its label."""

from collections.abc import Hashable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.letters import COMPLEMENTS, LetterCounts, clean_letters

_COMPLEMENT = str.maketrans(*COMPLEMENTS)


@dataclass(frozen=True)
class Sequences:
    """Clean sequences, or pairs of them, in the order they were given.

    Attributes:
        source: the file, or what else they came from, for messages.
        names: name of each sequence.
        sequences: upper-case letters of each; the first sequence where rows are pairs.
        pairs: the second sequence of each row, or None.
        letters: what the letters policy saw and changed, both sequences together.
        notes: what else was taken for granted, or left out, in reading them.
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
        """Source and name of a sequence, for a message."""
        return f"{self.source}, {self.names[row]!r}"

    def keys(self) -> list[Hashable]:
        """The letters of each row: its sequence, or its pair."""
        return list(self.sequences if self.pairs is None else zip(self.sequences, self.pairs, strict=True))

    def summary(self) -> str:
        """One line about what was read and changed, for the terminal."""
        unit = ("sequence" if self.pairs is None else "pair") + "s" * (len(self) != 1)
        return "; ".join([f"{self.source}: {len(self):,} {unit}, {self.letters.bases:,} bases", *self.changes()])

    def changes(self) -> list[str]:
        """What the letters policy changed, and what was taken for granted, for the terminal; often nothing."""
        changed = [f"{self.letters.lower_case:,} lower-case letters upper-cased"] if self.letters.lower_case else []
        if ambiguous := sum(self.letters.ambiguous.values()):
            changed.append(f"{ambiguous:,} ambiguity codes read as [UNK]")
        return [*changed, *self.notes]


@dataclass(frozen=True)
class Table(Sequences):
    """The labeled rows of one file.

    Attributes:
        labels: labels as they are written.
        lines: line of the file each row starts on, from 1.
        ignored_columns: columns of the file that were not asked for.
    """

    labels: list[str]
    lines: list[int]
    ignored_columns: tuple[str, ...]

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.source)

    def take(self, rows: SequenceOf[int] | NDArray[np.integer]) -> "Table":
        """Some rows, with their lines in the file."""
        return replace(
            self,
            names=[self.names[row] for row in rows],
            sequences=[self.sequences[row] for row in rows],
            pairs=None if self.pairs is None else [self.pairs[row] for row in rows],
            labels=[self.labels[row] for row in rows],
            lines=[self.lines[row] for row in rows],
        )

    def where(self, row: int) -> str:
        """File and line of a row, for a message."""
        return f"{self.source}, line {self.lines[row]}"


AnySequences = TypeVar("AnySequences", bound=Sequences)


def given_sequences(
    sequences: SequenceOf[str], pairs: SequenceOf[str] | None = None, names: SequenceOf[str] | None = None
) -> Sequences:
    """Sequences from Python, cleaned by the letters policy.

    Args:
        sequences: DNA in either case, IUPAC codes allowed.
        pairs: the second sequence of each pair, if rows are pairs.
        names: a name for each; by default the numbers from 1.

    Raises:
        UserError: none, an empty one, a letter that is not DNA, or lists of unequal length.
    """
    for argument, values in (("sequences", sequences), ("pairs", pairs), ("names", names)):
        if isinstance(values, str):
            raise UserError(f"{argument} is one text; give a list of them: [{argument}]")
        if values is not None and len(values) != len(sequences):
            raise UserError(f"{len(values)} {argument} for {len(sequences)} sequences; give one for each")
    if not len(sequences):
        raise UserError("there are no sequences; give at least one")
    letters = LetterCounts()
    firsts = [clean_sequence(text, letters, "sequences", f"sequences[{n}]") for n, text in enumerate(sequences)]
    seconds = None
    if pairs is not None:
        seconds = [clean_sequence(text, letters, "pairs", f"pairs[{n}]") for n, text in enumerate(pairs)]
    chosen = [str(n + 1) for n in range(len(firsts))] if names is None else list(names)
    return Sequences("sequences", chosen, firsts, seconds, letters)


def clean_sequence(text: str | bytes, letters: LetterCounts, source: str, record: str) -> str:
    """One sequence after the letters policy, counted in ``letters``.

    Args:
        text: letters as they came.
        letters: the counts to add to.
        source: file, or what else it came from, for the error message.
        record: record name or row number, for the error message.

    Raises:
        UserError: it is empty, or holds a letter that is not DNA.
    """
    if not text:
        raise UserError(f"{source}, {record}: the sequence is empty; fill it in or remove it")
    clean, counts = clean_letters(text, source=source, record=record)
    letters.add(counts)
    return clean.tobytes().decode("ascii")


def reverse_complement(sequence: str) -> str:
    """The other strand of an upper-case sequence; an ambiguity code becomes that of the complements."""
    return sequence.translate(_COMPLEMENT)[::-1]


def other_strand(sequences: AnySequences) -> AnySequences:
    """The same sequences (or table) reverse-complemented; the two of a pair keep their order."""
    pairs = None if sequences.pairs is None else list(map(reverse_complement, sequences.pairs))
    return replace(sequences, sequences=list(map(reverse_complement, sequences.sequences)), pairs=pairs)
