"""What a run was fed, counted: rows, lengths, letters, duplicates, and rows that two tables share.

A score on a test table that repeats training rows, or that contradicts itself, says less than it seems to; these are the
counts that a reader needs to judge it by.
"""

from collections.abc import Hashable, Mapping
from dataclasses import asdict
from itertools import combinations
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.data.encoding import EncodedTable
from dnabert2_jax.data.labels import Labels
from dnabert2_jax.data.sequences import Table
from dnabert2_jax.data.splits import Splits
from dnabert2_jax.genome.corpus import Corpus

_MOST_LINES = 5


class TableReport(TypedDict):
    """One table; sequences are compared after the letters policy, pairs as pairs.

    Attributes:
        path: the file.
        rows: its rows.
        label_counts: rows by label, in the order of the classes; empty where labels are measurements.
        measurements: their mean, standard deviation, smallest and largest; empty where labels are classes.
        bases: letters of all sequences.
        shortest, median, longest: bases of a row, both sequences of a pair together.
        lower_case: letters that were upper-cased.
        ambiguous: IUPAC codes by letter, each read as [UNK].
        token_lengths: (tokens of a row without a limit, rows of that length), ascending.
        truncated_rows: rows cut to ``max_tokens``.
        tokens_lost: tokens cut off, over all rows.
        duplicate_rows: rows whose sequence an earlier row has.
        contradictory_sequences: sequences that occur with more than one label.
        contradictory_lines: the first lines of the file with such a sequence.
    """

    path: str
    rows: int
    label_counts: dict[str, int]
    measurements: dict[str, float]
    bases: int
    shortest: int
    median: int
    longest: int
    lower_case: int
    ambiguous: dict[str, int]
    token_lengths: list[list[int]]
    truncated_rows: int
    tokens_lost: int
    duplicate_rows: int
    contradictory_sequences: int
    contradictory_lines: list[int]


class SharedRows(TypedDict):
    """Rows of one table whose sequence another one has too.

    Attributes:
        earlier, later: names of the two tables.
        rows: rows of the later table whose sequence is in the earlier one.
        contradictory_rows: those among them whose label the earlier table never gives that sequence.
        lines: the first such lines (of shared rows) in the later table.
    """

    earlier: str
    later: str
    rows: int
    contradictory_rows: int
    lines: list[int]


class TablesReport(TypedDict):
    """The tables of a fine-tuning run.

    Attributes:
        max_tokens: longest row, special tokens included.
        tables: by name (train, dev, test).
        shared: for each two of them.
    """

    max_tokens: int
    tables: dict[str, TableReport]
    shared: list[SharedRows]


def tables_report(splits: Splits, encoded: Mapping[str, EncodedTable]) -> TablesReport:
    """Count what is in the three tables of a task.

    Args:
        splits: the tables.
        encoded: the same as token ids, by name: ``train``, ``dev`` and ``test``.
    """
    tables = {"train": splits.train, "dev": splits.dev, "test": splits.test}
    labels = {name: _labels_by_sequence(table, encoded[name]) for name, table in tables.items()}
    return TablesReport(
        max_tokens=encoded["train"].max_tokens,
        tables={name: _table_report(table, encoded[name], labels[name], splits.labels) for name, table in tables.items()},
        shared=[_shared(a, b, labels[a], tables[b], encoded[b]) for a, b in combinations(tables, 2)],
    )


