from pathlib import Path

import pytest

from dnabert2_jax import sample_data
from dnabert2_jax.data.splits import load_splits
from dnabert2_jax.errors import UserError
from tests.helpers import tiny_rows, write_table


def write(folder: Path, text: str | bytes, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_splits_share_the_classes_of_train(tmp_path):
    train = write(tmp_path, "sequence,label\nA,b\nC,a\nG,c\n", "train.csv")
    dev = write(tmp_path, "sequence\tlabel\nA\tc\n", "dev.tsv")
    test = write(tmp_path, "sequence,label\nA,a\nA,b\n", "test.csv")
    splits = load_splits(train, dev, test)
    assert splits.labels.names == ("a", "b", "c")
    assert [splits.labels.encode(table).tolist() for table in (splits.train, splits.dev, splits.test)] == [
        [1, 0, 2],
        [2],
        [0, 1],
    ]
    assert len(splits.labels) == 3


def test_a_test_label_that_train_lacks(tmp_path):
    train = write(tmp_path, "sequence,label\nA,donor\nC,acceptor\n", "train.csv")
    test = write(tmp_path, "sequence,label\nA,donor\nA,donors\n", "test.csv")
    with pytest.raises(UserError) as caught:
        load_splits(train, train, test)
    for word in (f"{test}, line 3", "'donors'", "acceptor, donor", "did you mean 'donor'?", "add training rows"):
        assert word in str(caught.value)


def test_pairs_and_single_sequences_do_not_mix(tmp_path):
    train = write(tmp_path, "sequence,label\nA,0\nC,1\n", "train.csv")
    test = write(tmp_path, "sequence1,sequence2,label\nA,A,0\n", "test.csv")
    with pytest.raises(UserError, match=r"train\.csv has one sequence per row and .*test\.csv has two"):
        load_splits(train, train, test)


def test_sample_table():
    splits = load_splits(*(sample_data.table(split) for split in ("train", "dev", "test")))
    assert splits.labels.names == ("coding+", "coding-", "intergenic")
    assert {len(sequence) for sequence in splits.train.sequences} == {150}


def test_gue_table(shared_dir):
    folder = shared_dir / "data/GUE/prom/prom_300_tata"
    splits = load_splits(folder / "train.csv", folder / "dev.csv", folder / "test.csv")
    assert [len(table) for table in (splits.train, splits.dev, splits.test)] == [4904, 613, 613]
    assert splits.labels.names == ("0", "1")
    assert splits.train.lines[-1] == 4905


def test_columns_and_label_map_are_those_of_all_three_tables(tmp_path):
    rows = [("ACGT", "0"), ("GGTA", "1")]
    tables = [write_table(tmp_path / f"{n}.csv", rows, "dna,kind") for n in range(3)]
    splits = load_splits(*tables, sequence_column="dna", label_column="kind", label_map={"0": "no", "1": "yes"})
    assert splits.labels.names == ("no", "yes")
    assert splits.test.labels == ["no", "yes"]


def test_bad_rows_can_be_left_out_of_all_three_tables(tmp_path):
    paths = [
        write_table(tmp_path / f"{name}.csv", [*tiny_rows(5, seed), ("AC*T", "rich")]) for seed, name in enumerate("abc")
    ]
    with pytest.raises(UserError, match=r"a\.csv, line 7.*'\*' is not a DNA letter"):
        load_splits(*paths, bad_records="error")
    splits = load_splits(*paths, bad_records="skip")
    assert [len(table) for table in (splits.train, splits.dev, splits.test)] == [5, 5, 5]
    assert any("1 of 6 records skipped" in note for note in splits.dev.notes)
