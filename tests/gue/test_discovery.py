from pathlib import Path

import pytest

from dnabert2_jax.errors import UserError
from dnabert2_jax.gue.catalog import catalog
from dnabert2_jax.gue.discovery import discover
from tests.helpers import tiny_task, write_table


def task(directory: Path, *names: str) -> Path:
    """A data set whose tables have the given file names."""
    for name in names or ("train.csv", "dev.csv", "test.csv"):
        write_table(directory / name, [("ACGTACGT", "0"), ("TTTTACGT", "1")])
    return directory


def test_the_published_layout(tmp_path):
    for name in catalog():
        task(tmp_path / name)
    found = discover(tmp_path)
    assert [entry.task.name for entry in found.found] == list(catalog())
    assert (found.missing, found.problems) == ([], {})
    assert found.found[0].tables == {split: tmp_path / f"EMP/H3/{split}.csv" for split in ("train", "dev", "test")}


def test_what_is_missing_is_named(tmp_path):
    task(tmp_path / "tf" / "1")
    found = discover(tmp_path)
    assert len(found.missing) == 27
    assert "tf/1" not in found.missing
    assert discover(tmp_path, ["tf/*"]).missing == ["tf/0", "tf/2", "tf/3", "tf/4"]
    assert discover(tmp_path / "tf").found[0].task.name == "tf/1"
    assert discover(tmp_path / "tf" / "1").found[0].task.name == "tf/1"


def test_odd_names_of_tables_are_understood(tmp_path):
    place = task(tmp_path / "mouse_2", "Train.CSV", "validation.tsv.gz", "TEST.tsv")
    (place / "notes.csv").write_text("no table")
    [found] = discover(tmp_path).found
    assert {split: path.name for split, path in found.tables.items()} == {
        "train": "Train.CSV",
        "dev": "validation.tsv.gz",
        "test": "TEST.tsv",
    }


def test_other_tasks_are_found_too_and_come_last(tmp_path):
    task(tmp_path / "my task")
    task(tmp_path / "deep" / "er" / "one")
    task(tmp_path / "virus" / "covid")
    task(tmp_path / ".hidden")
    assert [entry.task.name for entry in discover(tmp_path).found] == ["virus/covid", "deep/er/one", "my_task"]
    assert [entry.task.suite for entry in discover(tmp_path).found] == ["GUE", "other", "other"]


def test_a_link_to_data_elsewhere_is_named_by_where_it_is_linked(tmp_path):
    task(tmp_path / "elsewhere" / "mine")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere")
    assert [entry.task.name for entry in discover(tmp_path / "data").found] == ["linked/mine"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("train.csv", "test.csv"), "has no table named dev, only test.csv, train.csv; accepted are"),
        (("train.csv", "dev.csv", "val.csv", "test.csv"), "has dev.csv and val.csv for one table; keep one of them"),
    ],
)
def test_a_directory_that_is_no_data_set_says_why(tmp_path, names, said):
    task(tmp_path / "tf" / "0")
    task(tmp_path / "tf" / "1", *names)
    found = discover(tmp_path)
    assert [entry.task.name for entry in found.found] == ["tf/0"]
    assert list(found.problems) == ["tf/1"]
    assert said in found.problems["tf/1"]


def test_one_data_set_in_two_places_is_not_guessed(tmp_path):
    task(tmp_path / "a" / "H3")
    task(tmp_path / "b" / "emp_H3")
    found = discover(tmp_path)
    assert found.found == []
    assert "found twice" in found.problems["EMP/H3"]
    assert str(tmp_path / "a" / "H3") in found.problems["EMP/H3"]


def test_rows_that_differ_from_the_published_ones_are_remarked(tmp_path):
    tiny_task(tmp_path / "tf" / "0", train=40)
    [found] = discover(tmp_path).found
    assert found.remarks == (
        "train.csv has 40 rows, 32,378 are published",
        "dev.csv has 24 rows, 1,000 are published",
        "test.csv has 30 rows, 1,000 are published",
    )


@pytest.mark.parametrize(
    ("patterns", "names"),
    [(["TF/*"], ["tf/0", "tf/1"]), (["tf/1", "mouse/?"], ["mouse/0", "tf/1"]), (["*"], ["mouse/0", "tf/0", "tf/1"])],
)
def test_patterns_choose(tmp_path, patterns, names):
    for name in ("tf/0", "tf/1", "mouse/0"):
        task(tmp_path / name)
    assert [entry.task.name for entry in discover(tmp_path, patterns).found] == names


@pytest.mark.parametrize(
    ("make", "patterns", "said"),
    [
        (lambda path: None, [], "is not a directory"),
        (lambda path: path.mkdir(), [], "no directory with train.csv, dev.csv and test.csv at most 4 levels below"),
        (lambda path: task(path / "tf/0"), ["promo/*"], "--tasks promo/* matches none of"),
        (lambda path: task(path / "tf/0"), ["tf/00"], "did you mean 'tf/0'?"),
        (lambda path: task(path / "tf/0"), ["tf/9"], "did you mean 'tf/0'?"),  # tf/4 is as near, and not there
    ],
)
def test_nothing_to_run(tmp_path, make, patterns, said):
    make(tmp_path / "data")
    with pytest.raises(UserError) as error:
        discover(tmp_path / "data", patterns)
    assert said in str(error.value)
