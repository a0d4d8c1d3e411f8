"""Split one table into train, dev and test tables by whole groups of rows, so that related rows stay together."""

import csv
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.config.inference import DivideBy
from dnabert2_jax.data.columns import Header
from dnabert2_jax.data.reading import read_sequences
from dnabert2_jax.data.rows import TableRows
from dnabert2_jax.data.similarity import connected, similar_groups
from dnabert2_jax.data.splits import SPLITS
from dnabert2_jax.errors import UserError
from dnabert2_jax.progress import ProgressBar
from dnabert2_jax.storage.atomic import write_json
from dnabert2_jax.storage.copies import local_copy
from dnabert2_jax.storage.directories import atomic_directory
from dnabert2_jax.storage.hashes import file_sha256
from dnabert2_jax.storage.overwriting import replacing

RECORD = "split.json"

_CONTIG_COLUMNS = ("contig", "chrom", "chromosome", "chr", "seqname", "seqid")
_LABEL_COLUMNS = ("label", "labels", "class", "target")
_MOST_LABELS = 10


@dataclass(frozen=True)
class Division:
    """The result of splitting a table.

    Attributes:
        rows: rows in each table.
        groups: groups in each table.
        labels: rows with each label in each table, if the table has labels and few distinct ones.
        notes: remarks for the terminal.
    """

    rows: dict[str, int]
    groups: dict[str, int]
    labels: dict[str, dict[str, int]]
    notes: tuple[str, ...]


