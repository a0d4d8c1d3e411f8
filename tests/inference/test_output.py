import csv
import sys
from pathlib import Path

import numpy as np
import pytest

from dnabert2_jax.data.sequences import given_sequences
from dnabert2_jax.errors import UserError
from dnabert2_jax.inference.embedding import embed
from dnabert2_jax.inference.fill_mask import fill_mask
from dnabert2_jax.inference.formats import EMBEDDING_SUFFIXES
from dnabert2_jax.inference.output import check_output, save_columns, save_masked_tokens
from dnabert2_jax.inference.prediction import predict

SEQUENCES = ["ACGTTGACA", "GG", "TTTACCCATTTAGGN"]
NAMES = ["first", "zweites Gen (β)", "3"]


@pytest.fixture(scope="module")
def sequences():
    return given_sequences(SEQUENCES, names=NAMES)


@pytest.mark.parametrize("pooling", ["mean", "token", "base"])
def test_npz(mlm, sequences, tmp_path, pooling):
    embeddings = embed(mlm, sequences, pooling)
    save_columns(tmp_path / "x.npz", embeddings.arrays(mlm.tokenizer))
    with np.load(tmp_path / "x.npz", allow_pickle=False) as file:
        check_arrays(file, embeddings, mlm.tokenizer, file["names"].tolist())
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


@pytest.mark.parametrize("pooling", ["mean", "token", "base"])
def test_hdf5(mlm, sequences, tmp_path, pooling):
    h5py = pytest.importorskip("h5py")
    embeddings = embed(mlm, sequences, pooling)
    save_columns(tmp_path / "x.h5", embeddings.arrays(mlm.tokenizer), {"settings": {"pooling": pooling}})
    with h5py.File(tmp_path / "x.h5") as file:
        assert file.attrs["pooling"] == pooling
        arrays = {name: file[name][()] for name in file}
        check_arrays(arrays, embeddings, mlm.tokenizer, file["names"].asstr()[()].tolist())


def check_arrays(arrays, embeddings, tokenizer, names):
    assert names == NAMES
    np.testing.assert_array_equal(arrays["embeddings"], embeddings.vectors)
    if embeddings.pooling not in ("token", "base"):
        assert set(arrays) == {"names", "embeddings"}
        return
    assert set(arrays) == {"names", "embeddings", "offsets", "token_ids", "token_bases"}
    assert len(arrays["offsets"]) == len(NAMES) + 1
    assert arrays["token_bases"].sum() == sum(map(len, SEQUENCES))
    assert tokenizer.decode(arrays["token_ids"]) == "".join(SEQUENCES)
    each = [len(ids) for ids in embeddings.token_ids] if embeddings.pooling == "token" else list(map(len, SEQUENCES))
    assert np.diff(arrays["offsets"]).tolist() == each
    assert len(arrays["embeddings"]) == sum(each)


