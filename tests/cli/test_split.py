import re

from tests.helpers import tiny_rows, write_table


def test_split(dnabert2, tmp_path):
    table, out = write_table(tmp_path / "t.csv", tiny_rows(40, 1)), tmp_path / "out"
    code, printed, errors = dnabert2("split", table, "--out", out, "--by", "similarity", "--fractions", "0.5,0.25,0.25")
    assert (code, printed) == (0, f"saved {out}\n")
    (train,) = (line for line in errors.splitlines() if "train" in line)
    assert [word for word in train.split() if word.isalnum() or "%" in word][:3] == ["train", "20", "50.0%"]
    assert "label plain" in errors
    assert "exists; choose another name, or replace it with --force" in dnabert2("split", table, "--out", out)[2]
    assert dnabert2("split", table, "--out", out, "--force")[0] == 0
    assert "accepted are three numbers" in dnabert2("split", table, "--out", tmp_path / "x", "--fractions", "0.5")[2]


def test_a_table_without_one_of_the_labels_is_warned_of(dnabert2, tmp_path):
    rows = [("ACGT" * 5 + "ACGT"[n % 4] * (n + 1), "common") for n in range(30)] + [("TTGACA" * 4, "rare")]
    table = write_table(tmp_path / "table.csv", rows)
    _, _, errors = dnabert2("split", table, "--out", tmp_path / "out")
    assert re.search(r"warning: (dev|test) has no row of rare; try another --seed", errors)
