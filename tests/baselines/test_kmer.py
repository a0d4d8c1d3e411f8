import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnabert2_jax import sample_data
from dnabert2_jax.baselines.kmer import INVERSE_PENALTIES, KmerBaseline, kmer_counts
from dnabert2_jax.data.reading import read_table
from dnabert2_jax.data.splits import load_splits
from dnabert2_jax.metrics.scores import classification_metrics


def slow_counts(sequence: str, k_max: int) -> list[int]:
    words = ("".join(word) for k in range(1, k_max + 1) for word in itertools.product("ACGT", repeat=k))
    return [sum(sequence.startswith(word, at) for at in range(len(sequence))) for word in words]


@given(st.lists(st.text("ACGTNR", min_size=1, max_size=40), min_size=1, max_size=5), st.integers(1, 4))
def test_counts_are_those_of_a_slow_counter(sequences, k_max):
    assert kmer_counts(sequences, k_max).tolist() == [slow_counts(sequence, k_max) for sequence in sequences]


def test_blocks_of_rows_join():
    sequences = [("ACGT" * 5)[start % 20 :] + "A" for start in range(1100)]
    together = kmer_counts(sequences, 3)
    assert together.shape == (1100, 84)
    np.testing.assert_array_equal(together, np.concatenate([kmer_counts([sequence], 3) for sequence in sequences]))


def test_sample_table():
    splits = load_splits(*(sample_data.table(split) for split in ("train", "dev", "test")))
    model = KmerBaseline().fit(splits.train, splits.dev, splits.labels)
    probabilities = model.predict_proba(splits.test)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    scores = classification_metrics(splits.labels.encode(splits.test), probabilities, splits.labels.names)
    assert scores["mcc"] > 0.55
    assert model.inverse_penalty in INVERSE_PENALTIES
    assert model.num_parameters == 3 * (4 + 16 + 64 + 256 + 1024 + 1)
    again = KmerBaseline().fit(splits.train, splits.dev, splits.labels)
    np.testing.assert_array_equal(again.predict_proba(splits.test), probabilities)


def pair_table(path, rows):
    path.write_text("sequence1,sequence2,label\n" + "".join(f"{a},{b},{label}\n" for a, b, label in rows))
    return path


def test_a_pair_is_told_by_either_sequence(tmp_path):
    rng = np.random.default_rng(0)

    def random_sequence(gc):
        return "".join(rng.choice(list("ACGT"), 80, p=[0.5 - gc / 2, gc / 2, gc / 2, 0.5 - gc / 2]))

    # Only which of the two sequences is rich in GC tells the classes apart.
    rows = []
    for n in range(240):
        rich, poor = random_sequence(0.7), random_sequence(0.3)
        rows.append((rich, poor, "first") if n % 2 else (poor, rich, "second"))
    splits = load_splits(*(pair_table(tmp_path / f"{at}.csv", rows[at : at + 80]) for at in (0, 80, 160)))
    model = KmerBaseline(k_max=2).fit(splits.train, splits.dev, splits.labels)
    scores = classification_metrics(splits.labels.encode(splits.test), model.predict_proba(splits.test), splits.labels.names)
    assert scores["mcc"] > 0.9
    assert model.num_parameters == 2 * 20 + 1


def test_rows_without_a_single_kmer(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("sequence,label\n" + "AAAA,a\nCCCC,c\n" * 10 + "N,a\nA,a\n")
    table = read_table(path)
    splits = load_splits(path, path, path)
    model = KmerBaseline().fit(table, table, splits.labels)
    assert np.isfinite(model.predict_proba(table)).all()


@pytest.mark.parametrize(
    ("task", "floor"),
    [("GUE/prom/prom_300_tata", 0.40), ("GUE/mouse/3", 0.63), ("tasks/species15_500", 0.70)],
)
def test_real_tasks(shared_dir, task, floor):
    splits = load_splits(*(shared_dir / "data" / task / f"{split}.csv" for split in ("train", "dev", "test")))
    model = KmerBaseline().fit(splits.train, splits.dev, splits.labels)
    scores = classification_metrics(splits.labels.encode(splits.test), model.predict_proba(splits.test), splits.labels.names)
    assert scores["mcc"] > floor
