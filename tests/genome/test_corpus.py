import gzip
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnabert2_jax.errors import UserError
from dnabert2_jax.genome import Corpus, SpeciesSource, build_corpus
from tests.genome.helpers import random_dna, write_fasta

pieces = st.lists(
    st.one_of(
        st.text("ACGTacgt", max_size=40), st.builds(lambda c, n: c * n, st.sampled_from("NnRYKs"), st.integers(0, 20))
    ),
    max_size=6,
).map("".join)


def text(corpus: Corpus, contig: int) -> str:
    return corpus.read(contig, 0, int(corpus.contig_lengths[contig])).tobytes().decode()


@given(
    contigs=st.lists(pieces, min_size=1, max_size=5).filter(lambda c: any(set(s.upper()) & set("ACGT") for s in c)),
    width=st.integers(1, 90),
    newline=st.sampled_from(["\n", "\r\n"]),
    packed=st.booleans(),
    data=st.data(),
)
def test_what_is_built_reads_back(tmp_path_factory, contigs, width, newline, packed, data):
    home = tmp_path_factory.mktemp("build")
    fasta = write_fasta(home / "x.fa", {f"s{i}": s for i, s in enumerate(contigs)}, width).read_text().replace("\n", newline)
    path = home / ("y.fa.gz" if packed else "y.fa")
    path.write_bytes(gzip.compress(fasta.encode()) if packed else fasta.encode())

    corpus = build_corpus([SpeciesSource("s", [path])], home / "corpus", ambiguous="unk", min_contig=1, validation_block=20)
    kept = {f"s{i}": s for i, s in enumerate(contigs) if s}
    assert corpus.contig_names == list(kept)
    assert [text(corpus, i) for i in range(len(kept))] == [s.upper() for s in kept.values()]
    (species,) = corpus.species
    joined = "".join(contigs)
    assert species.empty_records == len(contigs) - len(kept)
    assert species.bases == len(joined) == species.train_bases + species.validation_bases
    assert species.lower_case == sum(letter.islower() for letter in joined)
    assert sum(species.ambiguous.values()) == sum(letter not in "ACGT" for letter in joined.upper())

    contig = data.draw(st.integers(0, len(kept) - 1))
    sequence = list(kept.values())[contig].upper()
    start = data.draw(st.integers(0, len(sequence)))
    stop = data.draw(st.integers(start, len(sequence)))
    assert corpus.read(contig, start, stop).tobytes().decode() == sequence[start:stop]


@given(contigs=st.lists(pieces, min_size=1, max_size=5), block=st.integers(1, 50), minimum=st.integers(1, 10))
def test_splits_cover_every_base_once_and_no_code(tmp_path_factory, contigs, block, minimum):
    home = tmp_path_factory.mktemp("split")
    contigs = [random_dna(120, 5), *contigs]
    path = write_fasta(home / "x.fa", {f"s{i}": s for i, s in enumerate(contigs)})
    corpus = build_corpus(
        [SpeciesSource("s", [path])],
        home / "corpus",
        ambiguous="split",
        min_contig=minimum,
        validation_block=block,
        validation_fraction=0.3,
    )
    covered = [np.zeros(length, int) for length in corpus.contig_lengths]
    totals = {}
    for split in ("train", "validation"):
        for contig, start, stop in corpus.segments(split):
            assert stop - start >= minimum
            covered[contig][start:stop] += 1
        totals[split] = sum(int(stop - start) for _, start, stop in corpus.segments(split))
    (species,) = corpus.species
    assert totals == {"train": species.train_bases, "validation": species.validation_bases}
    left_out = 0
    for contig, cover in enumerate(covered):
        is_base = np.isin(corpus.read(contig, 0, len(cover)), list(b"ACGT"))
        assert cover.max() <= 1
        assert not cover[~is_base].any()
        left_out += int((cover == 0).sum())
    assert left_out == species.split_out_bases
    if minimum == 1:
        assert left_out == sum(species.ambiguous.values())


