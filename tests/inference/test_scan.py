"""Windows over a genome: their coordinates, that chunks change nothing, and that only chunks are in memory."""

import csv
import json

import numpy as np
import pytest

from dnabert2_jax.data.sequences import given_sequences
from dnabert2_jax.errors import UserError
from dnabert2_jax.inference import rows, scan
from dnabert2_jax.inference.embedding import embed
from dnabert2_jax.inference.formats import EMBEDDING_SUFFIXES
from dnabert2_jax.inference.prediction import predict
from dnabert2_jax.inference.scan import bases_of_a_chunk, embed_chunks, plan_scan, predict_chunks, starts_of_windows
from tests.genome.helpers import random_dna, write_fasta
from tests.helpers import write_table

GENOME = {"chr1": random_dna(1030, 1), "chr2": "ACGTNNacgt", "chr3": random_dna(100, 2)}


@pytest.fixture
def fasta(tmp_path):
    return write_fasta(tmp_path / "genome.fa", GENOME)


def windows_of(genome, window, step):
    """(name, start, end), written out."""
    found = []
    for name, sequence in genome.items():
        start = 0
        while True:
            found.append((name, start, min(start + window, len(sequence))))
            if start + window >= len(sequence):
                break
            start += step
    return found


@pytest.mark.parametrize(
    ("bases", "window", "step"), [(1, 5, 5), (5, 5, 2), (6, 5, 5), (10, 5, 5), (11, 5, 2), (1000, 7, 3)]
)
def test_every_base_is_in_a_window_and_only_the_last_one_is_shorter(bases, window, step):
    starts = starts_of_windows(bases, window, step)
    ends = [min(start + window, bases) for start in starts]
    assert sorted({base for a, b in zip(starts, ends, strict=True) for base in range(a, b)}) == list(range(bases))
    assert all(b - a == window for a, b in zip(starts[:-1], ends, strict=False))
    assert ends.count(bases) == 1  # none lies inside the one before


@pytest.mark.parametrize(("window", "step"), [(100, None), (100, 30)])
def test_windows_are_those_of_the_file_in_its_order(fasta, window, step):
    plan = plan_scan(fasta, window, step)
    chunks = list(plan.chunks(bases=350))
    found = [w for chunk in chunks for w in zip(chunk.sequences.names, chunk.starts, chunk.ends, strict=True)]
    assert found == windows_of(GENOME, window, step or window)
    letters = [text for chunk in chunks for text in chunk.sequences.sequences]
    assert letters == [GENOME[name][start:end].upper() for name, start, end in found]
    assert (plan.records, plan.windows) == (3, len(found))
    assert "3 sequences, 1,140 bases; 4 lower-case letters upper-cased; 2 ambiguity codes" in plan.summary()


def test_memory_holds_a_chunk_whatever_the_size_of_the_genome(tmp_path, mlm, monkeypatch):
    """The rows that are encoded at a time do not grow with the file, and every chunk is written before the next is read."""
    encoded = []
    monkeypatch.setattr(
        scan, "embed", lambda model, sequences, *_, **__: encoded.append(len(sequences)) or embed(model, sequences)
    )
    counts = {}
    for bases in (20_000, 80_000):
        encoded.clear()
        plan = plan_scan(write_fasta(tmp_path / f"{bases}.fa", {"chr": random_dna(bases, 0)}), 100)
        written = 0
        for _, embeddings in embed_chunks(mlm, plan.chunks(bases_of_a_chunk(256)), batch_tokens=256):
            written += len(embeddings.names)
            assert written == sum(encoded)
        counts[bases] = (max(encoded), len(encoded), written)
    chunk = 8 * 5 * 256 // 100 + 1
    assert counts == {20_000: (chunk, 2, 200), 80_000: (chunk, 8, 800)}


def test_predictions_are_those_of_the_windows_as_sequences(fasta, classifier):
    plan = plan_scan(fasta, 200, 90)
    chunks = plan.chunks(bases_of_a_chunk(16))
    parts = [predictions.columns() for _, predictions in predict_chunks(classifier, chunks, batch_tokens=16)]
    assert len(parts) > 1
    expected = predict(classifier, given_sequences([GENOME[n][a:b] for n, a, b in windows_of(GENOME, 200, 90)]))
    for number, name in enumerate(expected.classes):
        np.testing.assert_allclose(
            np.concatenate([part[f"p_{name}"] for part in parts]), expected.probabilities[:, number], atol=1e-5
        )
    assert [label for part in parts for label in part["label"]] == expected.labels


def test_predict_writes_coordinates_as_csv_tsv_bed_and_parquet(dnabert2, classifier_path, fasta, tmp_path):
    read = {}
    for suffix in ("csv", "tsv", "bed", "parquet"):
        out = tmp_path / f"p.{suffix}"
        command = ("predict", "--model", classifier_path, "--data", fasta, "--window", 300, "--step", 200, "--out", out)
        code, printed, remarks = dnabert2(*command)
        assert (code, printed) == (0, f"saved {out}\n"), remarks
        assert "7 windows of 300 bases, one every 200; about 1 kB to write" in " ".join(remarks.split())
        read[suffix] = out
    table = list(csv.DictReader(read["csv"].read_text().splitlines()))
    assert [(row["name"], int(row["start"]), int(row["end"])) for row in table] == windows_of(GENOME, 300, 200)
    assert list(csv.DictReader(read["tsv"].read_text().splitlines(), delimiter="\t")) == table
    bed = [line.split("\t") for line in read["bed"].read_text().splitlines()]
    assert [line[:4] for line in bed] == [[row["name"], row["start"], row["end"], row["label"]] for row in table]
    for line, row in zip(bed, table, strict=True):
        assert abs(int(line[4]) - 1000 * float(row[f"p_{row['label']}"])) <= 0.51
        assert line[5] == "."
    parquet = pytest.importorskip("pyarrow.parquet").read_table(read["parquet"]).to_pydict()
    assert list(parquet) == list(table[0])
    assert parquet["start"] == [int(row["start"]) for row in table]


