"""BED files and regions: what is read, and one line for each interval that cannot be used."""

import gzip
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnabert2_jax.data.intervals import Interval, Intervals, letters_of
from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.letters import LetterCounts
from dnabert2_jax.genome.reference import Reference
from tests.genome.helpers import random_dna, write_fasta

GENOME = {"chr1": random_dna(200, 1), "chr2": "ACGTN" * 10, "odd:1-5": "ACGTACGT"}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    with Reference(write_fasta(tmp_path_factory.mktemp("genome") / "g.fa", GENOME)) as opened:
        yield opened


@pytest.fixture
def read(reference, tmp_path):
    def read(content, policy=None):
        path = tmp_path / "b.bed"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        intervals = Intervals(reference, path, bad_records=policy)
        return list(intervals), list(intervals.notes)

    return read


def test_all_numbers_of_columns_line_ends_headers_and_compression(read):
    content = (
        "track name=x\nbrowser position chr1:1-2\n# comment\n\n"
        "chr1\t0\t10\nchr1 5 7 spaced\nchr2\t1\t50\tgene a\t0\t-\nchr2\t1\t2\t\t.\t+\t1\t2\t0\t1\t1,\t0,\n"
    )
    expected = [
        Interval("chr1", 0, 10, ".", "."),
        Interval("chr1", 5, 7, "spaced", "."),
        Interval("chr2", 1, 50, "gene a", "-"),
        Interval("chr2", 1, 2, ".", "+"),
    ]
    for written in (content, content.replace("\n", "\r\n"), "\ufeff" + content, gzip.compress(content.encode())):
        assert read(written) == (expected, [])


def test_letters_of_the_minus_strand_are_the_reverse_complement(reference, read):
    (plus, minus), _ = read("chr2\t0\t6\ta\t0\t+\nchr2\t0\t6\tb\t0\t-\n")
    counts = LetterCounts()
    assert letters_of(reference, plus, 0, 6, counts) == "ACGTNA"
    assert letters_of(reference, minus, 0, 6, counts) == "TNACGT"
    assert letters_of(reference, minus, 0, 2, counts) == "GT"
    assert counts.bases == 14


def test_contigs_under_other_names_are_read_with_a_remark(read, reference):
    intervals, notes = read("1\t0\t5\n2\t0\t5\nchr1\t0\t5\n")
    assert [each.contig for each in intervals] == ["chr1", "chr2", "chr1"]
    assert notes == [f"contigs read under the names of {reference.path}: 1 as chr1, 2 as chr2"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("chr1\t5", "2 fields; an interval has contig, start and end"),
        ("chr1\tfive\t9", "the start 'five' is not a whole number"),
        ("chr1\t-5\t9", "the start '-5' is not a whole number of 0 or more"),
        ("chr1\t1e3\t9", "the start '1e3'"),
        ("chr1\t5\t9.0", "the end '9.0'"),
        ("chr1\t5\t5", "chr1 from 5 to 5 has no bases"),
        ("chr1\t9\t5", "chr1 from 9 to 5 has no bases"),
        ("chr1\t100\t201", "beyond the contig, which has 200 bases in .*check that both are of one assembly"),
        ("chr11\t1\t2", r"no contig 'chr11' in .*g\.fa, which has chr1, chr2, odd:1-5 \(did you mean 'chr1'\?\)"),
        ("chr1\t1\t2\tx\t0\tplus", r"the strand 'plus' \(column 6\) is not one of \+ - \."),
        (f"chr1\t1\t{'9' * 5000}", "is not a whole number"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(read, line, words):
    with pytest.raises(UserError, match=rf"b\.bed, line 2: .*{words}") as error:
        read(f"chr1\t0\t1\n{line}\n")
    assert len(str(error.value).splitlines()) == 1
    intervals, notes = read(f"chr1\t0\t1\n{line}\n", "skip")
    assert intervals == [Interval("chr1", 0, 1, ".", ".")]
    assert len(notes) == 1
    assert notes[0].startswith("1 of 2 records skipped: line 2: ")


def test_several_bad_lines_are_one_message(read):
    with pytest.raises(UserError, match=r"b\.bed: 2 of 3 records cannot be used: line 1: .*; line 3: "):
        read("chr9\t0\t1\nchr1\t0\t1\nchr1\t0\n")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no intervals"),
        (b"# only\ntrack x\n", "no intervals"),
        (b"\x00\xff\xfe", "not text"),
        (gzip.compress(b"chr1\t0\t1\n" * 99, mtime=0)[:-9], "damaged or cut short"),
    ],
)
def test_a_file_that_is_no_bed(read, content, words):
    with pytest.raises(UserError, match=words):
        read(content)