def test_parquet_of_sequences(mlm, sequences, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    embeddings = embed(mlm, sequences)
    save_columns(tmp_path / "x.parquet", embeddings.columns())
    table = parquet.read_table(tmp_path / "x.parquet").to_pydict()
    assert table["name"] == NAMES
    np.testing.assert_array_equal(np.array(table["embedding"], np.float32), embeddings.vectors)


@pytest.mark.parametrize("pooling", ["token", "base"])
def test_parquet_of_tokens_and_bases(mlm, sequences, tmp_path, pooling):
    parquet = pytest.importorskip("pyarrow.parquet")
    embeddings = embed(mlm, sequences, pooling)
    save_columns(tmp_path / "x.parquet", embeddings.columns())
    table = parquet.read_table(tmp_path / "x.parquet").to_pydict()
    own = [len(vectors) for vectors in embeddings.split()]
    assert table["name"] == [name for name, n in zip(NAMES, own, strict=True) for _ in range(n)]
    assert table["index"] == [at for n in own for at in range(n)]
    np.testing.assert_array_equal(np.array(table["embedding"], np.float32), embeddings.vectors)


def test_predictions_as_csv(classifier, sequences, tmp_path):
    predictions = predict(classifier, sequences)
    save_columns(tmp_path / "x.csv", predictions.columns())
    rows = list(csv.DictReader((tmp_path / "x.csv").read_text(encoding="utf-8").splitlines()))
    assert list(rows[0]) == ["name", "label", "p_coding", "p_intergenic", "p_other", "windows", "cut_bases", "note"]
    assert [row["name"] for row in rows] == NAMES
    assert [row["label"] for row in rows] == predictions.labels
    written = [[float(row[f"p_{name}"]) for name in classifier.labels] for row in rows]
    np.testing.assert_allclose(written, predictions.probabilities, rtol=1e-5)
    assert {(row["windows"], row["cut_bases"]) for row in rows} == {("1", "0")}


def test_predictions_as_parquet(classifier, sequences, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    predictions = predict(classifier, sequences)
    save_columns(tmp_path / "x.parquet", predictions.columns())
    table = parquet.read_table(tmp_path / "x.parquet").to_pydict()
    assert (table["name"], table["label"]) == (NAMES, predictions.labels)
    np.testing.assert_array_equal(np.float32(table["p_other"]), predictions.probabilities[:, 2])
    assert table["windows"] == [1, 1, 1]


def test_masked_tokens(mlm, tmp_path):
    text, ranges = fill_mask(mlm, "ACGT[MASK]GGA", top_k=2), fill_mask(mlm, "ACGTGGA", [(0, 7)], top_k=2)
    for tokens in (text, ranges):
        save_masked_tokens(tmp_path / "x.csv", tokens)
        rows = list(csv.DictReader((tmp_path / "x.csv").read_text().splitlines()))
        assert [(row["piece"], row["rank"]) for row in rows] == [
            (piece, str(rank)) for token in tokens for rank, (piece, _) in enumerate(token.candidates, 1)
        ]
        assert [row["original"] for row in rows[::2]] == [token.original or "" for token in tokens]
    assert "".join(row["original"] for row in rows[::2]) == "ACGTGGA"
    assert (rows[0]["first_base"], rows[-1]["last_base"]) == ("1", "7")


def test_a_library_that_is_not_installed_is_named_with_its_extra(mlm, sequences, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(
        UserError, match=r'need the package h5py, which is not installed; run pip install "dnabert2_jax\[hdf5\]"'
    ):
        check_output(tmp_path / "x.h5", EMBEDDING_SUFFIXES)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r'pip install "dnabert2_jax\[parquet\]", or choose another format'):
        save_columns(tmp_path / "x.parquet", embed(mlm, sequences).columns())


def test_places_that_cannot_be_written(mlm, sequences, tmp_path):
    for path, message in [
        (tmp_path / "x.bed", r"is not a known format; accepted are \.npz, \.parquet, \.h5"),
        (tmp_path / "x", "the suffix '' is not a known format"),
        (tmp_path / "none" / "x.npz", r"there is no directory .*none; create it first"),
    ]:
        with pytest.raises(UserError, match=message):
            check_output(path, EMBEDDING_SUFFIXES)
    (tmp_path / "x.npz").mkdir()
    with pytest.raises(UserError, match="is a directory; name a file"):
        check_output(tmp_path / "x.npz", EMBEDDING_SUFFIXES)


def test_a_failed_save_leaves_the_old_file(mlm, sequences, tmp_path):
    target = tmp_path / "x.npz"
    target.write_bytes(b"old")
    (tmp_path / "x.npz.partial").mkdir()  # in the way of the new file
    with pytest.raises(UserError, match=r"x\.npz could not be written"):
        save_columns(target, embed(mlm, sequences).columns())
    assert target.read_bytes() == b"old"


def test_a_table_to_standard_output_is_tsv(classifier, sequences, tmp_path, capsys):
    predictions = predict(classifier, sequences)
    save_columns(Path("-"), predictions.columns())
    save_columns(tmp_path / "x.tsv", predictions.columns())
    out = capsys.readouterr().out
    assert out == (tmp_path / "x.tsv").read_text(encoding="utf-8")
    assert out.startswith("name\tlabel\tp_coding\t")
    with pytest.raises(UserError, match=r"accepted are \.npz"):
        check_output(Path("-"), (".npz",))
