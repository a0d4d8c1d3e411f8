import csv
import io
import json
import sys

import h5py
import numpy as np
import pyarrow.parquet
import pytest

from dnabert2_jax.api import DNABERT2
from dnabert2_jax.artifacts.model import load_model
from dnabert2_jax.artifacts.tensors import tree_sha256
from dnabert2_jax.data.sequences import reverse_complement
from dnabert2_jax.version import __version__
from tests.genome.helpers import random_dna, write_fasta
from tests.helpers import write_table


@pytest.fixture
def fasta(tmp_path):
    return write_fasta(tmp_path / "x.fa", {"short": "ACGTTGACA", "long": random_dna(300, 1), "n": "NNacgt"})


def test_predict(dnabert2, classifier_path, fasta, tmp_path):
    out = tmp_path / "p.csv"
    code, printed, remarks = dnabert2(
        "predict", "--model", classifier_path, "--data", fasta, "--out", out, "--max-tokens", 40
    )
    assert (code, printed) == (0, f"saved {out}\n")
    assert "3 sequences, 315 bases; 4 lower-case letters upper-cased; 2 ambiguity codes read as [UNK]" in remarks
    assert "sequences of more than 40 tokens: 1, read in" in remarks
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [row["name"] for row in rows] == ["short", "long", "n"]
    assert int(rows[1]["windows"]) > 3


def test_predict_with_an_adapter(dnabert2, adapter_path, mlm_path, fasta, tmp_path):
    files = [tmp_path / f"{n}.csv" for n in range(3)]
    for out, how in zip(
        files,
        (["--adapter", adapter_path], ["--model", adapter_path], ["--adapter", adapter_path, "--base", mlm_path]),
        strict=True,
    ):
        assert dnabert2("predict", *how, "--data", fasta, "--out", out)[:2] == (0, f"saved {out}\n")
    assert len({out.read_bytes() for out in files}) == 1
    assert files[0].read_text().startswith("name,label,p_no,p_yes,windows,cut_bases,note\nshort,")


def test_embed(dnabert2, mlm_path, fasta, tmp_path):
    out = tmp_path / "e.npz"
    code, printed, remarks = dnabert2("embed", "--model", mlm_path, "--data", fasta, "--out", out, "--pooling", "base")
    assert (code, printed) == (0, f"saved {out}\n")
    assert "315 vectors of 32 numbers, base" in remarks
    with np.load(out) as file:
        assert file["names"].tolist() == ["short", "long", "n"]
        assert file["embeddings"].shape == (315, 32)


def test_every_output_says_what_made_it(dnabert2, classifier_path, adapter_path, mlm_path, fasta, tmp_path):
    data = ("--data", fasta, "--out")
    assert dnabert2("predict", "--model", classifier_path, *data, tmp_path / "p.csv", "--max-tokens", 40)[0] == 0
    assert dnabert2("predict", "--model", classifier_path, *data, tmp_path / "p.parquet")[0] == 0
    assert dnabert2("predict", "--model", adapter_path, *data, tmp_path / "adapter.csv")[0] == 0
    assert dnabert2("embed", "--model", mlm_path, *data, tmp_path / "e.npz", "--pooling", "max")[0] == 0
    assert dnabert2("embed", "--model", mlm_path, *data, tmp_path / "e.h5")[0] == 0
    rows = write_table(tmp_path / "t.csv", list(zip(("ACGT", "TTGG"), load_model(classifier_path).labels, strict=False)))
    words = ("evaluate", "--model", classifier_path, "--data", rows, "--out", tmp_path / "s.json")
    assert dnabert2(*words)[0] == 0

    beside = json.loads((tmp_path / "p.csv.json").read_text())
    settings = {"max_tokens": 40, "long": "windows", "overlap": 0.5, "reverse_complement": False, "views": 1}
    assert beside == {
        "command": "predict",
        "model": str(classifier_path),
        "model_sha256": tree_sha256(load_model(classifier_path).params),
        "tokenizer_sha256": load_model(classifier_path).tokenizer.sha256,
        "settings": {"data": str(fasta), **settings, "precision": "float32", "attention": "auto"},
        "dnabert2_jax": __version__,
    }
    in_parquet = json.loads(pyarrow.parquet.read_schema(tmp_path / "p.parquet").metadata[b"record"])
    assert in_parquet["model_sha256"] == beside["model_sha256"]
    assert not (tmp_path / "p.parquet.json").exists()
    assert json.loads((tmp_path / "adapter.csv.json").read_text())["model_sha256"] != beside["model_sha256"]
    with np.load(tmp_path / "e.npz") as file:
        in_npz = json.loads(str(file["record"]))
    with h5py.File(tmp_path / "e.h5") as file:
        in_hdf5 = json.loads(file.attrs["record"])
    assert (in_npz["command"], in_npz["settings"]["pooling"], in_hdf5["settings"]["pooling"]) == ("embed", "max", "mean")
    assert in_npz["model_sha256"] == in_hdf5["model_sha256"] == tree_sha256(load_model(mlm_path).params)
    scores = json.loads((tmp_path / "s.json").read_text())
    assert scores["record"]["model_sha256"] == beside["model_sha256"]
    assert scores["intervals"]["resamples"] == 1000