def divide_table(
    table: Path,
    out: Path,
    *,
    by: DivideBy = "random",
    group_column: str | None = None,
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
    similarity: float = 0.25,
    seed: int = 0,
    sequence_column: str = "sequence",
    force: bool = False,
) -> Division:
    """Write ``train.csv``, ``dev.csv`` and ``test.csv`` with the table's own columns, and ``split.json``.

    Rows with the same sequence (or pair) always go to the same table.

    Args:
        table: the rows.
        out: the directory to create.
        by: what else stays together.
        group_column: for ``group``, the column of groups; for ``contig``, that of contigs: by default a column with such a
            name, or else the part of ``name`` before the last colon, as in ``chr2:100-200``.
        fractions: fractions of the rows for train, dev and test.
        similarity: threshold for ``similarity``; see :func:`~dnabert2_jax.data.similarity.similar_groups`.
        seed: determines the order in which groups are assigned.
        sequence_column: the column of sequences; pairs are in two columns with that name followed by 1 and 2.
        force: replace the output of an earlier split.

    Raises:
        UserError: the table or a column cannot be used, the fractions are invalid, or there are fewer groups than tables.
    """
    if min(fractions) < 0 or not np.isclose(sum(fractions), 1):
        wrong = "include a negative one" if min(fractions) < 0 else "do not add up to 1"
        raise UserError(f"fractions {fractions} of train, dev and test {wrong}; give three such as 0.8,0.1,0.1")
    sequences = read_sequences(table, sequence_column=sequence_column)
    (_, names), *rows = TableRows(local_copy(table), str(table))
    if len(rows) != len(sequences):
        raise UserError(f"{table}: this is not a table; give one with a header and a column of sequences, as CSV or TSV")
    keys: list[Any] = sequences.keys()
    if by == "similarity":
        texts = [(key,) if isinstance(key, str) else key for key in keys]
        with ProgressBar("comparing sequences", len(rows)) as bar:
            values: list[Any] = similar_groups(texts, similarity, bar.advance).tolist()
    elif by == "random":
        values = keys
    else:
        values = _column_values(str(table), names, [fields for _, fields in rows], by, group_column)
    groups = _whole_groups(values, keys)
    chosen = deal(groups, fractions, seed)
    label_at = next((at for at, name in enumerate(names) if name.casefold() in _LABEL_COLUMNS), None)
    labels = [fields[label_at] for _, fields in rows] if label_at is not None else []
    with atomic_directory(out, may_replace=replacing(RECORD, "the output of dnabert2 split", force=force)) as new:
        for number, name in enumerate(SPLITS):
            with (new / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(names)
                writer.writerows(rows[row][1] for row in np.flatnonzero(chosen == number))
        settings = {"by": by, "group_column": group_column, "fractions": fractions, "similarity": similarity, "seed": seed}
        write_json(new / RECORD, {"table": str(table), "sha256": file_sha256(local_copy(table)), **settings})
    counts = _label_counts(labels, chosen)
    return Division(
        rows={name: int((chosen == number).sum()) for number, name in enumerate(SPLITS)},
        groups={name: len(np.unique(groups[chosen == number])) for number, name in enumerate(SPLITS)},
        labels=counts,
        notes=(*sequences.notes, *_notes(groups, by), *_skewed(counts)),
    )


def _whole_groups(values: list[Any], keys: list[Any]) -> NDArray[np.int64]:
    """Group numbers [rows], from 0: rows that share a value or key, directly or through other rows, are in one group."""
    first: dict[tuple[str, Any], int] = {}
    links = [
        (row, first.setdefault((kind, value), row))
        for kind, column in (("value", values), ("key", keys))
        for row, value in enumerate(column)
    ]
    return connected(links, len(values))


def deal(groups: NDArray[np.int64], fractions: tuple[float, float, float], seed: int) -> NDArray[np.int64]:
    """Which of the three tables each row goes to, [rows].

    Groups are taken in random order, large ones first, and each goes to the table that is short of the most rows, provided
    that no table stays empty.

    Raises:
        UserError: there are fewer groups than tables that should get any.
    """
    wanted = [number for number, fraction in enumerate(fractions) if fraction > 0]
    _, sizes = np.unique(groups, return_counts=True)
    if len(sizes) < len(wanted):
        raise UserError(
            f"there are {len(sizes)} groups of rows that must stay together, fewer than the {len(wanted)} tables to make; "
            "choose another --by, or set a fraction to 0"
        )
    shuffled = np.random.default_rng(seed).permutation(len(sizes))
    order = shuffled[np.argsort(-sizes[shuffled], kind="stable")]
    target = np.array(fractions) * len(groups)
    filled, table = np.zeros(3), np.empty(len(sizes), np.int64)
    for left, group in zip(range(len(order), 0, -1), order.tolist(), strict=True):
        empty = [number for number in wanted if not filled[number]]
        choices = empty if left == len(empty) else wanted
        number = max(choices, key=(target - filled).__getitem__)
        table[group] = number
        filled[number] += sizes[group]
    return table[groups]


def _column_values(source: str, names: list[str], rows: list[list[str]], by: DivideBy, column: str | None) -> list[str]:
    header = Header(source, names, ("sequence",))
    if by == "group" and column is None:
        raise UserError("--by group needs --group-column, the column whose equal values stay together")
    if column is None:
        column = next((name for name in names if name.casefold() in _CONTIG_COLUMNS), None)
    if column is not None:
        at = header.column(column, "--group-column")
        return [fields[at] for fields in rows]
    if "name" not in names:
        raise UserError(
            f"{source}: no column of contigs; accepted are {', '.join(_CONTIG_COLUMNS)}, or name with values such as "
            "chr2:100-200; name another with --group-column"
        )
    at = names.index("name")
    contigs = [re.fullmatch(r"(.+):[^:]*", fields[at]) for fields in rows]
    for number, match in enumerate(contigs):
        if match is None:
            raise UserError(
                f"{source}: name {rows[number][at]!r} does not name the contig of the sequence; accepted is "
                "CONTIG:ANYTHING, as in chr2:100-200; name a column of contigs with --group-column"
            )
    return [match[1] for match in contigs if match]


def _label_counts(labels: list[str], chosen: NDArray[np.int64]) -> dict[str, dict[str, int]]:
    names = sorted(set(labels))
    if not 1 < len(names) <= _MOST_LABELS:
        return {}
    counts = [Counter(label for label, table in zip(labels, chosen, strict=True) if table == number) for number in range(3)]
    return {name: {label: counts[number][label] for label in names} for number, name in enumerate(SPLITS)}


def _notes(groups: NDArray[np.int64], by: DivideBy) -> tuple[str, ...]:
    sizes = np.bincount(groups)
    if by == "random" or sizes.max() <= 0.1 * len(groups):
        return ()
    return (f"the largest group has {sizes.max():,} of {len(groups):,} rows, which all go to one table",)


def _skewed(counts: dict[str, dict[str, int]]) -> Iterator[str]:
    """Notes on tables where a label is at least 10 points more or less frequent than overall, beyond chance.

    Rows are assigned in groups, so a large group of one label can shift a table; four standard errors are beyond chance.
    """
    total = Counter[str]()
    for own in counts.values():
        total.update(own)
    for name, own in counts.items():
        rows = sum(own.values())
        for label, all_rows in total.items():
            share = all_rows / total.total()
            if rows and abs(own[label] / rows - share) > max(0.1, 4 * math.sqrt(share * (1 - share) / rows)):
                yield (
                    f"{name}: {own[label] / rows:.0%} of its rows have the label {label!r}, of all rows {share:.0%}; "
                    "another --seed may balance them better"
                )
