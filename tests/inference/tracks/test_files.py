"""Directories of tracks, read back by another library; and the command."""

import json
import sys

import numpy as np
import pyBigWig
import pytest

from dnabert2_jax.errors import UserError
from dnabert2_jax.inference.tracks import files
from dnabert2_jax.inference.tracks.bins import ClassTrack
from dnabert2_jax.inference.tracks.files import check_format, save_track
from dnabert2_jax.inference.tracks.labels import LabelTrack
from dnabert2_jax.inference.tracks.stretches import Piece
from tests.genome.helpers import random_dna, write_fasta
from tests.inference.tracks.helpers import by_place, stretches_of

pytest.importorskip("pybigtools", reason="pybigtools has no wheel for Python 3.14 yet")

GENOME = {"chr10": random_dna(90, 1), "chr2": random_dna(60, 2), "chrN": "N" * 30}
BED = "chr10\t5\t64\tx\t0\t-\nchr2\t10\t50\ty\t0\t+\n"


class Given:
    """A track whose values are given."""

    def __init__(self, stretches, pieces, channels=("a b", "a/b", "c+")):
        self.stretches, self.pieces, self.channels = stretches, pieces, channels

    def __iter__(self):
        return iter(self.pieces)


@pytest.fixture
def given(tmp_path):
    values = np.array([[0.1, 0.5, 1e-7], [0.7, 0.25, 1 / 3], [0.5, 0, 1]], np.float32)
    starts = np.array([0, 5, 20])
    return Given(
        stretches_of(tmp_path / "genome", GENOME),
        [
            Piece("chr10", "+", starts, starts + 5, values),
            Piece("chr2", "+", starts + 1, starts + 3, values[::-1]),
            Piece("chr10", "-", starts, starts + 1, values * 0.5),
        ],
    )


def read_bigwig(path):
    """(contig, start, end): value, by a library other than the one that wrote it."""
    with pyBigWig.open(str(path)) as file:
        return {
            (contig, start, end): value for contig in file.chroms() for start, end, value in file.intervals(contig) or ()
        }


def expected(track, channel, strand):
    return {
        (piece.contig, start, end): float(values[channel])
        for piece in track
        if piece.strand == strand
        for start, end, values in zip(piece.starts.tolist(), piece.ends.tolist(), piece.values, strict=True)
    }


def test_bigwigs_hold_every_value_as_it_is_and_nothing_else(given, tmp_path):
    saved = save_track(tmp_path / "out", given, "bigwig", {"command": "test"})
    names = ["a_b_0", "a_b_1", "c_plus"]
    assert sorted(path.name for path in saved) == sorted(f"{name}.{s}.bw" for name in names for s in ("plus", "minus"))
    for channel, name in enumerate(names):
        for strand, word in (("+", "plus"), ("-", "minus")):
            assert read_bigwig(tmp_path / "out" / f"{name}.{word}.bw") == expected(given, channel, strand)
    with pyBigWig.open(str(saved[0])) as file:
        assert np.isnan(file.values("chr10", 10, 20)).all()  # absent, not 0
    record = json.loads((tmp_path / "out" / "track.json").read_text())
    assert record == {"record": {"command": "test"}, "files": sorted(path.name for path in saved)}
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted([*record["files"], "track.json"])


def test_bedgraph_and_bed(given, tmp_path):
    save_track(tmp_path / "graph", given, "bedgraph", {})
    lines = (tmp_path / "graph" / "c_plus.plus.bedgraph").read_text().splitlines()
    assert lines[:3] == ["chr10\t0\t5\t1e-07", "chr10\t5\t10\t0.33333334", "chr10\t20\t25\t1.0"]
    save_track(tmp_path / "bed", given, "bed", {}, threshold=0.5)
    assert (tmp_path / "bed" / "a_b_0.plus.bed").read_text().splitlines() == [
        "chr10\t5\t10\ta_b\t700\t+",
        "chr10\t20\t25\ta_b\t500\t+",
        "chr2\t1\t3\ta_b\t500\t+",
        "chr2\t6\t8\ta_b\t700\t+",
    ]
    assert (tmp_path / "bed" / "a_b_0.minus.bed").read_text() == ""