def test_embed_writes_coordinates_and_vectors_in_every_format(dnabert2, mlm, mlm_path, fasta, tmp_path):
    expected = embed(mlm, given_sequences([GENOME[n][a:b] for n, a, b in windows_of(GENOME, 300, 300)])).vectors
    for suffix in EMBEDDING_SUFFIXES:
        out = tmp_path / f"e{suffix}"
        code, _, remarks = dnabert2("embed", "--model", mlm_path, "--data", fasta, "--window", 300, "--out", out)
        assert code == 0, remarks
        assert "6 vectors of 32 numbers, mean" in remarks
        names, starts, ends, vectors = read_embeddings(out)
        assert list(zip(names, starts, ends, strict=True)) == windows_of(GENOME, 300, 300)
        np.testing.assert_allclose(vectors, expected, atol=1e-5)


def read_embeddings(path):
    if path.suffix == ".npz":
        with np.load(path) as file:
            return tuple(file[name].tolist() for name in ("names", "starts", "ends", "embeddings"))
    if path.suffix == ".h5":
        with pytest.importorskip("h5py").File(path) as file:
            return (file["names"].asstr()[()].tolist(), *(file[n][()].tolist() for n in ("starts", "ends", "embeddings")))
    if path.suffix == ".parquet":
        table = pytest.importorskip("pyarrow.parquet").read_table(path).to_pydict()
        return tuple(table[name] for name in ("name", "start", "end", "embedding"))
    if path.suffix == ".jsonl":
        table = [json.loads(line) for line in path.read_text().splitlines()]
        return tuple([row[name] for row in table] for name in ("name", "start", "end", "embedding"))
    delimiter = "," if path.suffix == ".csv" else "\t"
    header, *lines = csv.reader(path.read_text().splitlines(), delimiter=delimiter)
    assert header == ["name", "start", "end", *(f"e{n}" for n in range(32))]
    return (
        [line[0] for line in lines],
        [int(line[1]) for line in lines],
        [int(line[2]) for line in lines],
        [list(map(float, line[3:])) for line in lines],
    )


def test_a_large_npz_is_refused_before_the_work(tmp_path):
    rows.check_size(tmp_path / "e.npz", 100_000, 768)
    rows.check_size(tmp_path / "e.parquet", 3_000_000, 768)
    with pytest.raises(UserError, match=r"3,000,000 vectors of 768 numbers are 9\.3 GB.*choose \.parquet or \.h5"):
        rows.check_size(tmp_path / "e.npz", 3_000_000, 768)


def test_a_table_has_windows_too_but_pairs_do_not(tmp_path):
    table = write_table(tmp_path / "t.csv", [("first", "ACGTACGTAC"), ("second", "GGT")], header="name,sequence")
    assert [chunk.sequences.names for chunk in plan_scan(table, 6).chunks(100)] == [["first", "first", "second"]]
    pairs = write_table(tmp_path / "p.csv", [("ACGT", "GGT")], header="sequence1,sequence2")
    with pytest.raises(UserError, match="holds pairs, but windows are cut from single sequences"):
        plan_scan(pairs, 6)
    with pytest.raises(UserError, match=r"--window 6 --step 7: .*a step 1 to 6"):
        plan_scan(table, 6, 7)


def test_a_chromosome_as_one_row_is_announced(dnabert2, mlm_path, tmp_path, monkeypatch):
    monkeypatch.setattr("dnabert2_jax.cli.inference._LONG_BASES", 500)
    fasta = write_fasta(tmp_path / "x.fa", {"short": "ACGT", "chr": random_dna(1000, 3)})
    _, _, remarks = dnabert2("embed", "--model", mlm_path, "--data", fasta, "--out", tmp_path / "e.npz")
    assert "'chr' has 1,000 bases, about " in remarks
    assert "tokens: one row, embedded whole, in roughly 0.0 GB of memory; for one row per stretch" in remarks


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--data", "-", "--out", "w.bed"), "name a file"),
        (("--data", "genome.fa", "--out", "w.bed", "--bad-records", "skip"), "--bad-records skip"),
    ],
)
def test_what_does_not_go_with_windows_is_refused_first(dnabert2, arguments, words):
    code, out, errors = dnabert2("predict", "--model", "nowhere", *arguments, "--window", 100)
    assert code == 2
    assert not out
    assert words in errors


def test_doubtful_windows_are_reported(dnabert2, fasta, classifier_path, tmp_path):
    code, _, errors = dnabert2(
        "predict", "--model", classifier_path, "--data", fasta, "--window", 8, "--out", tmp_path / "w.bed"
    )
    assert code == 0
    assert "doubtful predictions (column note)" in errors