def test_fill_mask(dnabert2, mlm_path, tmp_path):
    out = tmp_path / "f.csv"
    code, printed, table = dnabert2("fill-mask", "--model", mlm_path, "--out", out, "ACGT[MASK]GG", "--top-k", 2)
    assert (code, printed) == (0, f"saved {out}\n")
    assert "candidates" in table
    assert len(out.read_text().splitlines()) == 3
    assert (
        dnabert2("fill-mask", "--model", mlm_path, "--out", out, "ACGTTGACAGG", "--mask", "2-4", "--mask", "11", "--force")[
            0
        ]
        == 0
    )
    assert {row["last_base"] for row in csv.DictReader(out.read_text().splitlines())} >= {"11"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "--data", "{fasta}", "--out", "{tmp}/p.csv"], "give either --model"),
        (["predict", "--model", "{mlm}", "--adapter", "{mlm}", "--data", "{fasta}", "--out", "{tmp}/p.csv"], "give either"),
        (["predict", "--model", "{mlm}", "--data", "{fasta}", "--out", "{tmp}/p.csv"], "is a masked_lm; prediction needs"),
        (
            ["evaluate", "--model", "{mlm}", "--data", "{table}", "--out", "{tmp}/e.json"],
            "scoring needs a classifier",
        ),
        (["embed", "--model", "{mlm}", "--data", "{tmp}/none.fa", "--out", "{tmp}/e.npz"], "none.fa does not exist"),
        (["embed", "--model", "{mlm}", "--data", "{fasta}", "--out", "{tmp}/no/e.npz"], "there is no directory"),
        (["embed", "--model", "{mlm}", "--data", "{fasta}", "--out", "{tmp}/e.bed"], "a .bed file holds coordinates"),
        (["embed", "--model", "{mlm}", "--data", "{fasta}", "--out", "{tmp}/e.npz", "--attention", "x"], "backend 'x'"),
        (["fill-mask", "--model", "{mlm}", "--out", "{tmp}/f.csv", "ACGT"], "nothing is masked"),
        (["fill-mask", "--model", "{mlm}", "--out", "{tmp}/f.csv", "ACGT", "--mask", "0"], "'0' is not a range of bases"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(dnabert2, mlm_path, fasta, tmp_path, arguments, message):
    table = write_table(tmp_path / "table.csv", [("ACGT", "0"), ("GGTA", "1")])
    places = {"mlm": mlm_path, "fasta": fasta, "tmp": tmp_path, "table": table}
    code, out, errors = dnabert2(*(argument.format(**places) for argument in arguments))
    assert code == 2
    assert out == ""
    last = errors.splitlines()[-1]
    assert last.startswith("dnabert2: ")
    assert message in last


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("predict --data {none} --out {tmp}/p.csv", "give either --model"),
        ("predict --model {mlm} --data {none} --out {tmp}/p.csv", "is a masked_lm; prediction needs"),
        ("predict --model {mlm} --data {none} --out {tmp}/p.npz", "accepted are .csv, .tsv, .jsonl, .parquet"),
        ("predict --model {mlm} --data {none} --out {tmp}/p.csv --attention x", "backend 'x'"),
        ("predict --model {mlm} --data {none} --out {tmp}/p.bed", "a .bed file holds coordinates; add --window BASES"),
        ("predict --model {mlm} --data {none} --out {tmp}/p.csv --step 5", "give --window BASES as well"),
        ("embed --data {none} --out {tmp}/e.npz", "give either --model"),
        ("embed --model {tmp} --data {none} --out {tmp}/e.npz", "is not the directory of a model"),
        ("embed --model {mlm} --data {none} --out {tmp}/no/e.npz", "there is no directory"),
        ("embed --model {mlm} --data {none} --out {tmp}/e.npz --window 9 --pooling base", "choose mean, max or cls"),
        ("evaluate --model {mlm} --data {none} --out {tmp}/e.json", "scoring needs a classifier"),
        ("evaluate --model {mlm} --data {none} --out {tmp}/e.csv", "accepted are .json"),
    ],
)
def test_everything_else_is_checked_before_the_data_is_read(dnabert2, mlm_path, tmp_path, arguments, message):
    """The data does not exist, which would be the message if it were read first."""
    places = {"mlm": mlm_path, "tmp": tmp_path, "none": tmp_path / "none.fa"}
    code, _, errors = dnabert2(*arguments.format(**places).split())
    assert (code, len(errors.splitlines())) == (2, 1)
    assert message in errors


