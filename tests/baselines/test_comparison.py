from dnabert2_jax.baselines.comparison import kmer_baseline
from dnabert2_jax.baselines.kmer import KmerBaseline
from dnabert2_jax.data.tables import load_splits
from dnabert2_jax.metrics.scores import classification_metrics
from tests.helpers import tiny_rows, write_table


def test_the_baseline_is_the_regression_of_the_rows_that_are_given(tmp_path):
    train, dev, test = tiny_rows(60, 0), tiny_rows(20, 1), [*tiny_rows(30, 2), tiny_rows(60, 0)[7]]
    for name, rows in (("train", train), ("dev", dev), ("test", test)):
        write_table(tmp_path / f"{name}.csv", rows)
    splits = load_splits(*(tmp_path / f"{name}.csv" for name in ("train", "dev", "test")))
    half = splits.train.take(range(30))
    baseline, fitted = kmer_baseline(half, splits), KmerBaseline().fit(half, splits.dev, splits.labels)
    labels, probabilities = splits.labels.encode(splits.test), fitted.predict_proba(splits.test)
    assert baseline["leaked_lines"] == [32]
    assert baseline["kmer"] == classification_metrics(labels, probabilities, splits.labels.names)
    assert baseline["kmer_clean"] == classification_metrics(labels[:30], probabilities[:30], splits.labels.names)
    assert baseline["kmer"]["n"] == 31
