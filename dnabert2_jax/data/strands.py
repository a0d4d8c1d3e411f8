"""The other strand."""

from dataclasses import replace

from dnabert2_jax.data.sequences import Sequences
from dnabert2_jax.data.tables import Table
from dnabert2_jax.genome.letters import COMPLEMENTS

_COMPLEMENT = str.maketrans(*COMPLEMENTS)


def reverse_complement(sequence: str) -> str:
    """The other strand of an upper-case sequence; an ambiguity code becomes that of the complements."""
    return sequence.translate(_COMPLEMENT)[::-1]


def other_strand_table(table: Table) -> Table:
    """A table with every sequence reverse-complemented; the two of a pair stay in their order."""
    pairs = None if table.pairs is None else list(map(reverse_complement, table.pairs))
    return replace(table, sequences=list(map(reverse_complement, table.sequences)), pairs=pairs)


def other_strand(sequences: Sequences) -> Sequences:
    """Sequences reverse-complemented; the two of a pair stay in their order."""
    pairs = None if sequences.pairs is None else list(map(reverse_complement, sequences.pairs))
    return replace(sequences, sequences=list(map(reverse_complement, sequences.sequences)), pairs=pairs)