def notes_on(data: TablesReport) -> list[str]:
    """What a reader of the scores must know: rows cut, labels that contradict each other, test rows seen before."""
    notes = []
    cut = {name: table for name, table in data["tables"].items() if table["truncated_rows"]}
    if cut:
        rows = ", ".join(f"{table['truncated_rows']:,} of {table['rows']:,} {name} rows" for name, table in cut.items())
        longest = max(table["token_lengths"][-1][0] for table in cut.values())
        notes.append(f"Cut to {data['max_tokens']:,} tokens: {rows}; data.max_tokens {longest:,} keeps everything.")
    for name, table in data["tables"].items():
        if table["contradictory_sequences"]:
            lines = ", ".join(map(str, table["contradictory_lines"]))
            more = ", …" if len(table["contradictory_lines"]) == _MOST_LINES else ""
            notes.append(
                f"{table['contradictory_sequences']:,} sequences of the {name} table have more than one label (lines "
                f"{lines}{more}): no model can be right on all of them."
            )
    for pair in data["shared"]:
        if pair["rows"] and pair["later"] == "test":
            notes.append(
                f"{pair['rows']:,} test rows are in the {pair['earlier']} table too, {pair['contradictory_rows']:,} of them "
                "with another label: the test scores are not those of unseen sequences alone."
            )
    return notes


def corpus_report(corpus: Corpus) -> dict[str, Any]:
    """The corpus of a pretraining run: its hash, how it was built, and the counts of every species."""
    return {
        "path": str(corpus.path),
        "hash": corpus.hash,
        "settings": asdict(corpus.manifest.settings),
        "species": [asdict(species) for species in corpus.species],
    }


def _said(encoded: EncodedTable) -> list[bytes]:
    """Labels to compare: ``a;b`` and ``b;a`` are the same labels, 0.5 and 0.50 the same number."""
    return [label.tobytes() for label in encoded.labels]


def _labels_by_sequence(table: Table, encoded: EncodedTable) -> dict[Hashable, set[bytes]]:
    labels: dict[Hashable, set[bytes]] = {}
    for sequence, label in zip(table.keys(), _said(encoded), strict=True):
        labels.setdefault(sequence, set()).add(label)
    return labels


def _table_report(table: Table, encoded: EncodedTable, labels: dict[Hashable, set[bytes]], classes: Labels) -> TableReport:
    bases = np.array([len(sequence) for sequence in table.sequences])
    if table.pairs is not None:
        bases = bases + np.array([len(sequence) for sequence in table.pairs])
    lengths, rows = np.unique(encoded.full_lengths, return_counts=True)
    contradictory = [n for n, sequence in enumerate(table.keys()) if len(labels[sequence]) > 1]
    return TableReport(
        path=str(table.path),
        rows=len(table),
        label_counts=classes.counts(table),
        measurements=_measurements(encoded.labels) if classes.head.task == "regression" else {},
        bases=table.letters.bases,
        shortest=int(bases.min()),
        median=int(np.median(bases)),
        longest=int(bases.max()),
        lower_case=table.letters.lower_case,
        ambiguous=dict(sorted(table.letters.ambiguous.items())),
        token_lengths=[[int(length), int(count)] for length, count in zip(lengths, rows, strict=True)],
        truncated_rows=encoded.truncated_rows,
        tokens_lost=int((encoded.full_lengths - encoded.lengths).sum()),
        duplicate_rows=len(table) - len(labels),
        contradictory_sequences=sum(len(found) > 1 for found in labels.values()),
        contradictory_lines=[table.lines[row] for row in contradictory[:_MOST_LINES]],
    )


def _measurements(values: NDArray[np.floating]) -> dict[str, float]:
    wide = values.astype(np.float64)
    return {
        "mean": float(wide.mean()),
        "standard deviation": float(wide.std()),
        "smallest": float(wide.min()),
        "largest": float(wide.max()),
    }


def _shared(earlier: str, later: str, labels: dict[Hashable, set[bytes]], table: Table, encoded: EncodedTable) -> SharedRows:
    sequences, said = table.keys(), _said(encoded)
    shared = [row for row, sequence in enumerate(sequences) if sequence in labels]
    return SharedRows(
        earlier=earlier,
        later=later,
        rows=len(shared),
        contradictory_rows=sum(said[row] not in labels[sequences[row]] for row in shared),
        lines=[table.lines[row] for row in shared[:_MOST_LINES]],
    )
