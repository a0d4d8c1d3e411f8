"""The floor under every result: logistic regression on the k-mer counts of a sequence.

What a language model adds shows only beside what composition alone can do. On several published benchmarks that is most of
the score.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import matthews_corrcoef
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from dnabert2_jax.data.tables import LabelSet, Table

INVERSE_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
"""Values of scikit-learn's ``C`` that are tried, strongest penalty first."""

_CODE = np.full(256, -1, np.int64)
_CODE[np.frombuffer(b"ACGT", np.uint8)] = range(4)
_ROWS_AT_ONCE = 512


def kmer_counts(sequences: Sequence[str], k_max: int) -> NDArray[np.float32]:
    """Counts of all k-mers of 1 to ``k_max`` bases, shape [rows, 4 + 16 + ... + 4**k_max].

    Columns go by k, then in the order A < C < G < T. A k-mer with an ambiguity letter is not counted, and a row shorter than
    k has none.

    Args:
        sequences: upper-case letters.
        k_max: longest k-mer, in bases.
    """
    blocks = []
    for start in range(0, len(sequences), _ROWS_AT_ONCE):
        rows = sequences[start : start + _ROWS_AT_ONCE]
        # All rows in one array, a separator behind each: a k-mer over the separator is as void as one over an N.
        base = _CODE[np.frombuffer("".join(f"{row}-" for row in rows).encode("ascii"), np.uint8)]
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
    """Logistic regression on standardised log(1 + count) of all 1- to k-mers; a pair has the features of both sequences.

    The penalty is the one with the best MCC on the development table. Nothing is random: the same tables give one model.

    Attributes:
        k_max: longest k-mer, in bases.
        inverse_penalty: the chosen ``C`` of scikit-learn.
    """

    def __init__(self, k_max: int = 5) -> None:
        self.k_max = k_max
        self.inverse_penalty: float
        self._pipeline: Pipeline

    def fit(self, train: Table, dev: Table, labels: LabelSet) -> "KmerBaseline":
        """Fit one model a penalty to the training table and keep the best on the development table.

        Raises:
            UserError: a label is not among the classes.
        """
        features, classes = self._features(train), labels.encode(train)
        dev_features, dev_classes = self._features(dev), labels.encode(dev)
        best = -np.inf
        for inverse_penalty in INVERSE_PENALTIES:
            pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=inverse_penalty, max_iter=1000, tol=1e-3))
            pipeline.fit(features, classes)
            mcc = matthews_corrcoef(dev_classes, pipeline.predict(dev_features))
            if mcc > best:
                best, self.inverse_penalty, self._pipeline = mcc, inverse_penalty, pipeline
        return self

    def predict_proba(self, table: Table) -> NDArray[np.float64]:
        """Probability of each class, shape [rows, C]."""
        return np.asarray(self._pipeline.predict_proba(self._features(table)), np.float64)

    @property
    def num_parameters(self) -> int:
        """Trained parameters: weights and intercepts (one set for two classes)."""
        regression = self._pipeline[-1]
        return int(regression.coef_.size + regression.intercept_.size)

    def _features(self, table: Table) -> NDArray[np.float32]:
        counts = [kmer_counts(column, self.k_max) for column in (table.sequences, table.pairs) if column is not None]
        return np.log1p(np.concatenate(counts, axis=1))
