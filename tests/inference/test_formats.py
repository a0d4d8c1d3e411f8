"""Parts of a table become the same file however many they are, in every format."""

import json

import h5py
import numpy as np
import pytest
from pyarrow import parquet

from dnabert2_jax.inference import formats
from dnabert2_jax.inference.formats import FORMATS
from dnabert2_jax.inference.journal import packed, unpacked

PART = {"name": ["a", 'b "β"\n'], "count": np.array([2, 1]), "embedding": np.arange(6, dtype=np.float32).reshape(3, 2)}
ROWS = {"name": ["a", "b"], "p_x": np.array([0.25, np.nan], np.float32), "windows": np.array([1, 2])}


def test_a_journal_gives_back_its_parts(tmp_path):
    path = tmp_path / "journal"
    path.write_bytes(packed(PART) + packed(ROWS))
    first, second = unpacked(path)
    for found, given in ((first, PART), (second, ROWS)):
        assert list(found) == list(given)
        for name, values in given.items():
            np.testing.assert_array_equal(found[name], values)
            assert type(found[name]) is type(values)


def test_offsets_count_over_parts(tmp_path):
    FORMATS[".npz"].build([PART, PART], tmp_path / "x.npz", None)
    FORMATS[".h5"].build(iter([PART, PART]), tmp_path / "x.h5", None)
    with np.load(tmp_path / "x.npz") as npz, h5py.File(tmp_path / "x.h5") as hdf5:
        for file in (npz, hdf5):
            assert file["offsets"][:].tolist() == [0, 2, 3, 5, 6]
            assert file["embeddings"].shape == (6, 2)


def test_lines_of_json():
    lines = FORMATS[".jsonl"].encode(ROWS | {"embedding": np.ones((2, 2), np.float32) / 3}, True).decode().splitlines()
    assert json.loads(lines[0]) == {"name": "a", "p_x": 0.25, "windows": 1, "embedding": [0.333333, 0.333333]}
    assert json.loads(lines[1])["p_x"] is None


def test_a_header_comes_once():
    csv = FORMATS[".csv"]
    assert csv.encode(ROWS, True) + csv.encode(ROWS, False) == b"name,p_x,windows\na,0.25,1\nb,,2\na,0.25,1\nb,,2\n"


def test_parts_are_joined_into_row_groups(tmp_path, monkeypatch):
    path = tmp_path / "x.parquet"
    for most, groups in ((1, 3), (10**9, 1)):
        monkeypatch.setattr(formats, "_ROW_GROUP_BYTES", most)
        FORMATS[".parquet"].build([ROWS] * 3, path, {"command": "predict"})
        assert parquet.ParquetFile(path).num_row_groups == groups
        assert parquet.read_table(path).to_pydict()["name"] == ["a", "b"] * 3
    assert json.loads(parquet.read_schema(path).metadata[b"record"]) == {"command": "predict"}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_an_unfinished_file_becomes_the_file(tmp_path, suffix):
    unfinished, path = tmp_path / "x.unfinished", tmp_path / f"x{suffix}"
    chosen = FORMATS[suffix]
    unfinished.write_bytes(chosen.encode(ROWS, True) + chosen.encode(ROWS, False))
    chosen.finish(None)(unfinished, path)
    assert path.exists()