def test_validation_share_and_determinism(make_corpus):
    contigs = [random_dna(40_000, i) for i in range(5)]
    options = {"validation_block": 1000, "validation_fraction": 0.1}
    corpus = make_corpus({"a": contigs, "b": contigs[:1]}, **options)
    share = corpus.species[0].validation_bases / corpus.species[0].bases
    assert share == pytest.approx(0.1, abs=0.006)
    # The blocks of a species do not depend on the others, nor on where it stands.
    alone = make_corpus({"b": contigs[:1]}, **options)
    of_b = corpus.segments("validation")[corpus.contig_species[corpus.segments("validation")[:, 0]] == 1]
    assert (of_b - [5, 0, 0]).tolist() == alone.segments("validation").tolist()
    assert make_corpus({"a": contigs, "b": contigs[:1]}, **options).hash == corpus.hash
    assert alone.hash != corpus.hash


@pytest.mark.parametrize("contigs", [1, 3, 12])
@pytest.mark.parametrize("name", ["yeast", "phage", "X"])
def test_a_small_genome_holds_out_what_was_asked_whatever_its_name(make_corpus, name, contigs):
    corpus = make_corpus({name: [random_dna(84_000 // contigs, i) for i in range(contigs)]})
    assert corpus.species[0].validation_bases / 84_000 == pytest.approx(0.02, abs=0.002)


def test_two_blocks_give_one_to_each_split_and_one_gives_none(make_corpus):
    two = make_corpus({"a": [random_dna(200, 0)]}, validation_block=100, validation_fraction=0.001)
    assert len(two.segments("train")) == len(two.segments("validation")) == 1
    one = make_corpus({"a": [random_dna(199, 0)]}, validation_block=100, validation_fraction=0.5)
    assert one.segments("train").tolist() == [[0, 0, 199]]
    assert len(one.segments("validation")) == 0


def test_counts_what_it_skips(make_corpus):
    corpus = make_corpus({"a": ["ACGT" * 50, "ACG", "", "AC"]}, min_contig=100)
    (species,) = corpus.species
    assert (species.contigs, species.short_contigs, species.short_bases, species.empty_records) == (1, 2, 5, 1)


def test_weights_default_to_training_bases(make_corpus):
    corpus = make_corpus({"a": [random_dna(30_000, 0)], "b": [random_dna(20_000, 1)]})
    assert [s.weight for s in corpus.species] == [s.train_bases for s in corpus.species]
    assert [s.weight for s in make_corpus({"a": ["ACGT" * 50], "b": ["ACGT" * 60]}, {"a": 3, "b": 1}).species] == [3, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ambiguous": "drop"}, "ambiguous"),
        ({"validation_fraction": 1.0}, "validation_fraction is 1.0"),
        ({"validation_fraction": -0.1}, "validation_fraction is -0.1"),
        ({"validation_block": 0}, "validation_block is 0"),
        ({"min_contig": 0}, "min_contig is 0"),
        ({"min_contig": 1000}, "species 'a': no contig has min_contig = 1000"),
        ({"weights": {"a": 0}}, "weight 0"),
        ({"weights": {"a": float("nan")}}, "weight nan"),
    ],
)
def test_bad_options(make_corpus, options, message):
    with pytest.raises(UserError, match=message):
        make_corpus({"a": ["ACGT" * 50]}, **options)


def test_bad_species(tmp_path: Path):
    path = write_fasta(tmp_path / "x.fa", {"c": "ACGT" * 50})
    a, b = SpeciesSource("a", [path]), SpeciesSource("b", [path], weight=2)
    for species, message in [
        ([], "0 species given"),
        ([a, a], "'a' is given twice"),
        ([a, b], "'a' has no weight"),
        ([SpeciesSource("", [path])], "species name ''"),
        ([SpeciesSource("a", [])], "has no files"),
        ([SpeciesSource("a", [path, path])], "lists a file twice"),
        ([SpeciesSource("a", [tmp_path / "no.fa"])], "does not exist"),
    ]:
        with pytest.raises(UserError, match=message):
            build_corpus(species, tmp_path / "corpus")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.fa"]


def test_a_failed_build_leaves_nothing_behind(tmp_path: Path):
    path = write_fasta(tmp_path / "x.fa", {"good": "ACGT" * 50, "bad": "ACGT" * 25 + "ACGU"})
    with pytest.raises(UserError, match=r"x\.fa, record 2 \(bad\), position 104: 'U'.*RNA"):
        build_corpus([SpeciesSource("a", [path])], tmp_path / "corpus")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.fa"]


def test_a_build_that_fails_in_a_later_file_says_what_it_keeps(tmp_path: Path):
    good = write_fasta(tmp_path / "a.fa", {"good": "ACGT" * 50})
    bad = write_fasta(tmp_path / "b.fa", {"bad": "ACGU" * 50})
    sources = [SpeciesSource("a", [good]), SpeciesSource("b", [bad])]
    kept = re.escape(str(tmp_path / ".corpus.parts"))
    with pytest.raises(UserError, match=rf"b\.fa, record 1 .*; the files read so far are kept in {kept} for the next build"):
        build_corpus(sources, tmp_path / "corpus")
    write_fasta(bad, {"bad": "ACGT" * 50})
    build_corpus(sources, tmp_path / "corpus")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.fa", "b.fa", "corpus"]


def test_a_build_that_fails_after_reading_says_what_it_keeps(tmp_path: Path):
    path = write_fasta(tmp_path / "x.fa", {"short": "ACGT"})
    with pytest.raises(UserError, match=r"no contig has min_contig.*; the files read so far are kept in"):
        build_corpus([SpeciesSource("a", [path])], tmp_path / "corpus")


def test_only_codes_is_an_error_that_names_the_way_out(make_corpus):
    with pytest.raises(UserError, match=r"200 of 200 letters are codes.*ambiguous = 'unk'"):
        make_corpus({"a": ["N" * 200]})
    assert make_corpus({"a": ["N" * 200]}, ambiguous="unk").species[0].train_bases == 200


def test_never_overwrites(tmp_path: Path):
    path = write_fasta(tmp_path / "x.fa", {"c": "ACGT" * 50})
    build_corpus([SpeciesSource("a", [path])], tmp_path / "deep" / "corpus")
    with pytest.raises(UserError, match="exists; choose another name, or replace it with --force"):
        build_corpus([SpeciesSource("a", [path])], tmp_path / "deep" / "corpus")


def test_out_that_cannot_be_written(tmp_path: Path):
    path = write_fasta(tmp_path / "x.fa", {"c": "ACGT" * 50})
    with pytest.raises(UserError, match="could not be written"):
        build_corpus([SpeciesSource("a", [path])], path / "corpus")


def test_contigs_longer_than_a_slice(make_corpus, monkeypatch):
    sequence = "N" * 90 + random_dna(300, 0) + "R" + random_dna(211, 1)
    whole = make_corpus({"a": [sequence]}, validation_fraction=0)
    monkeypatch.setattr("dnabert2_jax.genome.packed_fasta._SLICE", 64)
    sliced = make_corpus({"a": [sequence]}, validation_fraction=0)
    assert text(sliced, 0) == text(whole, 0) == sequence
    assert sliced.segments("train").tolist() == whole.segments("train").tolist() == [[0, 90, 390], [0, 391, 602]]
    assert sliced.species[0].ambiguous == {"N": 90, "R": 1}
    with pytest.raises(UserError, match="position 603: '!'"):
        make_corpus({"a": [sequence + "!"]})


def test_progress_is_called_after_every_file(make_corpus):
    calls = []
    make_corpus({"a": ["ACGT" * 50, "ACGT" * 30], "b": ["ACGT" * 40]}, progress=lambda *call: calls.append(call))
    assert calls == [("a", 320), ("b", 480)]


def test_many_intervals_at_once_are_what_each_is_alone(make_corpus):
    corpus = make_corpus(
        {"a": ["ACGTTGCAACNNNACGRYACGTACGTTTGCA" * 3, "CCGTANNA"], "b": ["TTGACCA"]}, min_contig=1, validation_fraction=0
    )
    drawn = np.random.default_rng(0)
    numbers = np.arange(300) % 3
    starts = drawn.integers(0, corpus.contig_lengths[numbers] + 1)
    stops = drawn.integers(starts, corpus.contig_lengths[numbers] + 1)
    letters, shifts = corpus.read_rows(numbers, starts, stops)
    for row, shift, contig, start, stop in zip(letters, shifts, numbers, starts, stops, strict=True):
        np.testing.assert_array_equal(row[shift : shift + stop - start], corpus.read(contig, start, stop))


def test_read_outside_a_contig_raises(make_corpus):
    corpus = make_corpus({"a": ["ACGT" * 50, "C" * 102]})
    for start, stop in [(-1, 5), (0, 201), (5, 4)]:
        with pytest.raises(IndexError, match="contig 0, which has 200"):
            corpus.read(0, start, stop)
    assert corpus.read(1, 100, 102).tobytes() == b"CC"


def test_open_says_what_is_damaged(make_corpus, tmp_path: Path):
    corpus = make_corpus({"a": ["ACGTN" * 100]}, ambiguous="unk", validation_block=100)
    corpus.verify()

    def damaged(change) -> Path:
        copy = tmp_path / f"copy{len(list(tmp_path.iterdir()))}"
        shutil.copytree(corpus.path, copy)
        change(copy)
        return copy

    def cut(path: Path) -> None:
        path.write_bytes(path.read_bytes()[:-1])

    def set_format(path: Path) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))

    for change, message in [
        (lambda d: (d / "bases.bin").unlink(), "bases.bin is missing"),
        (lambda d: cut(d / "bases.bin"), "bases.bin has 124 bytes, but its manifest says 125"),
        (lambda d: cut(d / "train.bin"), "train.bin has"),
        (lambda d: cut(d / "manifest.json"), "manifest.json is damaged"),
        (lambda d: set_format(d / "manifest.json"), "format 99"),
        (lambda d: (d / "manifest.json").unlink(), "is not a corpus.*dnabert2 corpus build"),
        (lambda d: (d / "manifest.json").write_text('{"format": 1}'), "damaged.*settings"),
    ]:
        with pytest.raises(UserError, match=message):
            Corpus.open(damaged(change))
    with pytest.raises(UserError, match="is not a corpus"):
        Corpus.open(tmp_path / "nowhere")

    flipped = damaged(lambda d: (d / "bases.bin").write_bytes(b"\xff" + (d / "bases.bin").read_bytes()[1:]))
    with pytest.raises(UserError, match=r"bases\.bin changed"):
        Corpus.open(flipped).verify()


def test_many_contigs(tmp_path: Path):
    contigs = {f"contig_{i}": random_dna(20 + i % 7, i) for i in range(3000)}
    corpus = build_corpus([SpeciesSource("a", [write_fasta(tmp_path / "x.fa", contigs)])], tmp_path / "corpus", min_contig=1)
    assert [text(corpus, i) for i in range(3000)] == list(contigs.values())
    assert corpus.contig_names[2999] == "contig_2999"


@pytest.mark.slow
def test_builds_the_development_genomes_in_little_memory(shared_dir: Path, tmp_path: Path):
    genomes = sorted((shared_dir / "data" / "genomes").glob("*.fa.gz"))
    script = """
import sys
from pathlib import Path
from dnabert2_jax.genome import SpeciesSource, build_corpus
out, *files = map(Path, sys.argv[1:])
corpus = build_corpus([SpeciesSource(f.name.removesuffix(".fa.gz"), [f]) for f in files], out)
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(sum(s.bases for s in corpus.species), status["VmHWM"].split()[0])  # ru_maxrss would be that of pytest, if larger
"""
    command = [sys.executable, "-c", script, str(tmp_path / "corpus"), *map(str, genomes)]
    bases, peak_kib = map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    assert bases > 56e6
    assert peak_kib < 500 * 1024
