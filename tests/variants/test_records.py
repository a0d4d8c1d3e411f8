"""Reading VCF, BCF and tables."""

import gzip
import re

import hypothesis
import pysam
import pysam.bcftools
import pytest
from hypothesis import strategies as st

from dnabert2_jax.errors import UserError
from dnabert2_jax.variants.records import Record, open_variants, parse_vcf_line

HEADER = "##fileformat=VCFv4.2\n##contig=<ID=1,length=500>\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
LINES = "1\t5\trs1\tA\tC,<DEL>\t.\tPASS\t.\n1\t9\t.\tAC\tA\t30\tPASS\t.\n1\t12\t.\tG\t.\t.\t.\t.\n"


def records(path) -> list[Record]:
    return [item for item in open_variants(path).items() if isinstance(item, Record)]


def essentials(path) -> list[tuple]:
    return [(own.contig, own.position, own.name, own.ref, own.alts) for own in records(path)]


EXPECTED = [("1", 4, "rs1", "A", ("C", "<DEL>")), ("1", 8, ".", "AC", ("A",)), ("1", 11, ".", "G", ())]


def test_vcf_plain_and_compressed_and_bcf(tmp_path):
    plain = tmp_path / "a.vcf"
    plain.write_text(HEADER + LINES)
    packed = tmp_path / "a.vcf.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    blocks = tmp_path / "b.vcf.gz"
    pysam.tabix_compress(str(plain), str(blocks))
    assert essentials(plain) == essentials(packed) == essentials(blocks) == EXPECTED
    assert b"".join(item.raw if isinstance(item, Record) else item for item in open_variants(plain).items()) == (
        plain.read_bytes()
    )
    assert [own.line for own in records(plain)] == [4, 5, 6]
    pysam.bcftools.view("-O", "b", "-o", str(tmp_path / "a.bcf"), str(plain), catch_stdout=False)
    assert essentials(tmp_path / "a.bcf") == EXPECTED


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "chrom,pos,ref,alt\n1,5,A,C\n1,9,AC,-\n"),
        ("a.tsv", "#CHROM\tPOS\tNAME\tREF\tALT\tscore\n1\t5\tx\tA\tC\t0.1\n1\t9\ty\tAC\t-\t0.2\n"),
        ("a.csv.gz", '\ufeffAlt,Ref,Position,Contig\r\nC,A,5,1\r\n"-",AC,9,1\r\n'),
    ],
)
def test_tables(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    found = records(path)
    assert [(own.contig, own.position, own.ref, own.alts) for own in found] == [("1", 4, "A", ("C",)), ("1", 8, "AC", ("",))]
    assert open_variants(path).kind == "table"
    assert all(len(own.fields) == len(open_variants(path).columns) for own in found)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "chrom,pos,ref\n1,5,A\n", "there is no column 'alt' among 'chrom', 'pos', 'ref'"),
        ("a.csv", "chrom,pos,ref,alt\n1,5,A,C\n1,5,A\n", "line 3: 3 columns, but the header has 4"),
        ("a.csv", "chrom,pos,ref,alt\n1,five,A,C\n", "line 2: POS is 'five'; accepted is a whole number, from 1"),
        ("a.csv", b"chrom,pos,ref,alt\n1,5,\xff,C\n", "line 2: not a table in UTF-8"),
        ("a.csv", "", "is empty"),
        ("a.vcf", "", "is empty; check how it was made"),
        ("a.csv", "\n", "is blank; give a table with the columns chrom, pos, ref and alt"),
        ("a.vcf", HEADER + "1\t5\t.\tA\tC\n", "line 4: 5 columns; a record has 8 or more"),
        ("a.vcf", HEADER + "1 5 . A C . . .\n", "line 4: 1 column; a record has 8"),
        ("a.vcf", HEADER + LINES.replace("\t9\t", "\t\t"), "line 5: POS is ''"),
        ("a.vcf.gz", gzip.compress((HEADER + LINES).encode(), mtime=0)[:-12], "damaged or cut short"),
        ("a.bcf", b"BCF but not really", "not BCF, or damaged"),
        ("a.txt", "x", "accepted are .vcf, .vcf.gz, .vcf.bgz, .bcf, .csv, .tsv"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        records(path)
    assert words in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_truncated_bgzip_file(tmp_path):
    (tmp_path / "a.vcf").write_text(HEADER + LINES)
    pysam.tabix_compress(str(tmp_path / "a.vcf"), str(tmp_path / "a.vcf.gz"))
    content = (tmp_path / "a.vcf.gz").read_bytes()
    (tmp_path / "a.vcf.gz").write_bytes(content[:-28])  # its end-of-file block
    with pytest.raises(UserError, match="is cut short"):
        records(tmp_path / "a.vcf.gz")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"none\.vcf is not a file"):
        open_variants(tmp_path / "none.vcf")


@hypothesis.given(line=st.binary(max_size=60) | st.lists(st.binary(max_size=8), max_size=12).map(b"\t".join))
def test_any_line_is_a_record_or_an_error_with_its_number(line):
    columns = line.rstrip(b"\r\n").split(b"\t")
    if len(columns) >= 8 and re.fullmatch(rb"[0-9]+", columns[1]):
        assert parse_vcf_line(line, "in.vcf", 7).raw == line
    elif len(columns) < 8:
        with pytest.raises(UserError, match=r"in\.vcf, line 7: "):
            parse_vcf_line(line, "in.vcf", 7)
