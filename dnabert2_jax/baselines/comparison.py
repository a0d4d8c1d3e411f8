"""The baseline for a test score: a k-mer regression fitted on the same rows."""

import time
from typing import TypedDict

import numpy as np

from dnabert2_jax.baselines.kmer import KmerBaseline
from dnabert2_jax.data.checks import leaked_lines
from dnabert2_jax.data.sequences import Table
from dnabert2_jax.data.splits import Splits
from dnabert2_jax.metrics.scores import ClassificationMetrics, classification_metrics, scores_without
from dnabert2_jax.progress import remark

MAX_KMER_COUNTS = 3 * 10**8
"""Maximum size of the matrix of k-mer counts (rows of all tables times k-mers), which is held in memory."""


class Baseline(TypedDict):
    """Baseline scores on a test table of classes; JSON-ready.

    Attributes:
        leaked_lines: lines of the test table whose sequence is also in the train or the dev table.
        kmer: scores of the k-mer regression on the test table, fitted on the same rows as the model.
        kmer_clean: the same without leaked rows; None if no row is left.
        kmer_seconds: time to fit and score it.
    """

    leaked_lines: list[int]
    kmer: ClassificationMetrics
    kmer_clean: ClassificationMetrics | None
    kmer_seconds: float


def kmer_baseline(train: Table, splits: Splits) -> Baseline:
    """Fit the k-mer regression, and score it with and without leaked test rows.

    Args:
        train: the rows to fit; fewer than those of ``splits`` if they are capped.
        splits: the tables.
    """
    began = time.monotonic()
    return score_baseline(KmerBaseline().fit(train, splits.dev, splits.labels), splits, began)


def score_baseline(kmer: KmerBaseline, splits: Splits, began: float) -> Baseline:
    """Score a k-mer regression with and without leaked test rows.

    Args:
        kmer: the fitted regression.
        splits: the tables.
        began: when fitting began, by ``time.monotonic``.
    """
    leaked = leaked_lines(splits)
    probabilities = kmer.predict_proba(splits.test)
    labels, names = splits.labels.encode(splits.test), splits.labels.names
    return Baseline(
        leaked_lines=leaked,
        kmer=classification_metrics(labels, probabilities, names),
        kmer_clean=scores_without(labels, probabilities, names, np.array(splits.test.lines), leaked),
        kmer_seconds=time.monotonic() - began,
    )


def kmer_baseline_if_feasible(splits: Splits) -> Baseline | None:
    """The baseline of a fine-tuning run; None for tasks without classes, or, with a remark, if it does not fit in memory."""
    if splits.labels.head.task != "single_label":
        return None
    tables = (splits.train, splits.dev, splits.test)
    rows = sum(len(table) * (1 if table.pairs is None else 2) for table in tables)
    if rows * KmerBaseline.columns() > MAX_KMER_COUNTS:
        remark(f"no k-mer regression for the report: the counts of {rows:,} sequences would not fit in memory")
        return None
    remark("k-mer regression on the same rows, for the report")
    return kmer_baseline(splits.train, splits)
