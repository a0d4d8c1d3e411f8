"""Preparing a data set for its runs: reading, checking and capping its tables, and fitting the k-mer baseline."""

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dnabert2_jax.baselines.comparison import Baseline, kmer_baseline
from dnabert2_jax.data.checks import TablesReport, tables_report
from dnabert2_jax.data.encoding import NO_LIMIT, encode_table
from dnabert2_jax.data.sequences import Table
from dnabert2_jax.data.splits import load_splits
from dnabert2_jax.draws import Domain, hash64
from dnabert2_jax.gue.catalog import SPLITS
from dnabert2_jax.gue.discovery import FoundTask
from dnabert2_jax.storage.hashes import file_sha256
from dnabert2_jax.tokenizer.base import Tokenizer

CAPPED_TABLE = "train_capped.csv"
"""The training rows of capped runs; discovery does not take the name for a table."""


class TaskData(Baseline):
    """What is known of a data set before any run, including its baseline; JSON-ready.

    Attributes:
        sha256: hash of each table.
        remarks: how its row counts differ from the published ones.
        report: checks of the whole tables, truncated as the original truncates them.
        longest_row: tokens of the longest row, special tokens included.
        train_rows: training rows of the runs.
        capped: whether those rows are in a table of their own, :data:`CAPPED_TABLE` beside this record.
    """

    sha256: dict[str, str]
    remarks: list[str]
    report: TablesReport
    longest_row: int
    train_rows: int
    capped: bool


def prepare(found: FoundTask, tokenizer: Tokenizer, folder: Path, max_train_rows: int | None) -> TaskData:
    """Read and check the tables, and fit the k-mer regression.

    Args:
        found: the data set.
        tokenizer: the model's.
        folder: gets :data:`CAPPED_TABLE` if rows are capped.
        max_train_rows: maximum number of training rows.

    Raises:
        UserError: the tables cannot be used; the message names file and line.
    """
    splits = load_splits(*(found.tables[split] for split in SPLITS))
    limit = found.task.settings.max_tokens or NO_LIMIT
    encoded = {split: encode_table(getattr(splits, split), tokenizer, splits.labels, limit) for split in SPLITS}
    longest = max(int(table.full_lengths.max()) for table in encoded.values())
    if limit == NO_LIMIT:
        encoded = {split: replace(table, max_tokens=longest) for split, table in encoded.items()}
    train = splits.train
    rows = len(train) if max_train_rows is None else max_train_rows
    capped = rows < len(train)
    if capped:
        train = train.take(capped_rows(train.labels, rows))
        write_table(folder / CAPPED_TABLE, train)
    return TaskData(
        sha256=table_hashes(found),
        remarks=list(found.remarks),
        report=tables_report(splits, encoded),
        longest_row=longest,
        train_rows=len(train),
        capped=capped,
        **kmer_baseline(train, splits),
    )


def table_hashes(found: FoundTask) -> dict[str, str]:
    """SHA-256 of each table's file."""
    return {split: file_sha256(found.tables[split]) for split in SPLITS}


def capped_rows(labels: list[str], rows: int) -> list[int]:
    """Row numbers of a stratified sample in file order, with at least one row of each class if ``rows`` allows.

    The sample depends only on row numbers and labels, so that every seed and every model trains on the same one.
    """
    draw = np.argsort(hash64(0, Domain.CAPPED_TABLE, np.arange(len(labels))), kind="stable")
    total, taken = Counter(labels), Counter[str]()
    share = {}
    for row in draw:
        label = labels[row]
        share[int(row)] = taken[label] / total[label]
        taken[label] += 1
    return sorted(sorted(share, key=share.__getitem__)[:rows])


def write_table(path: Path, table: Table) -> None:
    """Write a table as CSV: ``sequence,label`` or ``sequence1,sequence2,label``."""
    columns: dict[str, Any] = {"sequence": table.sequences}
    if table.pairs is not None:
        columns = {"sequence1": table.sequences, "sequence2": table.pairs}
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*columns, "label"])
        writer.writerows(zip(*columns.values(), table.labels, strict=True))
