"""Windows of a genome and the labels of their bases, against a definition base by base."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnabert2_jax.data.annotation import Annotation
from dnabert2_jax.data.base_labels import BaseLabels, labels_by_contig
from dnabert2_jax.data.base_report import windows_report
from dnabert2_jax.data.base_windows import encode_bases, load_windows
from dnabert2_jax.data.by_length import choose_lengths, epoch_batches, evaluation_batches
from dnabert2_jax.data.intervals import Interval
from dnabert2_jax.data.sequences import reverse_complement
from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.reference import Reference
from dnabert2_jax.metrics.bases import joined
from dnabert2_jax.tokenizer.kmer import KmerTokenizer
from tests.genome.helpers import random_dna, write_fasta
from tests.helpers import tiny_tokenizer

GENOME = {
    "chr1": random_dna(230, 1),
    "chr2": random_dna(60, 2) + "NNNNRN" + random_dna(34, 3),
    "chr3": random_dna(90, 4),
    "chr4": "N" * 70 + random_dna(80, 5),
}
FEATURES = (
    Interval("chr1", 10, 90, "gene", "+"),
    Interval("chr1", 120, 140, "gene", "-"),
    Interval("chr2", 55, 75, "gene", "+"),
    Interval("chr3", 3, 9, "tRNA", "-"),
    Interval("chr3", 20, 30, "gene", "."),
    Interval("chr4", 100, 120, "gene", "+"),
)
WINDOW = 64


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    with Reference(write_fasta(tmp_path_factory.mktemp("windows") / "g.fa", GENOME)) as opened:
        yield opened


@pytest.fixture
def load(reference):
    def load(features=FEATURES, tokenizer=None, **changes):
        labels = tuple(sorted({feature.name for feature in features}))
        annotation = Annotation(reference.path.with_name("a.bed"), tuple(features), labels, ())
        settings = {"window": WINDOW, "dev_contigs": ["chr2"], "test_contigs": ["3"], **changes}
        return load_windows(annotation, reference, tokenizer or tiny_tokenizer(), **settings)

    return load


def expected_labels(place, features, names, *, stranded):
    """The labels of a window, base by base."""
    own = []
    for base in range(place.start, place.end):
        here = [
            f.name
            for f in features
            if f.contig == place.contig and f.start <= base < f.end and (not stranded or f.strand in (place.strand, "."))
        ]
        known = GENOME[place.contig][base] in "ACGT"
        own.append((names.index(here[0]) if here else 0) if known else -1)
    return own[::-1] if place.strand == "-" else own


@pytest.mark.parametrize("stranded", [False, True])
def test_labels_are_those_of_the_features_at_each_base(load, stranded):
    splits = load(stranded=stranded)
    assert splits.labels.names == ("background", "gene", "tRNA")
    assert splits.contigs == {"train": ("chr1", "chr4"), "dev": ("chr2",), "test": ("chr3",)}
    assert splits.left_out == {"train": 1, "dev": 0, "test": 0}
    seen = []
    for rows in (splits.train, splits.dev, splits.test):
        for place, labels in zip(rows.windows, rows.labels.tolist(), strict=True):
            own = expected_labels(place, FEATURES, splits.labels.names, stranded=stranded)
            assert labels == own + [-1] * (WINDOW - len(own))
        seen += rows.windows
    strands = "+-" if stranded else "+"
    starts = {"chr1": (0, 64, 128, 192), "chr4": (64, 128), "chr2": (0, 64), "chr3": (0, 64)}
    assert seen == [
        Interval(contig, start, min(start + WINDOW, len(GENOME[contig])), ".", strand)
        for contig in ("chr1", "chr4", "chr2", "chr3")
        for strand in strands
        for start in starts[contig][:: 1 if strand == "+" else -1]
    ]


def test_a_base_may_have_several_labels(load):
    features = (*FEATURES, Interval("chr1", 50, 130, "tRNA", "+"))
    splits = load(features, several=True)
    assert splits.labels.names == ("gene", "tRNA")
    first = splits.train.labels[0]
    assert first.shape == (WINDOW, 2)
    assert first[:, 0].tolist() == [0] * 10 + [1] * 54
    assert first[:, 1].tolist() == [0] * 50 + [1] * 14
    assert (splits.dev.labels[0, 60:] == -1).all()  # N and R
    assert splits.train.label_counts(2) == [80 + 20 + 20, 80]


def test_windows_that_do_not_adjoin_are_told_apart(load):
    assert np.flatnonzero(load().train.breaks).tolist() == [0, 4]
    assert np.flatnonzero(load(stranded=True).train.breaks).tolist() == [0, 4, 8, 10]


@pytest.mark.parametrize("strand", "+-")
def test_joined_windows_are_the_contig_as_its_strand_reads_it(load, strand):
    rows = load(stranded=True).dev
    own = [n for n, place in enumerate(rows.windows) if place.strand == strand]
    whole = expected_labels(Interval("chr2", 0, 100, ".", strand), FEATURES, ["background", "gene"], stranded=True)
    places = joined(rows.labels[own], rows.breaks[own])
    assert places[places >= 0].tolist() == [label for label in whole if label >= 0]
    assert np.flatnonzero(rows.breaks).tolist() == [0, 2]


@pytest.mark.parametrize("tokenizer", [tiny_tokenizer(), KmerTokenizer(3, 1), KmerTokenizer(3, 3)], ids=["bpe", "1", "3"])
@given(sequence=st.text("ACGTNR", min_size=3, max_size=60))
def test_each_base_knows_its_letter_its_token_and_its_place_there(tokenizer, sequence):
    encoded = encode_bases([sequence], tokenizer, 64)
    bases = encoded.bases_of(np.array([0, -1]))
    assert all(part.dtype == np.int32 for part in bases)
    letters = ["ACGT".find(letter) for letter in sequence]
    assert bases.letters[0].tolist() == [4 if n < 0 else n for n in letters] + [-1] * (64 - len(sequence))
    lengths = tokenizer.token_bases(encoded.input_ids[0])
    where = [(token, place) for token, bases_of_it in enumerate(lengths) for place in range(bases_of_it)]
    assert list(zip(bases.tokens[0].tolist(), bases.offsets[0].tolist(), strict=True))[: len(sequence)] == where
    assert (bases.letters[1] == -1).all()
    assert not bases.tokens[1].any()


def test_the_other_strand_turns_letters_and_labels(load):
    splits = load(reverse=True)
    forward, turned = splits.train, splits.reverse
    for row, place in enumerate(forward.windows):
        bases = place.end - place.start
        assert turned.labels[row, :bases].tolist() == forward.labels[row, :bases][::-1].tolist()
        letters = GENOME[place.contig][place.start : place.end]
        assert turned.letters[row, :bases].tolist() == ["ACGTN".index(letter) for letter in reverse_complement(letters)]
    drawn = [forward.on_either_strand(turned, 1, epoch) for epoch in range(6)]
    took = np.array([[(a.input_ids[row] is turned.input_ids[row]) for row in range(len(forward))] for a in drawn])
    assert 0 < took.sum() < took.size
    assert len({tuple(row) for row in took.tolist()}) > 1
    for rows, choice in zip(drawn, took, strict=True):
        for row, other in enumerate(choice):
            wanted = turned if other else forward
            assert (rows.labels[row] == wanted.labels[row]).all()
            assert (rows.letters[row] == wanted.letters[row]).all()


@pytest.mark.parametrize("several", [False, True])
def test_batches_have_targets_with_weights_only_where_bases_count(load, several):
    rows = load(several=several).dev
    [batch] = epoch_batches(rows, 4, 0, 0, choose_lengths(rows.lengths, 1))
    assert batch.labels.dtype == (np.float32 if several else np.int32)
    assert batch.labels.min() == 0
    assert batch.weights.shape == (4, WINDOW)
    for slot, row in enumerate(batch.rows.tolist()):
        counted = np.zeros(WINDOW, bool) if row < 0 else (rows.labels[row, :, 0] if several else rows.labels[row]) >= 0
        assert (batch.weights[slot] == counted).all()
        if row >= 0:
            assert (batch.labels[slot][counted] == rows.labels[row][counted]).all()
    [encoded] = evaluation_batches(rows, 4, choose_lengths(rows.lengths, 1))
    assert encoded.starts is None
    assert (encoded.bases.letters[:2] == rows.letters).all()


def test_the_report_counts_windows_bases_and_labels(load):
    report = windows_report(load())
    dev = report["splits"]["dev"]
    assert (dev["windows"], dev["bases"], dev["contigs"]) == (2, 94, ["chr2"])
    assert dev["label_counts"] == {"background": 94 - 14, "gene": 14, "tRNA": 0}
    assert report["notes"] == [
        "The dev contigs have no base with the label 'tRNA': the scores do not cover it.",
        "The training contigs have no base with the label 'tRNA': it cannot be learned.",
    ]
    assert report["changes"] == ["76 ambiguity codes read as [UNK]"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"dev_contigs": ["chr22"]}, r"data\.dev_contigs: no contig 'chr22' in .*g\.fa, which has chr1, chr2, chr3, chr4"),
        ({"test_contigs": ["2"]}, r"chr2 is in data\.dev_contigs and in data\.test_contigs; leave it in one of them"),
        ({"test_contigs": ["chr1", "chr3", "chr4"]}, r"all 4 contigs are in data\.dev_contigs or data\.test_contigs"),
        (
            {"features": FEATURES[:3]},
            r"all bases of the test contigs \(chr3\) have the same label, or none; choose other",
        ),
        (
            {"features": (*FEATURES, Interval("chr1", 85, 95, "tRNA", "-"))},
            r"a\.bed: 1 features overlap one of another label \(first: 'tRNA' and 'gene' at chr1:86\); choose features that "
            r'exclude each other, or set data\.overlaps="several"',
        ),
        (
            {"features": [Interval("chr1", n, n + 1, f"gene{n}", "+") for n in range(101)]},
            r"a\.bed: 101 different labels, such as gene0, gene1, gene10; accepted are 100 at most",
        ),
        ({"features": [Interval("chr1", 0, 1, "background", "+")]}, r"'background' is the class of bases without a label"),
    ],
)
def test_one_line_says_what_is_wrong(load, changes, expected):
    with pytest.raises(UserError, match=expected):
        load(**changes)


def test_opposite_strands_and_equal_labels_may_overlap(load):
    same = (*FEATURES, Interval("chr1", 85, 95, "gene", "-"))
    assert load(same).train.label_counts(3)[1] == 85 + 20 + 20
    opposite = (*FEATURES, Interval("chr1", 85, 95, "tRNA", "-"))
    assert load(opposite, stranded=True).train.label_counts(3) == [2 * 310 - 120 - 10, 80 + 20 + 20, 10]


@given(data=st.data())
def test_overlaps_are_refused_exactly_where_two_labels_share_a_base(data):
    stretch = st.tuples(st.integers(0, 19), st.integers(1, 6), st.sampled_from("abc"), st.sampled_from("+-."))
    drawn = data.draw(st.lists(stretch, min_size=1, max_size=5))
    features = tuple(Interval("c", start, min(20, start + bases), name, strand) for start, bases, name, strand in drawn)
    names = tuple(sorted({feature.name for feature in features}))
    annotation = Annotation(None, features, names, ())
    labels = BaseLabels.of(annotation, WINDOW, several=False)
    stranded = data.draw(st.booleans())
    at_base = {
        (strand, base): {f.name for f in features if f.start <= base < f.end and (not stranded or f.strand in (strand, "."))}
        for strand in ("+-" if stranded else "+")
        for base in range(20)
    }
    if any(len(found) > 1 for found in at_base.values()):
        with pytest.raises(UserError, match="overlap one of another label"):
            labels_by_contig(annotation, labels, {"c": 20}, stranded=stranded)
        return
    found = labels_by_contig(annotation, labels, {"c": 20}, stranded=stranded)
    for (strand, base), own in at_base.items():
        assert labels.names[found["c", strand][base]] == (min(own) if own else "background")
