import csv
import gzip
import json

import numpy as np
import pytest

from dnabert2_jax.data.dividing import deal, divide_table
from dnabert2_jax.data.splits import load_splits
from dnabert2_jax.errors import UserError
from tests.genome.helpers import random_dna
from tests.helpers import write_table

HEADER = "name,sequence,cell,label"


@pytest.fixture
def table(tmp_path):
    """100 rows: 20 windows on each of 5 contigs, 10 cells, 2 classes; row 99 repeats the sequence of row 0."""
    sequences = [random_dna(60, n) for n in range(99)]
    rows = [(f"chr{n // 20}:{n}-{n + 60}", s, f"cell{n % 10}", str(n % 2)) for n, s in enumerate([*sequences, sequences[0]])]
    return write_table(tmp_path / "table.csv", rows, HEADER)


def read(folder):
    return {
        name: list(csv.DictReader((folder / f"{name}.csv").read_text().splitlines())) for name in ("train", "dev", "test")
    }


def groups_of(tables, of):
    return [{of(row) for row in rows} for rows in tables.values()]


@pytest.mark.parametrize(
    ("by", "of"),
    [
        ("random", lambda row: row["sequence"]),
        ("similarity", lambda row: row["sequence"]),
        ("group", lambda row: row["cell"]),
    ],
)
def test_every_row_is_in_one_table_and_groups_are_whole(table, tmp_path, by, of):
    division = divide_table(table, tmp_path / "out", by=by, group_column="cell" if by == "group" else None)
    tables = read(tmp_path / "out")
    assert division.rows == {name: len(rows) for name, rows in tables.items()}
    assert sum(division.rows.values()) == 100
    assert abs(division.rows["train"] - 80) <= (11 if by == "group" else 2)
    train, dev, test = groups_of(tables, of)
    assert [train & dev, train & test, dev & test] == [set()] * 3
    assert list(tables["train"][0]) == HEADER.split(",")
    assert division.labels["train"]["0"] + division.labels["dev"]["0"] + division.labels["test"]["0"] == 50
    assert json.loads((tmp_path / "out" / "split.json").read_text())["by"] == by
    load_splits(*(tmp_path / "out" / f"{name}.csv" for name in tables))


def test_contigs_are_whole_but_equal_sequences_join_them(table, tmp_path):
    divide_table(table, tmp_path / "out", by="contig", fractions=(0.6, 0.2, 0.2))
    train, dev, test = groups_of(read(tmp_path / "out"), lambda row: row["name"].partition(":")[0])
    assert [train & dev, train & test, dev & test] == [set()] * 3
    assert any({"chr0", "chr4"} <= contigs for contigs in (train, dev, test))


def test_the_seed_decides(table, tmp_path):
    for n, seed in enumerate((1, 1, 2)):
        divide_table(table, tmp_path / str(n), seed=seed)
    first, again, other = ((tmp_path / str(n) / "test.csv").read_text() for n in range(3))
    assert first == again != other


def test_large_groups_are_dealt_first():
    groups = np.repeat([0, 1, 2, 3], [50, 30, 10, 10])
    chosen = deal(groups, (0.8, 0.1, 0.1), seed=0)
    assert np.bincount(chosen).tolist() == [80, 10, 10]
    assert np.bincount(deal(np.repeat([0, 1, 2], [60, 30, 10]), (0.8, 0.1, 0.1), seed=0)).tolist() == [60, 30, 10]
    assert set(deal(groups, (0.5, 0.0, 0.5), seed=0)) == {0, 2}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fractions": (0.8, 0.1, 0.2)}, "do not add up to 1"),
        ({"fractions": (0.9, -0.1, 0.2)}, "include a negative one; give three"),
        ({"by": "group"}, "--by group needs --group-column"),
        ({"by": "group", "group_column": "cel"}, "no column 'cel'.*with --group-column \\(did you mean 'cell'"),
        ({"by": "contig", "group_column": "label"}, "there are 1 groups of rows that must stay together"),
    ],
)
def test_mistakes(table, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        divide_table(table, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_what_is_no_table_or_exists_is_refused(table, tmp_path):
    fasta = tmp_path / "x.fa"
    fasta.write_text(">a\nACGT\n>b\nAC\n")
    with pytest.raises(UserError, match=r"x\.fa: this is not a table"):
        divide_table(fasta, tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis").touch()
    with pytest.raises(UserError, match="--force does not replace it"):
        divide_table(table, tmp_path / "full", force=True)


def test_a_table_with_another_share_of_a_class_is_noted(tmp_path):
    rows = [(f"c{n}", random_dna(60, n), "big" if n < 60 else f"cell{n}", str(int(n < 60))) for n in range(300)]
    table = write_table(tmp_path / "table.csv", rows, HEADER)
    grouped = divide_table(table, tmp_path / "grouped", by="group", group_column="cell", fractions=(0.4, 0.4, 0.2))
    notes = [note for note in grouped.notes if "of its rows have the label '1'" in note]
    [(name, share)] = [(name, own["1"] / grouped.rows[name]) for name, own in grouped.labels.items() if own["1"]]
    assert (
        f"{name}: {share:.0%} of its rows have the label '1', of all rows 20%; another --seed may balance them better"
        in notes
    )
    assert not any("of its rows" in note for note in divide_table(table, tmp_path / "random").notes)


def test_a_compressed_table_in_a_bucket(table, bucket, tmp_path):
    (bucket / "table.csv.gz").write_bytes(gzip.compress(table.read_bytes()))
    from_bucket = divide_table(bucket / "table.csv.gz", tmp_path / "from_bucket")
    assert from_bucket.rows == divide_table(table, tmp_path / "from_disk").rows
    assert read(tmp_path / "from_bucket") == read(tmp_path / "from_disk")
