"""Checks of a task's tables: rows, lengths, letters, duplicates, contradictory labels, and rows shared between tables.

A score on a test table that repeats training rows or contradicts itself is less meaningful than it seems; these are the
counts needed to judge it.
"""

from collections.abc import Hashable, Mapping
from itertools import combinations
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.data.encoding import EncodedTable
from dnabert2_jax.data.labels import Labels
from dnabert2_jax.data.sequences import Table
from dnabert2_jax.data.splits import Splits

_MAX_LINES = 5


class TableReport(TypedDict):
    """Counts for one table; sequences are compared after the letters policy, pairs as pairs.

    Attributes:
        path: the file.
        rows: number of rows.
        label_counts: rows by label, in the order of the classes; empty if labels are measurements.
        measurements: their mean, standard deviation, minimum and maximum; empty if labels are classes.
        bases: total letters of all sequences.
        shortest, median, longest: bases per row, both sequences of a pair together.
        lower_case: letters that were upper-cased.
        ambiguous: IUPAC codes by letter, each read as [UNK].
        token_lengths: (tokens per row before truncation, rows of that length), ascending.
        truncated_rows: rows truncated to ``max_tokens``.
        tokens_lost: tokens truncated, over all rows.
        duplicate_rows: rows that repeat the sequence of an earlier row.
        contradictory_sequences: sequences that occur with more than one label.
        contradictory_lines: the first few lines of the file that hold such a sequence.
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
    """Rows of one table whose sequence also occurs in another.

    Attributes:
        earlier, later: names of the two tables.
        rows: rows of the later table whose sequence is also in the earlier one.
        contradictory_rows: those whose label never occurs with that sequence in the earlier table.
        lines: the first few lines of the later table that hold shared rows.
    """

    earlier: str
    later: str
    rows: int
    contradictory_rows: int
    lines: list[int]


class TablesReport(TypedDict):
    """Checks of the tables of a fine-tuning run.

    Attributes:
        max_tokens: maximum row length in tokens, special tokens included.
        tables: counts by table name (train, dev, test).
        shared: shared rows for each pair of tables.
    """

    max_tokens: int
    tables: dict[str, TableReport]
    shared: list[SharedRows]


def tables_report(splits: Splits, encoded: Mapping[str, EncodedTable]) -> TablesReport:
    """Check the three tables of a task.

    Args:
        splits: the tables.
        encoded: the same tables as token ids, by name: ``train``, ``dev`` and ``test``.
    """
    tables = {"train": splits.train, "dev": splits.dev, "test": splits.test}
    labels = {name: _labels_by_sequence(table, encoded[name]) for name, table in tables.items()}
    return TablesReport(
        max_tokens=encoded["train"].max_tokens,
        tables={name: _table_report(table, encoded[name], labels[name], splits.labels) for name, table in tables.items()},
        shared=[_shared(a, b, labels[a], tables[b], encoded[b]) for a, b in combinations(tables, 2)],
    )


def notes_on(data: TablesReport) -> list[str]:
    """Warnings for readers of the scores: truncated or shared rows, contradictory labels, and absent classes."""
    notes = []
    cut = {name: table for name, table in data["tables"].items() if table["truncated_rows"]}
    if cut:
        rows = ", ".join(f"{table['truncated_rows']:,} of {table['rows']:,} {name} rows" for name, table in cut.items())
        longest = max(table["token_lengths"][-1][0] for table in cut.values())
        notes.append(f"Truncated to {data['max_tokens']:,} tokens: {rows}; data.max_tokens {longest:,} keeps everything.")
    for name, table in data["tables"].items():
        if table["contradictory_sequences"]:
            notes.append(
                f"{table['contradictory_sequences']:,} sequences of the {name} table have more than one label "
                f"({_lines(table['contradictory_lines'])}): no model can predict all of them correctly."
            )
    for name in ("dev", "test"):
        absent = [label for label, rows in data["tables"][name]["label_counts"].items() if not rows]
        if absent:
            notes.append(
                f"The {name} table has no rows of {', '.join(map(repr, absent))}: its scores do not cover all classes that "
                "the model learns; split again, or add rows."
            )
    for pair in data["shared"]:
        if pair["rows"]:
            consequence = (
                "the test scores are not based only on unseen sequences"
                if pair["later"] == "test"
                else "the dev scores, which select the evaluation to keep, favor memorizing the training rows"
            )
            notes.append(
                f"{pair['rows']:,} of {data['tables'][pair['later']]['rows']:,} {pair['later']} rows are also in the "
                f"{pair['earlier']} table ({_lines(pair['lines'])}), {pair['contradictory_rows']:,} of them with another "
                f"label: {consequence}."
            )
    return notes


def _lines(first: list[int]) -> str:
    """The first few lines of a file, as ``lines 2, 42``."""
    return f"lines {', '.join(map(str, first))}{', …' if len(first) == _MAX_LINES else ''}"


def leaked_lines(splits: Splits) -> list[int]:
    """Lines of the test table whose sequence (or pair) is also in the train or dev table, regardless of its label."""
    seen = {*splits.train.keys(), *splits.dev.keys()}
    return [line for line, key in zip(splits.test.lines, splits.test.keys(), strict=True) if key in seen]


def _label_keys(encoded: EncodedTable) -> list[bytes]:
    """Labels in comparable form: ``a;b`` equals ``b;a``, and 0.5 equals 0.50."""
    return [label.tobytes() for label in encoded.labels]


def _labels_by_sequence(table: Table, encoded: EncodedTable) -> dict[Hashable, set[bytes]]:
    labels: dict[Hashable, set[bytes]] = {}
    for sequence, label in zip(table.keys(), _label_keys(encoded), strict=True):
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
        contradictory_lines=[table.lines[row] for row in contradictory[:_MAX_LINES]],
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
    sequences, keys = table.keys(), _label_keys(encoded)
    shared = [row for row, sequence in enumerate(sequences) if sequence in labels]
    return SharedRows(
        earlier=earlier,
        later=later,
        rows=len(shared),
        contradictory_rows=sum(keys[row] not in labels[sequences[row]] for row in shared),
        lines=[table.lines[row] for row in shared[:_MAX_LINES]],
    )