def test_what_exists_stays_without_force(given, tmp_path):
    out = tmp_path / "out"
    save_track(out, given, "bedgraph", {})
    with pytest.raises(UserError, match="exists"):
        save_track(out, given, "bedgraph", {})
    save_track(out, given, "bed", {}, force=True)
    assert not list(out.glob("*.bedgraph"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match=r"is not a directory of tracks"):
        save_track(tmp_path / "mine", given, "bed", {}, force=True)


def test_a_failure_leaves_nothing(given, tmp_path, monkeypatch):
    def pieces():
        yield given.pieces[0]
        raise UserError("the model fell over")

    with pytest.raises(UserError, match="fell over"):
        save_track(tmp_path / "out", Given(given.stretches, pieces()), "bigwig", {})
    with pytest.raises(UserError, match="no value to write"):
        save_track(tmp_path / "out", Given(given.stretches, []), "bigwig", {})
    monkeypatch.setattr(files, "_bases_of", lambda library, path: 7)  # what an incomplete file would say
    with pytest.raises(UserError, match=r"out could not be written \(the bigWig file .* is incomplete"):
        save_track(tmp_path / "out", given, "bigwig", {})
    assert [path.name for path in tmp_path.iterdir()] == ["genome"]


def test_a_file_that_is_no_bigwig_has_no_bases(tmp_path):
    (tmp_path / "x.bw").write_bytes(b"nothing")
    assert files._bases_of(files._pybigtools(), tmp_path / "x.bw") == -1


@pytest.mark.parametrize(
    ("arguments", "probabilities", "words"),
    [
        (("bed", None), False, "these values are no probabilities"),
        (("bigwig", 0.5), True, "--threshold is for --format bed"),
        (("bed", 1.5), True, "--threshold 1.5 is no probability"),
    ],
)
def test_formats_that_cannot_hold_the_values(arguments, probabilities, words):
    with pytest.raises(UserError, match=words):
        check_format(*arguments, probabilities=probabilities)
    check_format("bed", None, probabilities=True)
    check_format("bedgraph", None, probabilities=False)


def test_without_pybigtools_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pybigtools", None)
    with pytest.raises(UserError, match=r'pip install "dnabert2_jax\[genome\]", or choose --format bedgraph'):
        check_format("bigwig", None, probabilities=True)


def test_the_command_of_a_classifier(dnabert2, classifier, classifier_path, tmp_path):
    genome, bed = write_fasta(tmp_path / "hg0.fa", GENOME), tmp_path / "b.bed"
    bed.write_text(BED)
    command = ("track", "--model", classifier_path, "--fasta", genome, "--bed", bed, "--window", 20, "--step", 10)
    code, printed, remarks = dnabert2(*command, "--strand", "bed", "--out", tmp_path / "out")
    assert (code, printed) == (0, f"saved {tmp_path / 'out'}\n"), remarks
    assert "2 stretches, 99 bases on + and -; 8 windows of 20 bases: coding, intergenic, other" in remarks
    values = by_place(ClassTrack(classifier, stretches_of(tmp_path / "again", GENOME, BED, "bed"), 20, 10))
    for channel, name in enumerate(classifier.labels):
        for strand, word in (("+", "plus"), ("-", "minus")):
            own = {(c, a, b): v[channel] for (c, s, a, b), v in values.items() if s == strand}
            found = read_bigwig(tmp_path / "out" / f"{name}.{word}.bw")
            assert list(found) == list(own)
            np.testing.assert_allclose(list(found.values()), list(own.values()), atol=1e-5)
    record = json.loads((tmp_path / "out" / "track.json").read_text())["record"]
    assert record["settings"].items() >= {"window": 20, "step": 10, "strand": "bed", "bed": str(bed)}.items()
    code, _, errors = dnabert2(*command, "--out", tmp_path / "out")
    assert (code, "exists" in errors) == (2, True)


def test_the_command_of_a_masked_language_model_makes_a_logo_hub(dnabert2, mlm_path, tmp_path):
    genome = write_fasta(tmp_path / "hg0.fa", GENOME)
    command = ("track", "--model", mlm_path, "--fasta", genome, "--region", "chr2:11-50", "--values", "logo")
    code, _, remarks = dnabert2(*command, "--strand", "both", "--out", tmp_path / "out")
    assert code == 0, remarks
    heights = {base: read_bigwig(tmp_path / "out" / f"{base}.plus.bw") for base in "ACGT"}
    for found in heights.values():
        assert list(found) == [("chr2", n, n + 1) for n in range(10, 50)]
    totals = np.sum([list(found.values()) for found in heights.values()], axis=0)
    assert ((totals >= 0) & (totals <= 2)).all()  # bits
    stanzas = (tmp_path / "out" / "hub.txt").read_text().split("\n\n")
    settings = [dict(line.split(" ", 1) for line in stanza.splitlines()) for stanza in stanzas]
    assert settings[1] == {"genome": "hg0"}
    containers = [each["track"] for each in settings if each.get("container") == "multiWig"]
    assert containers == ["logo_plus", "logo_minus"]
    for parent in containers:
        children = [each for each in settings if each.get("parent") == parent]
        assert [each["shortLabel"] for each in children] == list("ACGT")
        assert all((tmp_path / "out" / each["bigDataUrl"]).is_file() for each in children)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--strand", "bed"), "--strand bed takes the strand from column 6 of a BED file"),
        (("--values", "logo", "--format", "bedgraph"), "--values logo is a hub of bigWig files"),
        (("--values", "logp"), "--values logp is for a masked language model"),
        (("--window", "100", "--step", "30"), "a window must be a multiple of the step"),
        (("--region", "chr7"), "no contig 'chr7'"),
    ],
)
def test_what_does_not_go_together(dnabert2, classifier_path, tmp_path, arguments, words):
    genome = write_fasta(tmp_path / "g.fa", GENOME)
    out = tmp_path / "out"
    code, _, errors = dnabert2("track", "--model", classifier_path, "--fasta", genome, "--out", out, *arguments)
    assert code == 2
    assert words in errors
    assert not out.exists()