@pytest.mark.parametrize("command", ["predict", "embed", "fill-mask"])
def test_help_has_an_example(dnabert2, command):
    code, out, _ = dnabert2(command, "--help")
    assert code == 0
    assert f"Example: dnabert2 {command}" in out


def test_what_exists_is_replaced_only_with_force(dnabert2, classifier_path, mlm_path, fasta, tmp_path):
    table = write_table(tmp_path / "t.csv", [("ACGTTGACAA", "other")])
    commands = {
        "p.csv": ["predict", "--model", classifier_path, "--data", fasta],
        "e.npz": ["embed", "--model", mlm_path, "--data", fasta],
        "s.json": ["evaluate", "--model", classifier_path, "--data", table],
    }
    for name, command in commands.items():
        out = tmp_path / name
        out.write_text("precious")
        code, _, errors = dnabert2(*command, "--out", out)
        assert (code, errors) == (2, f"dnabert2: {out} exists; choose another name, or replace it with --force\n")
        assert out.read_text() == "precious"
        assert dnabert2(*command, "--out", out, "--force")[:2] == (0, f"saved {out}\n")


def test_from_standard_input_to_standard_output(dnabert2, classifier_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"@r1\nACGTTGACAA\n+\nIIIIIIIIII\n@r2\nACXT\n+\nIIII\n")))
    code, out, errors = dnabert2("predict", "--model", classifier_path, "--data", "-", "--out", "-", "--bad-records", "skip")
    assert code == 0
    assert [line.split("\t")[0] for line in out.splitlines()] == ["name", "r1"]
    assert "1 of 2 records skipped: record 'r2', position 3: 'X' is not a DNA letter" in errors


def test_columns_of_the_input_follow_those_of_the_prediction(dnabert2, classifier_path, tmp_path):
    rows = [("g1", "ACGTTGACAA", "other", "5"), ("g2", "GGATTACAGG", "coding", "7")]
    table = write_table(tmp_path / "t.csv", rows, "gene,sequence,label,windows")
    out = tmp_path / "p.csv"
    assert dnabert2("predict", "--model", classifier_path, "--data", table, "--out", out, "--name-column", "gene")[0] == 0
    first, second = csv.DictReader(out.read_text().splitlines())
    ours = ["name", "label", "p_coding", "p_intergenic", "p_other", "windows", "cut_bases", "note"]
    assert list(first) == [*ours, "input_label", "input_windows"]
    assert [first["name"], first["input_label"], second["input_windows"]] == ["g1", "other", "7"]


