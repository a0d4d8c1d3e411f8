import csv
from collections import Counter
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnabert2_jax.data.reading import read_table
from dnabert2_jax.gue.catalog import catalog
from dnabert2_jax.gue.discovery import discover
from dnabert2_jax.gue.tables import CAPPED_TABLE, capped_rows, prepare
from dnabert2_jax.tokenizer.loading import Tokenizer
from tests.helpers import tiny_rows, tiny_tokenizer, write_table

PAIRS = "sequence1,sequence2,label"


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=200), st.integers(1, 250))
def test_a_capped_table_keeps_file_order_and_the_shares_of_the_classes(labels, cap):
    rows = capped_rows(labels, cap)
    assert rows == sorted(set(rows))
    assert len(rows) == min(cap, len(labels))
    taken, total = Counter(labels[row] for row in rows), Counter(labels)
    if cap >= len(total):
        assert set(taken) == set(total)
    for label in total:
        assert abs(taken[label] - total[label] * len(rows) / len(labels)) <= len(total)


def test_a_capped_table_is_the_same_every_time_and_not_the_head_of_the_file():
    labels = ["a", "b"] * 500
    assert capped_rows(labels, 100) == capped_rows(labels, 100) != list(range(100))


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "prom" / "prom_core_tata"
    train = tiny_rows(60, 0)
    write_table(path / "train.csv", [*train, train[0], (train[1][0], "plain")])
    write_table(path / "dev.csv", tiny_rows(24, 1))
    write_table(path / "test.csv", [*tiny_rows(30, 2), train[4]])
    return path


def test_a_data_set_is_counted_whole_and_learned_from_as_capped(data_set, tmp_path):
    [found] = discover(data_set).found
    data = prepare(found, tiny_tokenizer(), tmp_path, 24)
    tables = data["report"]["tables"]
    assert tables["train"]["rows"] == 62
    assert tables["train"]["duplicate_rows"] == 2
    assert tables["train"]["contradictory_sequences"] == 1
    assert data["report"]["max_tokens"] == 20
    full = {split: tiny_tokenizer().encode_raw_batch(read_table(data_set / f"{split}.csv").sequences) for split in tables}
    assert {split: table["truncated_rows"] for split, table in tables.items()} == {
        split: sum(len(ids) + 2 > 20 for ids in rows) for split, rows in full.items()
    }
    assert data["longest_row"] == max(len(ids) + 2 for rows in full.values() for ids in rows)
    assert data["leaked_lines"] == [32]
    assert data["kmer"]["n"] == 31
    assert data["kmer_clean"]["n"] == 30
    assert data["train_rows"] == 24
    assert data["capped"]
    capped = read_table(tmp_path / CAPPED_TABLE)
    assert len(capped) == 24
    assert set(capped.sequences) <= set(read_table(data_set / "train.csv").sequences)


def test_without_a_cap_the_table_itself_is_used(data_set, tmp_path):
    [found] = discover(data_set).found
    data = prepare(found, tiny_tokenizer(), tmp_path, None)
    assert (data["capped"], data["train_rows"]) == (False, 62)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["mouse/3", "prom/prom_300_tata"])
def test_the_documented_findings_are_those_of_a_slow_count(shared_dir, name, tmp_path):
    """A row of the guide's table, counted from the files without any code of this project but the tokenizer's."""
    rows = {}
    for split in ("train", "dev", "test"):
        with (shared_dir / "data" / "GUE" / name / f"{split}.csv").open(newline="") as file:
            rows[split] = [(row["sequence"], row["label"]) for row in csv.DictReader(file)]
    train, dev = (dict.fromkeys(sequence for sequence, _ in rows[split]) for split in ("train", "dev"))
    tokenizer = Tokenizer.load(shared_dir / "data" / "dnabert2_hf")
    limit = catalog()[name].settings.max_tokens
    texts = [sequence for table in rows.values() for sequence, _ in table]
    counted = [
        len(rows["train"]),
        len(rows["train"]) - len(train),
        sum(
            len({label for text, label in group}) > 1 for _, group in groupby(sorted(rows["train"]), key=lambda row: row[0])
        ),
        sum(sequence in train for sequence, _ in rows["test"]),
        sum(sequence in train and (sequence, label) not in set(rows["train"]) for sequence, label in rows["test"]),
        sum(sequence in dev for sequence, _ in rows["test"]),
        sum(len(ids) + 2 > limit for ids in tokenizer.encode_raw_batch(texts)),
    ]
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "gue.md").read_text()
    assert f"| {name} | {' | '.join(f'{number:,}' for number in counted)} |" in guide

    [found] = discover(shared_dir / "data" / "GUE", [name]).found
    data = prepare(found, tokenizer, tmp_path, 200)
    tables = data["report"]["tables"]
    shared = {(pair["earlier"], pair["later"]): pair for pair in data["report"]["shared"]}
    assert counted == [
        tables["train"]["rows"],
        tables["train"]["duplicate_rows"],
        tables["train"]["contradictory_sequences"],
        shared["train", "test"]["rows"],
        shared["train", "test"]["contradictory_rows"],
        shared["dev", "test"]["rows"],
        sum(table["truncated_rows"] for table in tables.values()),
    ]
