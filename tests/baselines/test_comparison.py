import numpy as np

from dnabert2_jax.baselines.floor import floor_under, leaked_lines, scores_without
from dnabert2_jax.baselines.kmer import KmerBaseline
from dnabert2_jax.data.tables import load_splits
from dnabert2_jax.metrics.scores import classification_metrics
from tests.helpers import tiny_rows, write_table

PAIRS = "sequence1,sequence2,label"


def test_leaked_lines_are_those_a_slow_search_finds(tmp_path):
    train, dev, test = (tiny_rows(20, seed) for seed in range(3))
    test[3] = (train[5][0], "rich")
    test[8] = (dev[0][0].lower(), "plain")
    test.append(train[5])
    for name, rows in (("train", train), ("dev", dev), ("test", test)):
        write_table(tmp_path / f"{name}.csv", rows)
    splits = load_splits(*(tmp_path / f"{name}.csv" for name in ("train", "dev", "test")))
    assert leaked_lines(splits) == [5, 10, 22]


def test_a_pair_is_leaked_as_a_pair(tmp_path):
    write_table(tmp_path / "train.csv", [("AACC", "GGTT", "0"), ("ACGT", "ACCA", "1")], PAIRS)
    write_table(tmp_path / "dev.csv", [("CCCC", "GGGG", "0")], PAIRS)
    write_table(tmp_path / "test.csv", [("AACC", "ACCA", "0"), ("CCCC", "GGGG", "1"), ("GGTT", "AACC", "1")], PAIRS)
    assert leaked_lines(load_splits(*(tmp_path / f"{name}.csv" for name in ("train", "dev", "test")))) == [3]


def test_scores_without_rows_are_the_scores_of_the_others():
    rng = np.random.default_rng(0)
    labels, probabilities = rng.integers(0, 2, 40), rng.dirichlet((1, 1), 40)
    lines = np.arange(2, 42)
    expected = classification_metrics(labels[5:], probabilities[5:], ["a", "b"])
    assert scores_without(labels, probabilities, ["a", "b"], lines, [2, 3, 4, 5, 6, 1000]) == expected
    assert scores_without(labels, probabilities, ["a", "b"], lines, lines.tolist()) is None


def test_the_floor_is_the_regression_of_the_rows_that_are_given(tmp_path):
    train, dev, test = tiny_rows(60, 0), tiny_rows(20, 1), [*tiny_rows(30, 2), tiny_rows(60, 0)[7]]
    for name, rows in (("train", train), ("dev", dev), ("test", test)):
        write_table(tmp_path / f"{name}.csv", rows)
    splits = load_splits(*(tmp_path / f"{name}.csv" for name in ("train", "dev", "test")))
    half = splits.train.take(range(30))
    floor, fitted = floor_under(half, splits), KmerBaseline().fit(half, splits.dev, splits.labels)
    labels, probabilities = splits.labels.encode(splits.test), fitted.predict_proba(splits.test)
    assert floor["leaked_lines"] == [32]
    assert floor["kmer"] == classification_metrics(labels, probabilities, splits.labels.names)
    assert floor["kmer_clean"] == classification_metrics(labels[:30], probabilities[:30], splits.labels.names)
    assert floor["kmer"]["n"] == 31
