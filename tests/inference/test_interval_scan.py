"""Intervals of a genome through predict and embed: coordinates, strands, windows, and what stays in memory."""

import csv
import json

import h5py
import numpy as np
import pyarrow.parquet as parquet
import pytest

from dnabert2_jax.data.intervals import Interval, Intervals
from dnabert2_jax.data.sequences import given_sequences, reverse_complement
from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.reference import Reference
from dnabert2_jax.inference.embedding import embed
from dnabert2_jax.inference.formats import EMBEDDING_SUFFIXES
from dnabert2_jax.inference.interval_scan import plan_intervals, windows_of
from dnabert2_jax.inference.prediction import predict
from tests.genome.helpers import random_dna, write_fasta

GENOME = {"chr1": random_dna(500, 1), "chr2": random_dna(90, 2).lower()}
BED = "chr2\t10\t80\tsecond\t0\t-\n1\t0\t200\tfirst\t0\t+\nchr1\t450\t500\n"
ROWS = [("chr2", 10, 80, "second", "-"), ("chr1", 0, 200, "first", "+"), ("chr1", 450, 500, ".", ".")]


@pytest.fixture
def fasta(tmp_path):
    return write_fasta(tmp_path / "genome.fa", GENOME)


@pytest.fixture
def bed(tmp_path):
    path = tmp_path / "b.bed"
    path.write_text(BED)
    return path


def letters_of(contig, start, end, strand):
    letters = GENOME[contig][start:end].upper()
    return reverse_complement(letters) if strand == "-" else letters


@pytest.mark.parametrize(("bases", "window", "step"), [(500, 100, 100), (500, 100, 30), (95, 100, 50), (501, 100, 50)])
def test_windows_of_the_minus_strand_are_those_of_the_reverse_complement(bases, window, step):
    plus = list(windows_of(Interval("c", 7, 7 + bases, ".", "+"), window, step))
    minus = list(windows_of(Interval("c", 7, 7 + bases, ".", "-"), window, step))
    assert sorted((bases - (end - 7), bases - (start - 7)) for start, end in minus) == [(a - 7, b - 7) for a, b in plus]
    assert minus == sorted(minus)
    assert {base for a, b in minus for base in range(a, b)} == set(range(7, 7 + bases))


def test_chunks_are_the_intervals_in_the_order_of_the_file(fasta, bed):
    with Reference(fasta) as reference:
        plan = plan_intervals(Intervals(reference, bed, ("chr2:1-5",)))
        assert (plan.count, plan.windows, plan.longest) == (4, 4, 200)
        assert f"{bed} chr2:1-5: 4 intervals, 325 bases; 75 lower-case letters upper-cased; contigs read" in plan.summary()
        chunks = list(plan.chunks(bases=100))
    assert [len(chunk.sequences) for chunk in chunks] == [2, 2]
    found = [row for chunk in chunks for row in zip(*chunk.coordinates().values(), strict=True)]
    assert found == [*ROWS, ("chr2", 0, 5, "chr2:1-5", ".")]
    letters = [text for chunk in chunks for text in chunk.sequences.sequences]
    assert letters == [letters_of(contig, a, b, strand) for contig, a, b, _, strand in found]


def test_predict_writes_a_row_per_interval(dnabert2, classifier, classifier_path, fasta, bed, tmp_path):
    read = {}
    for suffix in ("csv", "bed"):
        read[suffix] = tmp_path / f"p.{suffix}"
        command = ("predict", "--model", classifier_path, "--fasta", fasta, "--bed", bed, "--out", read[suffix])
        code, printed, remarks = dnabert2(*command)
        assert (code, printed) == (0, f"saved {read[suffix]}\n"), remarks
    table = list(csv.DictReader(read["csv"].read_text().splitlines()))
    keys = ("name", "start", "end", "interval", "strand")
    assert [tuple(row[key] for key in keys) for row in table] == [tuple(map(str, row)) for row in ROWS]
    expected = predict(classifier, given_sequences([letters_of(*row[:3], row[4]) for row in ROWS]))
    assert [row["label"] for row in table] == expected.labels
    for number, name in enumerate(expected.classes):
        np.testing.assert_allclose([float(row[f"p_{name}"]) for row in table], expected.probabilities[:, number], atol=1e-5)
    lines = [line.split("\t") for line in read["bed"].read_text().splitlines()]
    assert [(*line[:4], line[5]) for line in lines] == [
        (row["name"], row["start"], row["end"], row["label"], row["strand"]) for row in table
    ]