def test_a_missing_file(reference, tmp_path):
    with pytest.raises(UserError, match=r"none\.bed does not exist; give a BED file"):
        list(Intervals(reference, tmp_path / "none.bed"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("chr1:1-10", ("chr1", 0, 10)),
        ("chr1:101", ("chr1", 100, 101)),
        ("1:1-1,0", ("chr1", 0, 10)),
        ("chr2:41-", ("chr2", 40, 50)),
        ("chr2", ("chr2", 0, 50)),
        ("odd:1-5", ("odd:1-5", 0, 8)),
        ("odd:1-5:2-3", ("odd:1-5", 1, 3)),
    ],
)
def test_regions_count_from_1_with_the_end(reference, text, expected):
    assert list(Intervals(reference, regions=(text,))) == [Interval(*expected, text, ".")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("chr1:0-5", "regions count bases from 1"),
        ("chr1:,-5", "regions count bases from 1"),
        ("chr1:-10-5", "'-10-5' is no range of bases; write it as in chr1:1-100, counted from 1"),
        ("chr1:9-5", "it ends before it starts"),
        ("chr1:1-500", "beyond the contig, which has 200 bases"),
        ("chr9", "no contig 'chr9'"),
        ("chr9:1-2", "no contig 'chr9'"),
        ("chr9:1-", "no contig 'chr9'"),
        ("chr2:51-", "beyond the contig, which has 50 bases"),
        ("", "no contig ''"),
    ],
)
def test_a_region_that_is_not_there(reference, text, words):
    with pytest.raises(UserError, match=f"^--region {text}:? .*{words}"):
        list(Intervals(reference, regions=(text,)))


_FIELDS = st.one_of(
    st.sampled_from([*GENOME, "1", "chrX", "+", "-", ".", "", "track", "0", "5", "10", "200", "201", "-1", "1e2", "٣"]),
    st.text(string.printable, max_size=5),
    st.integers(-5, 10**20).map(str),
)
_LINES = st.lists(st.tuples(st.lists(_FIELDS, max_size=7), st.sampled_from("\t ")), max_size=6)


def read_or_refused(intervals):
    """The intervals, or the message that says why there are none."""
    try:
        return list(intervals), ""
    except UserError as error:
        return [], str(error)


@given(lines=_LINES, ending=st.sampled_from(["\n", "\r\n"]), policy=st.sampled_from([None, "skip"]))
def test_any_text_gives_intervals_of_the_genome_or_one_line(reference, tmp_path_factory, lines, ending, policy):
    path = tmp_path_factory.mktemp("fuzz") / "b.bed"
    path.write_bytes(ending.join(delimiter.join(fields) for fields, delimiter in lines).encode())
    intervals = Intervals(reference, path, bad_records=policy)
    found, refused = read_or_refused(intervals)
    assert (str(path) in refused) == (not found)
    assert "\n" not in refused
    for contig, start, end, name, strand in found:
        assert 0 <= start < end <= len(GENOME[contig])
        assert name
        assert strand in ("+", "-", ".")
    assert read_or_refused(intervals) == (found, refused)  # a second pass reads the same


@given(content=st.binary(max_size=60))
def test_any_bytes_give_intervals_or_one_line(reference, tmp_path_factory, content):
    path = tmp_path_factory.mktemp("fuzz") / "b.bed"
    path.write_bytes(content)
    found, refused = read_or_refused(Intervals(reference, path))
    assert (str(path) in refused) == (not found)
    assert "\n" not in refused
