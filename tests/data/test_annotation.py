"""BED, GFF3 and GTF say the same about the same features, and one line says what is wrong with a file."""

import gzip
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnabert2_jax.data.annotation import read_annotation
from dnabert2_jax.data.intervals import Interval
from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.reference import Reference
from tests.genome.helpers import random_dna, write_fasta

LENGTHS = {"chr1": 200, "chr2": 50}

LABELS = st.text(string.ascii_letters + string.digits + "_:%'", min_size=1, max_size=6).filter(lambda name: name != ".")


@st.composite
def features(draw):
    contig = draw(st.sampled_from(sorted(LENGTHS)))
    start = draw(st.integers(0, LENGTHS[contig] - 1))
    end = draw(st.integers(start + 1, LENGTHS[contig]))
    return Interval(contig, start, end, draw(LABELS), draw(st.sampled_from("+-.")))


def bed(found):
    return "".join(f"{f.contig}\t{f.start}\t{f.end}\t{f.name}\t0\t{f.strand}\n" for f in found)


def gff(found, attributes="ID=x"):
    return "".join(f"{f.contig}\ttest\t{f.name}\t{f.start + 1}\t{f.end}\t.\t{f.strand}\t.\t{attributes}\n" for f in found)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("annotation")


@pytest.fixture(scope="module")
def reference(home):
    genome = {name: random_dna(bases, n) for n, (name, bases) in enumerate(LENGTHS.items())}
    with Reference(write_fasta(home / "g.fa", genome)) as opened:
        yield opened


@pytest.fixture
def read(home, reference):
    def read(name, content, wanted=(), policy="error"):
        (home / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_annotation(home / name, reference, wanted, policy)

    return read


@given(found=st.lists(features(), min_size=1, max_size=8), compressed=st.booleans(), ends=st.sampled_from(["\n", "\r\n"]))
def test_every_format_gives_the_features_that_were_written(home, reference, found, compressed, ends):
    labels = tuple(sorted({feature.name for feature in found}))
    other = gff([Interval("elsewhere", 0, 9, "nobody_asked_for_this", "?")])
    for suffix, content, wanted in (
        ("bed", bed(found), ()),
        ("gff3", "##gff-version 3\n\n#note\n" + other + gff(found) + "##FASTA\n>chr1\nACGT\n", labels),
        ("gtf", gff(found, 'gene_id "x"; transcript_id "y";'), labels),
    ):
        file = home / (f"written.{suffix}.gz" if compressed else f"written.{suffix}")
        data = content.replace("\n", ends).encode()
        file.write_bytes(gzip.compress(data) if compressed else data)
        annotation = read_annotation(file, reference, wanted)
        assert annotation.features == tuple(found)
        assert annotation.labels == labels
        assert annotation.notes == ()


def test_labels_come_in_the_order_in_which_they_are_asked_for(read):
    content = bed([Interval("chr1", 0, 5, "b", "+"), Interval("chr1", 7, 9, "a", "+"), Interval("chr2", 0, 5, "c", ".")])
    assert read("a.bed", content).labels == ("a", "b", "c")
    chosen = read("a.bed", content, ["c", "a", "c"])
    assert (chosen.labels, [feature.name for feature in chosen.features]) == (("c", "a"), ["a", "c"])


def test_contigs_under_other_names_are_read_with_a_remark(read):
    annotation = read("a.gff", gff([Interval("1", 0, 5, "CDS", "+")]), ["CDS"])
    assert annotation.features[0].contig == "chr1"
    assert "1 as chr1" in annotation.notes[0]


def test_bad_lines_can_be_skipped_and_are_counted(read):
    content = gff(
        [Interval("chr1", 0, 5, "CDS", "+"), Interval("chrUn", 0, 5, "CDS", "+"), Interval("chr2", 0, 60, "CDS", "+")]
    )
    annotation = read("a.gff3", content, ["CDS"], "skip")
    assert len(annotation.features) == 1
    assert "2 of 3 records skipped" in annotation.notes[0]


LINE = gff([Interval("chr1", 0, 5, "CDS", "+")])


@pytest.mark.parametrize(
    ("name", "content", "wanted", "expected"),
    [
        ("a.txt", LINE, ["CDS"], r"a\.txt: an annotation is a file whose name ends in \.bed, \.gff, \.gff3, \.gtf"),
        ("a.gff", LINE, [], r'a\.gff: name the types of features that are labels, as in data\.features=\["CDS"\]'),
        (
            "a.gff",
            LINE,
            ["CSD"],
            r"a\.gff has no feature 'CSD' \(did you mean 'CDS'\?\); it has CDS; correct data\.features",
        ),
        ("a.bed", "chr1\t0\t5\tgene\n", ["gnee"], r"a\.bed has no feature 'gnee' \(did you mean 'gene'\?\)"),
        ("a.bed", "chr1\t0\t5\n", [], r"a\.bed: chr1:1-5 has no label; write it into column 4"),
        ("a.bed", "chr1\t0\t500\tgene\n", [], r"a\.bed, line 1: chr1 from 0 to 500 is beyond the contig, which has 200"),
        ("a.gff", LINE.replace("\t5\t", "\t201\t"), ["CDS"], r"line 1: chr1 from 0 to 201 is beyond the contig"),
        ("a.gff", LINE.replace("\t1\t", "\t0\t"), ["CDS"], r"line 1: the start '0' is not a whole number above 0"),
        ("a.gff", LINE.replace("\t5\t", "\t-5\t"), ["CDS"], r"line 1: the end '-5' is not a whole number"),
        ("a.gff", LINE.replace("\t1\t", "\t9\t"), ["CDS"], r"line 1: chr1 from 8 to 5 has no bases"),
        ("a.gff", LINE.replace("+", "plus"), ["CDS"], r"line 1: the strand 'plus' \(column 7\) is not one of \+ - \. \?"),
        ("a.gff", LINE.replace("\t", " "), ["CDS"], r"line 1: 1 columns; GFF3 and GTF have 9, separated by tabs"),
        ("a.gff", LINE.replace("chr1", "chr9"), ["CDS"], r"line 1: no contig 'chr9' in .*g\.fa, which has chr1, chr2"),
        ("a.gff", LINE + LINE.replace("+", "x") + "bad\n", ["CDS"], r"a\.gff: 2 of 3 records cannot be used: line 2: "),
        ("a.gff", b"\xff\xfe\x00", ["CDS"], r"a\.gff, line 1: not text; give a GFF3 or GTF file"),
        (
            "a.gff.gz",
            gzip.compress(LINE.encode(), mtime=0)[:-6],
            ["CDS"],
            r"a\.gff\.gz: the compressed file is damaged or cut short",
        ),
        ("a.gff", "", ["CDS"], r"a\.gff has no feature 'CDS'; it has none"),
    ],
)
def test_one_line_says_what_is_wrong(read, name, content, wanted, expected):
    with pytest.raises(UserError, match=expected) as caught:
        read(name, content, wanted)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(home, reference):
    with pytest.raises(UserError, match=r"gone\.gff3 does not exist; give a GFF3 or GTF file"):
        read_annotation(home / "gone.gff3", reference, ["CDS"])
