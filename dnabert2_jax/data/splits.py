"""The three tables of a fine-tuning task, checked against each other."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dnabert2_jax.config.inference import BadRecordPolicy
from dnabert2_jax.config.model import TaskKind
from dnabert2_jax.data.labels import Labels, learn_labels
from dnabert2_jax.data.reading import read_table
from dnabert2_jax.data.sequences import Table
from dnabert2_jax.errors import UserError

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Splits:
    """Three tables with the same columns and the same labels.

    Attributes:
        train: training rows.
        dev: rows for model selection.
        test: rows for the reported scores.
        labels: the meaning of the label column, from the training table.
    """

    train: Table
    dev: Table
    test: Table
    labels: Labels


def load_splits(
    train: Path,
    dev: Path,
    test: Path,
    *,
    task: TaskKind = "single_label",
    sequence_column: str = "sequence",
    label_column: str = "label",
    label_map: Mapping[str, str] | None = None,
    bad_records: BadRecordPolicy | None = None,
) -> Splits:
    """Read the three tables of a task.

    Args:
        train: table of training rows.
        dev: table for model selection.
        test: table for the reported scores.
        task: what the label column holds, see ``data/labels.py``.
        sequence_column: for all three tables, as for :func:`~dnabert2_jax.data.reading.read_table`.
        label_column: likewise.
        label_map: likewise.
        bad_records: likewise.

    Raises:
        UserError: as for :func:`~dnabert2_jax.data.reading.read_table`; the labels are not valid for the task; or some
            tables hold pairs and others do not.
    """
    train_table, dev_table, test_table = (
        read_table(
            path, sequence_column=sequence_column, label_column=label_column, label_map=label_map, bad_records=bad_records
        )
        for path in (train, dev, test)
    )
    labels = learn_labels(task, train_table)
    for table in (dev_table, test_table):
        labels.encode(table)
        if (table.pairs is None) != (train_table.pairs is None):
            single, pair = (table, train_table) if table.pairs is None else (train_table, table)
            raise UserError(
                f"{single.path} has one sequence per row and {pair.path} has two; give all tables of a task the same columns"
            )
    return Splits(train_table, dev_table, test_table, labels)
