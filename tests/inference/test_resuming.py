"""Jobs on files of any size: parts in the order of the input, resumed after a kill or shared out, with the same bytes."""

import csv
import gzip
import io
import json
import sys

import h5py
import numpy as np
import pytest
from pyarrow import parquet

from dnabert2_jax.data.sequences import given_sequences
from dnabert2_jax.inference import scan
from dnabert2_jax.inference.prediction import predict
from tests.genome.helpers import random_dna, write_fasta
from tests.helpers import write_table
from tests.processes import kill_when, start_cli

LENGTHS = np.random.default_rng(5).permutation([40, 120] * 45).tolist()
READS = {f"read{n}": random_dna(length, n) for n, length in enumerate(LENGTHS)}
SMALL = ("--batch-tokens", 32)
"""Parts of 1,280 bases: the reads are six."""


@pytest.fixture(scope="module")
def fasta(tmp_path_factory):
    return write_fasta(tmp_path_factory.mktemp("reads") / "reads.fa", READS)


@pytest.fixture
def refused(dnabert2):
    def run(*arguments):
        code, printed, errors = dnabert2(*arguments)
        assert (code, printed) == (2, "")
        return errors.splitlines()[-1]

    return run


def succeed(dnabert2, *arguments):
    code, _, errors = dnabert2(*arguments)
    assert code == 0, errors
    return errors


def stop_after(monkeypatch, name, parts):
    """The process ends in the middle of the job, when so many parts have been written."""
    computed = getattr(scan, name)
    calls = []

    def stops(*arguments, **options):
        calls.append(1)
        if len(calls) > parts:
            raise KeyboardInterrupt
        return computed(*arguments, **options)

    monkeypatch.setattr(scan, name, stops)


def test_predictions_are_those_of_all_sequences_at_once(dnabert2, classifier, classifier_path, fasta, tmp_path):
    out = tmp_path / "p.csv"
    assert "90 sequences" in succeed(dnabert2, "predict", "--model", classifier_path, "--data", fasta, "--out", out, *SMALL)
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [row["name"] for row in rows] == list(READS)
    expected = predict(classifier, given_sequences(READS))
    for number, label in enumerate(classifier.labels):
        np.testing.assert_allclose([float(row[f"p_{label}"]) for row in rows], expected.probabilities[:, number], atol=1e-5)


def test_a_killed_command_continues_with_the_same_bytes(dnabert2, classifier_path, fasta, tmp_path):
    """A process of its own and SIGKILL."""
    whole, out = tmp_path / "whole.csv", tmp_path / "p.csv"
    words = ["predict", "--model", classifier_path, "--data", fasta, "--max-tokens", 20, *SMALL, "--out"]
    expected = succeed(dnabert2, *words, whole)
    record = tmp_path / "p.csv.unfinished.json"
    kill_when(start_cli(*words, out), lambda: record.exists() and json.loads(record.read_text())["state"]["parts"] >= 2)
    assert not out.exists()
    remarks = succeed(dnabert2, *words, out)
    assert "resuming after" in remarks
    assert out.read_bytes() == whole.read_bytes()
    assert remarks.splitlines()[-1] == expected.splitlines()[-1]  # counts of the whole file, not of the rest
    assert (tmp_path / "p.csv.json").read_bytes() == (tmp_path / "whole.csv.json").read_bytes()
    assert sorted(path.name for path in tmp_path.glob("p.*")) == ["p.csv", "p.csv.json"]


@pytest.mark.parametrize(("suffix", "pooling"), [("parquet", "mean"), ("h5", "token"), ("npz", "base"), ("jsonl", "cls")])
def test_an_interrupted_embedding_continues(dnabert2, mlm_path, fasta, tmp_path, monkeypatch, suffix, pooling):
    whole, out = tmp_path / f"whole.{suffix}", tmp_path / f"e.{suffix}"
    words = ("embed", "--model", mlm_path, "--data", fasta, "--pooling", pooling, *SMALL, "--out")
    succeed(dnabert2, *words, whole)
    with monkeypatch.context() as patch:
        stop_after(patch, "embed", 3)
        code, _, errors = dnabert2(*words, out)
        assert code == 130
        assert "rerun the same command" in errors
    assert not out.exists()
    assert "resuming after" in succeed(dnabert2, *words, out)
    assert content(out) == content(whole)


def content(path):
    """What is in a file, without what depends on the time or the library."""
    if path.suffix == ".npz":
        with np.load(path) as file:
            return {name: file[name].tolist() for name in file.files}
    if path.suffix == ".h5":
        with h5py.File(path) as file:
            return {name: dataset[()].tolist() for name, dataset in file.items()} | dict(file.attrs)
    if path.suffix == ".parquet":
        table = parquet.read_table(path)
        return table.to_pydict() | dict(table.schema.metadata)
    return path.read_bytes()