def test_evaluate_with_other_columns_and_labels(dnabert2, classifier_path, tmp_path):
    table = write_table(tmp_path / "t.csv", [("ACGTTGACAA", "1"), ("GGATTACAGG", "2"), ("ACXT", "1")], "insert,kind")
    code, out, errors = dnabert2(
        *("evaluate", "--model", classifier_path, "--data", table, "--out", "-", "--bad-records", "skip"),
        *("--sequence-column", "insert", "--label-column", "kind", "--label-map", "1=coding", "--label-map", "2=other"),
    )
    assert (code, json.loads(out)["n"]) == (0, 2)
    assert "1 of 3 records skipped" in errors
    assert (
        "accepted is LABEL=NAME"
        in dnabert2("evaluate", "--model", classifier_path, "--data", table, "--out", "-", "--label-map", "1")[2]
    )


def test_records_of_one_name(dnabert2, mlm_path, tmp_path):
    fasta = tmp_path / "x.fa"
    fasta.write_text(">gene a\nACGTTGACA\n>other\nGGCATT\n>gene b\nTTAGCA\n")
    command = ("embed", "--model", mlm_path, "--data", fasta, "--out")
    for window in ((), ("--window", 6)):
        code, _, errors = dnabert2(*command, tmp_path / "e.parquet", *window)
        assert code == 2
        assert "record 3: the name 'gene' is also that of record 1" in errors
        assert "--duplicate-names number" in errors
    remarks = dnabert2(*command, tmp_path / "e.npz", "--duplicate-names", "number")[2]
    assert "1 repeated name numbered" in remarks
    with np.load(tmp_path / "e.npz") as file:
        assert file["names"].tolist() == ["gene", "other", "gene_2"]
    dnabert2(*command, tmp_path / "e.parquet", "--duplicate-names", "number", "--window", 6)
    rows = pyarrow.parquet.read_table(tmp_path / "e.parquet").to_pydict()
    assert rows["name"] == ["gene", "gene", "other", "gene_2"]


def test_evaluate_intervals_of_a_genome(dnabert2, classifier, classifier_path, tmp_path):
    genome = random_dna(200, 9)
    fasta = write_fasta(tmp_path / "g.fa", {"chr1": genome})
    bed = tmp_path / "x.bed"
    bed.write_text("chr1\t0\t60\tcoding\t0\t+\tA\nchr1\t70\t130\tother\t0\t-\tB\n")
    rows = [(genome[:60], "coding"), (reverse_complement(genome[70:130]), "other")]
    table = write_table(tmp_path / "t.csv", rows)
    call = ("evaluate", "--model", classifier_path, "--out", "-")
    expected = json.loads(dnabert2(*call, "--data", table)[1])
    found = json.loads(dnabert2(*call, "--fasta", fasta, "--bed", bed)[1])
    assert found["record"]["settings"]["bed"] == str(bed)
    assert {**found, "record": None} == {**expected, "record": None}
    named = ("--label-column", 7, "--label-map", "A=coding", "--label-map", "B=other")
    assert json.loads(dnabert2(*call, "--fasta", fasta, "--bed", bed, *named)[1])["loss"] == found["loss"]
    assert DNABERT2(classifier).evaluate(bed, fasta=fasta)["loss"] == found["loss"]
    for words, says in (
        (("--fasta", fasta), "give either --data TABLE, or --fasta GENOME with --bed FILE"),
        (("--fasta", fasta, "--region", "chr1:1-60"), "--region chr1:1-60: scores compare predictions with labels, and a"),
        (("--fasta", fasta, "--bed", bed, "--data", table), "give either --data TABLE"),
        (("--fasta", fasta, "--bed", bed, "--label-column", "kind"), "give the number of a column, 4 or more"),
    ):
        code, _, errors = dnabert2(*call, *words)
        assert code == 2
        assert says in errors
