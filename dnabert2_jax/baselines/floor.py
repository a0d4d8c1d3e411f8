"""What a test score is read against: counting k-mers, and the rows that no other table has shown before."""

import time
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.baselines.kmer import KmerBaseline
from dnabert2_jax.data.sequences import Table
from dnabert2_jax.data.splits import Splits
from dnabert2_jax.metrics.scores import ClassificationMetrics, classification_metrics


class Floor(TypedDict):
    """The floor under the scores on a test table of classes; JSON-ready.

    Attributes:
        leaked_lines: lines of the test table whose sequence the train or the dev table has, too.
        kmer: scores of the k-mer regression on the test table, learned from the same rows as the model.
        kmer_clean: the same without leaked rows; None where no row is left.
        kmer_seconds: what it took.
    """

    leaked_lines: list[int]
    kmer: ClassificationMetrics
    kmer_clean: ClassificationMetrics | None
    kmer_seconds: float


def floor_under(train: Table, splits: Splits) -> Floor:
    """Fit the k-mer regression and look for leaked rows.

    Args:
        train: the rows to learn from; fewer than those of ``splits`` where they are capped.
        splits: the tables.
    """
    began = time.monotonic()
    leaked = leaked_lines(splits)
    kmer = KmerBaseline().fit(train, splits.dev, splits.labels)
    probabilities = kmer.predict_proba(splits.test)
    labels, names = splits.labels.encode(splits.test), splits.labels.names
    return Floor(
        leaked_lines=leaked,
        kmer=classification_metrics(labels, probabilities, names),
        kmer_clean=scores_without(labels, probabilities, names, np.array(splits.test.lines), leaked),
        kmer_seconds=time.monotonic() - began,
    )


def leaked_lines(splits: Splits) -> list[int]:
    """Lines of the test table whose sequence (pair) the train or the dev table has, too."""
    seen = {*splits.train.keys(), *splits.dev.keys()}
    return [line for line, key in zip(splits.test.lines, splits.test.keys(), strict=True) if key in seen]


def scores_without(
    labels: NDArray[np.integer],
    probabilities: NDArray[np.floating],
    names: tuple[str, ...] | list[str],
    lines: NDArray[np.integer],
    leaked: list[int],
) -> ClassificationMetrics | None:
    """The scores of the rows whose line is not among the leaked ones; None where no row is left.

    Args:
        labels: class numbers, [rows].
        probabilities: [rows, C].
        names: of the classes.
        lines: of the file, [rows].
        leaked: lines to leave out.
    """
    kept = ~np.isin(lines, leaked)
    return classification_metrics(labels[kept], probabilities[kept], names) if kept.any() else None
