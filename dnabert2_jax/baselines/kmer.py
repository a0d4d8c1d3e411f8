"""The baseline for every classifier: logistic regression on k-mer counts.

It shows what a language model adds beyond sequence composition, which on several published benchmarks explains most of the
score.
"""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from dnabert2_jax.data.labels import Labels
from dnabert2_jax.data.sequences import Table
from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.letters import base_codes
from dnabert2_jax.metrics.scores import classification_metrics

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

INVERSE_PENALTIES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 1e-1)
"""Values of scikit-learn's ``C`` that are tried, strongest penalty first."""

_ROWS_AT_ONCE = 512


def kmer_counts(sequences: Sequence[str], k_max: int) -> NDArray[np.float32]:
    """Counts of all k-mers of 1 to ``k_max`` bases, shape [rows, 4 + 16 + ... + 4**k_max].

    Columns are ordered by k, then alphabetically. A k-mer with an ambiguity letter is not counted, and a row shorter than k
    has none.

    Args:
        sequences: upper-case letters.
        k_max: longest k-mer, in bases.
    """
    blocks = []
    for start in range(0, len(sequences), _ROWS_AT_ONCE):
        rows = sequences[start : start + _ROWS_AT_ONCE]
        # All rows in one array, each followed by a separator: a k-mer across it is as invalid as one with an N.
        base = base_codes("".join(f"{row}-" for row in rows)).astype(np.int64)
        row_of_base = np.repeat(np.arange(len(rows)), [len(row) + 1 for row in rows])
        code, valid = np.zeros_like(base), np.ones(len(base), bool)
        columns = []
        for k in range(1, k_max + 1):
            last = base[k - 1 :]
            code = code[: len(last)] * 4 + last
            valid = valid[: len(last)] & (last >= 0)
            cell = row_of_base[: len(last)][valid] * 4**k + code[valid]
            columns.append(np.bincount(cell, minlength=len(rows) * 4**k).reshape(len(rows), 4**k))
        blocks.append(np.concatenate(columns, axis=1).astype(np.float32))
    return np.concatenate(blocks)


class KmerBaseline:
    """Logistic regression on standardized log(1 + count) of all 1- to k-mers; a pair has the features of both sequences.

    The penalty is selected by the MCC on the dev table. Fitting is deterministic.

    Attributes:
        k_max: longest k-mer, in bases.
        inverse_penalty: the chosen ``C`` of scikit-learn.
    """

    def __init__(self, k_max: int = 5) -> None:
        self.k_max = k_max
        self.inverse_penalty: float
        self._scaler: StandardScaler
        self._regression: LogisticRegression

    def fit(self, train: Table, dev: Table, labels: Labels) -> "KmerBaseline":
        """Fit one model per penalty on the training table and keep the best on the dev table.

        Raises:
            UserError: a label is not among the classes, or the task has no single class per row.
        """
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler

        if labels.head.task != "single_label":
            raise UserError(f"{train.path}: the k-mer regression needs one class per row; the task is {labels.head.task}")
        classes, dev_classes = labels.encode(train), labels.encode(dev)
        self._scaler = StandardScaler()
        features = self._scaler.fit_transform(self._features(train))
        dev_features = self._scaler.transform(self._features(dev))
        best = -np.inf
        # Each fit starts from the previous one. One thread, because these products are small: on a busy machine BLAS threads
        # wait for each other ten times as long as they work, and the last digits depend on their number.
        regression = LogisticRegression(max_iter=1000, tol=1e-3, warm_start=True)
        with threadpool_limits(limits=1, user_api="blas"):
            for inverse_penalty in INVERSE_PENALTIES:
                regression.set_params(C=inverse_penalty).fit(features, classes)
                mcc = classification_metrics(dev_classes, regression.predict_proba(dev_features), labels.names)["mcc"]
                if mcc > best:
                    best, self.inverse_penalty, self._regression = mcc, inverse_penalty, copy.deepcopy(regression)
        return self

    def predict_proba(self, table: Table) -> NDArray[np.float64]:
        """Probability of each class, shape [rows, C]."""
        features = self._scaler.transform(self._features(table))
        return np.asarray(self._regression.predict_proba(features), np.float64)

    @staticmethod
    def columns(k_max: int = 5) -> int:
        """Number of features of one sequence: all k-mers of 1 to ``k_max`` bases."""
        return sum(4**k for k in range(1, k_max + 1))

    @property
    def num_parameters(self) -> int:
        """Trainable parameters: weights and intercepts (one set for two classes)."""
        return int(self._regression.coef_.size + self._regression.intercept_.size)

    def _features(self, table: Table) -> NDArray[np.float32]:
        counts = [kmer_counts(column, self.k_max) for column in (table.sequences, table.pairs) if column is not None]
        return np.log1p(np.concatenate(counts, axis=1))
