import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnabert2_jax.data.checks import leaked_lines, notes_on, tables_report
from dnabert2_jax.data.encoding import encode_table
from dnabert2_jax.data.splits import load_splits
from tests.helpers import tiny_rows, tiny_tokenizer, write_table

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


SEQUENCES = st.lists(
    st.tuples(st.sampled_from(["ACGT", "ACGA", "TTTT", "CACACA"]), st.sampled_from("01")), min_size=1, max_size=8
)


@given(train=SEQUENCES, test=SEQUENCES)
def test_counts_are_those_of_counting_by_hand(tmp_path_factory, train, test):
    folder = tmp_path_factory.mktemp("tables")
    train = [*train, ("GGGG", "0"), ("GGGG", "1")]
    tables = [write_table(folder / f"{name}.csv", rows) for name, rows in (("a", train), ("b", test), ("c", test))]
    splits = load_splits(*tables)
    encoded = {
        name: encode_table(getattr(splits, name), tiny_tokenizer(), splits.labels, 8) for name in ("train", "dev", "test")
    }
    report = tables_report(splits, encoded)
    sequences = [sequence for sequence, _ in train]
    assert report["tables"]["train"]["duplicate_rows"] == sum(s in sequences[:n] for n, s in enumerate(sequences))
    assert report["tables"]["train"]["contradictory_sequences"] == len(
        {s for s, label in train if (s, "1" if label == "0" else "0") in train}
    )
    shared = report["shared"][1]
    assert (shared["earlier"], shared["later"]) == ("train", "test")
    assert shared["rows"] == sum(s in sequences for s, _ in test)
    assert shared["contradictory_rows"] == sum(s in sequences and (s, label) not in train for s, label in test)
    assert sum(rows for _, rows in report["tables"]["test"]["token_lengths"]) == len(test)
    assert any("of the train table have more than one label" in note for note in notes_on(report))
    assert bool(shared["rows"]) == any(
        note.endswith("based only on unseen sequences.") and "train" in note for note in notes_on(report)
    )
    json.dumps(report)


def test_one_file_for_all_three_tables_is_noted_for_dev_and_for_test(tmp_path: Path):
    file = write_table(tmp_path / "all.csv", tiny_rows(7, seed=1))
    splits = load_splits(file, file, file)
    encoded = encode_table(splits.train, tiny_tokenizer(), splits.labels, 64)
    notes = notes_on(tables_report(splits, dict.fromkeys(("train", "dev", "test"), encoded)))
    lines = "(lines 2, 3, 4, 5, 6, …), 0 of them with another label"
    dev, test, test_in_dev = notes
    assert dev.startswith(f"7 of 7 dev rows are also in the train table {lines}: the dev scores, which")
    assert test.startswith(f"7 of 7 test rows are also in the train table {lines}: the test scores are not")
    assert "7 of 7 test rows are also in the dev table" in test_in_dev


def test_a_class_that_dev_lacks_is_noted(tmp_path: Path):
    rows = tiny_rows(20, seed=1)
    [train, test] = [write_table(tmp_path / f"{name}.csv", rows) for name in ("train", "test")]
    dev = write_table(tmp_path / "dev.csv", [row for row in tiny_rows(20, seed=2) if row[1] == "rich"])
    splits = load_splits(train, dev, test)
    tables = {"train": splits.train, "dev": splits.dev, "test": splits.test}
    encoded = {name: encode_table(table, tiny_tokenizer(), splits.labels, 64) for name, table in tables.items()}
    [note] = [note for note in notes_on(tables_report(splits, encoded)) if "has no rows" in note]
    assert note.startswith("The dev table has no rows of 'plain': its scores do not cover all classes")


def test_pairs_are_compared_as_pairs(tmp_path: Path):
    header = "sequence1,sequence2,label"
    train = [("ACGT", "TTTT", "0"), ("ACGT", "CCCC", "1"), ("TTTT", "ACGT", "1")]
    test = [("ACGT", "TTTT", "1"), ("CCCC", "ACGT", "0")]
    tables = [write_table(tmp_path / f"{name}.csv", rows, header) for name, rows in (("a", train), ("b", test), ("c", test))]
    splits = load_splits(*tables)
    encoded = {
        name: encode_table(getattr(splits, name), tiny_tokenizer(), splits.labels, 16) for name in ("train", "dev", "test")
    }
    report = tables_report(splits, encoded)
    assert report["tables"]["train"]["duplicate_rows"] == 0
    assert report["tables"]["train"]["shortest"] == 8
    assert (report["shared"][1]["rows"], report["shared"][1]["contradictory_rows"]) == (1, 1)


@pytest.mark.parametrize(
    ("task", "train", "test"),
    [
        ("multi_label", ["a;b", "b;a", "a"], ["b;a", "b"]),
        ("regression", ["0.5", "0.50", "1"], ["5e-1", "2"]),
    ],
)
def test_labels_that_are_written_in_two_ways_do_not_contradict_each_other(tmp_path: Path, task, train, test):
    sequences = ["ACGT", "ACGT", "TTTT"]
    tables = [
        write_table(tmp_path / f"{name}.csv", list(zip(sequences, labels, strict=False)))
        for name, labels in (("a", train), ("b", test), ("c", [test[1]]))
    ]
    splits = load_splits(*tables, task=task)
    encoded = {
        name: encode_table(getattr(splits, name), tiny_tokenizer(), splits.labels, 8) for name in ("train", "dev", "test")
    }
    report = tables_report(splits, encoded)
    assert report["tables"]["train"]["duplicate_rows"] == 1
    assert report["tables"]["train"]["contradictory_sequences"] == 0
    assert [pair["contradictory_rows"] for pair in report["shared"]] == [
        1,
        1,
        0,
    ]  # train and dev, train and test, dev and test


def test_real_tables_share_rows_as_known(shared_dir: Path):
    folder = shared_dir / "data" / "GUE" / "prom" / "prom_core_notata"
    splits = load_splits(*(folder / f"{name}.csv" for name in ("train", "dev", "test")))
    encoded = {
        name: encode_table(getattr(splits, name), tiny_tokenizer(), splits.labels, 20) for name in ("train", "dev", "test")
    }
    report = tables_report(splits, encoded)
    assert report["tables"]["train"]["duplicate_rows"] > 0
    assert report["shared"][1]["rows"] > 0
    assert report["tables"]["train"]["truncated_rows"] > 0