def test_other_input_or_settings_are_another_job(dnabert2, refused, mlm_path, tmp_path, monkeypatch):
    fasta = write_fasta(tmp_path / "reads.fa", READS)
    words = ("embed", "--model", mlm_path, "--data", fasta, "--out", tmp_path / "e.csv", *SMALL)
    with monkeypatch.context() as patch:
        stop_after(patch, "embed", 1)
        assert dnabert2(*words)[0] == 130
    assert "(pooling mean, now cls); repeat that command" in refused(*words, "--pooling", "cls")
    assert "(bases_at_once 1280, now 640)" in refused(*words[:-1], 16)
    write_fasta(fasta, {**READS, "read3": "ACGT"})
    assert "is the beginning of another job (content [[" in refused(*words)
    assert "resuming" not in succeed(dnabert2, *words, "--force")


@pytest.mark.parametrize(
    ("command", "suffix", "options"),
    [
        ("predict", "tsv", ()),
        ("predict", "parquet", ("--reverse-complement",)),
        ("predict", "bed", ("--window", 50)),
        ("embed", "h5", ("--pooling", "base")),
        ("embed", "npz", ("--pooling", "token")),
    ],
)
def test_shares_become_the_whole(dnabert2, mlm_path, classifier_path, fasta, tmp_path, command, suffix, options):
    model = classifier_path if command == "predict" else mlm_path
    whole, out = tmp_path / f"whole.{suffix}", tmp_path / f"x.{suffix}"
    words = (command, "--model", model, "--data", fasta, *SMALL, *options, "--out")
    succeed(dnabert2, *words, whole)
    for number in (2, 1, 3):
        succeed(dnabert2, *words, out, "--shard", f"{number}/3")
    assert not out.exists()
    assert "3 shares joined: x.1-of-3" in succeed(dnabert2, "merge-shards", out)
    assert content(out) == content(whole)
    beside = [path.with_name(f"{path.name}.json") for path in (out, whole)]
    assert [path.exists() for path in beside] in ([True, True], [False, False])
    if beside[0].exists():
        assert beside[0].read_bytes() == beside[1].read_bytes()


def test_shares_that_cannot_be_joined(dnabert2, refused, mlm_path, fasta, tmp_path):
    out = tmp_path / "x.csv"
    assert "there is no x.1-of-2.csv or the like beside it" in refused("merge-shards", out)
    words = ("embed", "--model", mlm_path, "--data", fasta, *SMALL, "--out", out)
    assert f"{tmp_path} is a directory" in (said := refused("merge-shards", tmp_path))
    assert "it holds no shares" in said
    succeed(dnabert2, *words, "--shard", "1/2")
    assert f"the --out of their commands: {out}" in refused("merge-shards", tmp_path)
    assert "shares are missing (2/2)" in refused("merge-shards", out)
    succeed(dnabert2, *words, "--shard", "2/2", "--pooling", "max")
    assert "x.2-of-2.csv was made with another model or other settings" in refused("merge-shards", out)
    succeed(dnabert2, *words, "--shard", "3/3")
    assert "there are shares of 2 and of 3 beside it" in refused("merge-shards", out)
    assert "accepted is NUMBER/COUNT" in refused(*words, "--shard", "0/3")
    assert "90 sequences, 7,200 bases make 6 parts of several batches, fewer than" in refused(*words, "--shard", "1/9")
    assert "exists; choose another name" in refused(*words, "--shard", "1/2")


def test_pairs_and_other_columns_are_streamed(dnabert2, classifier_path, tmp_path):
    rows = [(f"r{n}", random_dna(30, n), random_dna(20, 100 + n), str(n)) for n in range(70)]
    table = write_table(tmp_path / "t.csv", rows, "id,sequence1,sequence2,batch")
    out = tmp_path / "p.parquet"
    words = ("predict", "--model", classifier_path, "--data", table, "--name-column", "id", *SMALL, "--out")
    assert "70 pairs, 3,500 bases" in succeed(dnabert2, *words, out)
    found = parquet.read_table(out).to_pydict()
    assert (found["name"], found["batch"]) == ([row[0] for row in rows], [row[3] for row in rows])


def test_standard_input_to_standard_output_in_parts(dnabert2, mlm_path, monkeypatch, capsys):
    text = gzip.compress("".join(f"@{name}\n{dna}\n+\n{'I' * len(dna)}\n" for name, dna in READS.items()).encode())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    code, out, errors = dnabert2("embed", "--model", mlm_path, "--data", "-", "--out", "-", *SMALL)
    assert code == 0, errors
    header, *lines = [line.split("\t") for line in out.splitlines()]
    assert header == ["name", *(f"e{n}" for n in range(32))]
    assert [line[0] for line in lines] == list(READS)


def test_a_large_npz_is_refused_before_anything_is_computed(refused, mlm_path, fasta, tmp_path, monkeypatch):
    monkeypatch.setattr("dnabert2_jax.inference.rows._MOST_IN_MEMORY", 1e6)
    stop_after(monkeypatch, "embed", 0)
    words = ("embed", "--model", mlm_path, "--data", fasta, "--pooling", "base", "--out", tmp_path / "e.npz")
    assert "7,200 vectors of 32 numbers are 0.0 GB, but an .npz file" in refused(*words)
    assert not list(tmp_path.iterdir())