def test_options_of_a_classifier_are_refused_for_a_masked_language_model(dnabert2, mlm_path, tmp_path):
    genome = write_fasta(tmp_path / "g.fa", GENOME)
    for option, value in (("--step", 128), ("--max-tokens", 64)):
        code, _, errors = dnabert2("track", "--model", mlm_path, "--fasta", genome, "--out", tmp_path / "out", option, value)
        assert (code, f"{option} is for a classifier" in errors) == (2, True)


def test_the_command_of_a_model_of_labels_at_every_base(dnabert2, labeler, labeler_path, tmp_path):
    genome = write_fasta(tmp_path / "hg0.fa", GENOME)
    command = ("track", "--model", labeler_path, "--fasta", genome, "--strand", "both")
    code, printed, remarks = dnabert2(*command, "--out", tmp_path / "out")
    assert (code, printed) == (0, f"saved {tmp_path / 'out'}\n"), remarks
    assert "windows of 256 bases: gene, my tRNA" in remarks
    assert "4 files: gene.minus.bw, gene.plus.bw, my_tRNA.minus.bw, my_tRNA.plus.bw" in remarks
    values = by_place(LabelTrack(labeler, stretches_of(tmp_path / "again", GENOME, strand="both")))
    found = {}
    for channel, name in enumerate(("gene", "my_tRNA")):
        for strand, word in (("+", "plus"), ("-", "minus")):
            own = {(c, a, b): v[channel] for (c, s, a, b), v in values.items() if s == strand}
            found[channel, strand] = read_bigwig(tmp_path / "out" / f"{name}.{word}.bw")
            assert list(found[channel, strand]) == list(own)
            np.testing.assert_allclose(list(found[channel, strand].values()), list(own.values()), atol=1e-5)

    threshold = float(np.median([value for of in found.values() for value in of.values()]))
    rules = ("--threshold", threshold, "--merge", 2, "--min-length", 3)
    code, _, remarks = dnabert2(*command, "--format", "bed", *rules, "--out", tmp_path / "segments")
    assert code == 0, remarks
    for (channel, strand), of in found.items():
        word, name = {"+": "plus", "-": "minus"}[strand], ("gene", "my_tRNA")[channel]
        lines = [line.split("\t") for line in (tmp_path / "segments" / f"{name}.{word}.bed").read_text().splitlines()]
        assert all((line[3], line[5]) == (name, strand) for line in lines)
        covered = [(line[0], n) for line in lines for n in range(int(line[1]), int(line[2]))]
        assert len(covered) == len(set(covered))  # no segment twice, none that overlap
        assert all(int(line[2]) - int(line[1]) >= 3 for line in lines)
        high = {(contig, start) for (contig, start, _), value in of.items() if value > threshold + 1e-5}
        lone = high - set(covered)
        assert len(covered) > 0
        assert all((contig, start + 1) not in lone or (contig, start + 2) not in lone for contig, start in lone)
    record = json.loads((tmp_path / "segments" / "track.json").read_text())["record"]
    assert record["settings"]["segments"] == {"threshold": threshold, "merge": 2, "min_length": 3}
    assert record["settings"]["window"] == 256


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--step", "128"), "--step is for a classifier, and"),
        (("--values", "logp"), "--values logp is for a masked language model"),
        (("--merge", "5"), "--merge is for --format bed of a model that labels every base"),
        (("--window", "128"), "--window 128: a window needs more than 128 bases"),
        (("--format", "bed", "--threshold", "2"), "--threshold 2 is no probability"),
    ],
)
def test_options_that_a_model_of_labels_refuses(dnabert2, labeler_path, tmp_path, arguments, words):
    genome = write_fasta(tmp_path / "g.fa", GENOME)
    out = tmp_path / "out"
    code, _, errors = dnabert2("track", "--model", labeler_path, "--fasta", genome, "--out", out, *arguments)
    assert (code, words in errors) == (2, True), errors
    assert not out.exists()


def test_rules_of_segments_are_refused_for_a_classifier(dnabert2, classifier_path, tmp_path):
    genome = write_fasta(tmp_path / "g.fa", GENOME)
    command = ("track", "--model", classifier_path, "--fasta", genome, "--out", tmp_path / "out", "--format", "bed")
    code, _, errors = dnabert2(*command, "--min-length", 5)
    assert (code, "--min-length is for --format bed of a model that labels every base" in errors) == (2, True)
