"""A model, its input, and its output in a bucket: the same results as on a disk."""

import shutil
from pathlib import Path

import numpy as np

from tests.helpers import tiny_rows, write_table


def content(path: Path, place: Path) -> list[str]:
    """What a file says, without the place where it lies."""
    if path.suffix == ".npz":
        with path.open("rb") as file, np.load(file) as arrays:
            said = [f"{name} {arrays[name].tolist()}" for name in arrays.files]
    else:
        said = [path.read_text()]
    return [text.replace(str(place), "") for text in said]


def test_commands_read_and_write_a_bucket(bucket, dnabert2, classifier_path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = Path("here")
    rows = [(sequence, {"plain": "coding", "rich": "intergenic"}[label]) for sequence, label in tiny_rows(12, seed=3)]
    write_table(here / "reads.csv", rows)
    shutil.copytree(classifier_path, here / "model")
    for file in sorted(here.rglob("*")):
        if file.is_file():
            (bucket / file.relative_to(here).as_posix()).write_bytes(file.read_bytes())

    for command, output in (("predict", "predictions.csv"), ("embed", "vectors.npz"), ("evaluate", "scores.json")):
        for place in (here, bucket):
            out = place / output
            code, said, errors = dnabert2(command, "--model", place / "model", "--data", place / "reads.csv", "--out", out)
            assert code == 0, errors
            assert f"saved {out}\n" in said
        assert content(bucket / output, bucket) == content(here / output, here)
    assert {path.name for path in tmp_path.iterdir()} == {"here", "bucket_cache"}