def test_windows_of_intervals(dnabert2, classifier, classifier_path, fasta, bed, tmp_path):
    out = tmp_path / "p.csv"
    windows = ("--window", 60, "--step", 40)
    code, _, remarks = dnabert2(
        "predict", "--model", classifier_path, "--fasta", fasta, "--bed", bed, *windows, "--out", out
    )
    assert code == 0, remarks
    assert "3 intervals, 320 bases" in remarks
    table = list(csv.DictReader(out.read_text().splitlines()))
    rows = [(row["name"], int(row["start"]), int(row["end"]), row["strand"]) for row in table]
    assert rows == [
        *[("chr2", 10, 40, "-"), ("chr2", 20, 80, "-")],
        *[("chr1", start, min(200, start + 60), "+") for start in (0, 40, 80, 120, 160)],
        ("chr1", 450, 500, "."),
    ]
    expected = predict(classifier, given_sequences([letters_of(*row) for row in rows]))
    name = expected.classes[0]
    np.testing.assert_allclose([float(row[f"p_{name}"]) for row in table], expected.probabilities[:, 0], atol=1e-5)


def test_embed_has_intervals_in_every_format(dnabert2, mlm, mlm_path, fasta, bed, tmp_path):
    expected = embed(mlm, given_sequences([letters_of(*row[:3], row[4]) for row in ROWS])).vectors
    for suffix in EMBEDDING_SUFFIXES:
        out = tmp_path / f"e{suffix}"
        code, _, remarks = dnabert2("embed", "--model", mlm_path, "--fasta", fasta, "--bed", bed, "--out", out)
        assert code == 0, remarks
        rows, vectors = read_embeddings(out)
        assert rows == ROWS
        np.testing.assert_allclose(vectors, expected, atol=1e-5)


def read_embeddings(path):
    plural = ("names", "starts", "ends", "intervals", "strands")
    if path.suffix == ".npz":
        with np.load(path) as file:
            return list(zip(*(file[name].tolist() for name in plural), strict=True)), file["embeddings"]
    if path.suffix == ".h5":
        with h5py.File(path) as file:
            text = {name: file[name].asstr()[()].tolist() for name in ("names", "intervals", "strands")}
            columns = [text[name] if name in text else file[name][()].tolist() for name in plural]
            return list(zip(*columns, strict=True)), file["embeddings"][()]
    if path.suffix == ".parquet":
        table = parquet.read_table(path).to_pydict()
        keys = ("name", "start", "end", "interval", "strand")
        return list(zip(*(table[key] for key in keys), strict=True)), table["embedding"]
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return [tuple(list(row.values())[:5]) for row in rows], [row["embedding"] for row in rows]
    header, *lines = csv.reader(path.read_text().splitlines(), delimiter="," if path.suffix == ".csv" else "\t")
    assert header[:6] == ["name", "start", "end", "interval", "strand", "e0"]
    rows = [(name, int(start), int(end), *rest[:2]) for name, start, end, *rest in lines]
    return rows, [list(map(float, line[5:])) for line in lines]


def test_a_long_interval_as_one_row_is_announced(dnabert2, mlm_path, fasta, bed, tmp_path, monkeypatch):
    monkeypatch.setattr("dnabert2_jax.cli.inference._LONG_BASES", 200)
    command = ("embed", "--model", mlm_path, "--fasta", fasta, "--bed", bed)
    announced = "an interval of 200 bases becomes one row; for one row per stretch, add --window BASES"
    assert announced in dnabert2(*command, "--out", tmp_path / "e.npz")[2]
    assert announced not in dnabert2(*command, "--window", 70, "--out", tmp_path / "w.npz")[2]


def test_a_letter_that_is_not_dna_is_found_before_the_work(tmp_path, bed):
    path = write_fasta(tmp_path / "bad.fa", GENOME | {"chr2": "ACGTACGTAC*" + "A" * 79})
    with Reference(path) as reference, pytest.raises(UserError, match=r"chr2:11-80, position 1: '\*' is not a DNA letter"):
        plan_intervals(Intervals(reference, bed))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give either --data FILE, or --fasta GENOME with --bed or --region"),
        (("--data", "x.fa", "--fasta", "g.fa", "--region", "chr1"), "give either --data"),
        (("--fasta", "g.fa"), "add --bed FILE or --region CONTIG:START-END"),
        (("--data", "x.fa", "--bed", "b.bed"), "add --fasta GENOME instead of --data"),
        (("--fasta", "g.fa", "--bed", "-"), "--fasta reads its input twice"),
        (("--fasta", "g.fa", "--region", "chr1", "--step", "5"), "--step is the distance between windows"),
        (("--fasta", "g.fa", "--region", "chr1", "--pooling", "base"), "many vectors per interval; with --fasta"),
    ],
)
def test_what_does_not_go_together_is_refused_first(dnabert2, tmp_path, arguments, words):
    code, out, errors = dnabert2("embed", "--model", "nowhere", *arguments, "--out", tmp_path / "e.parquet")
    assert (code, out) == (2, "")
    assert words in errors
