import bz2
import gzip
import lzma
import random
import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from xopen import xopen

from dnabert2_jax.errors import UserError
from dnabert2_jax.genome import FastaRecord, read_fasta
from tests.mutations import damaged

RECORDS = [FastaRecord("a", b"ACGTacgtNN", 1), FastaRecord("b", b"GG", 2)]
TEXT = b">a first record\nACGTac\ngtNN\n>b\nGG\n"
BGZF_EOF = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")


def bgzip(*blocks: bytes) -> bytes:
    """BGZF blocks as the SAM specification lays them out: gzip members with a BC extra field, an empty one last."""
    out = b""
    for block in blocks:
        member = gzip.compress(block, mtime=0)
        deflated = member[10:]
        size = 10 + 2 + 6 + len(deflated) - 1
        out += member[:3] + b"\x04" + member[4:10] + b"\x06\x00BC\x02\x00" + size.to_bytes(2, "little") + deflated
    return out + BGZF_EOF


def packed(data: bytes) -> bytes:
    """Gzip without a time, so that every process collects the same tests."""
    return gzip.compress(data, mtime=0)


def by_name(value: object) -> str:
    return value if isinstance(value, str) else "content"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plain.fa", TEXT),
        ("no_last_newline.fasta", TEXT.rstrip()),
        ("blank_lines.fna", TEXT.replace(b"\n", b"\n\n")),
        ("dos.fa", TEXT.replace(b"\n", b"\r\n")),
        ("mac.fa", TEXT.replace(b"\n", b"\r")),
        ("comments.fa", b"#made by hand\n" + TEXT),
        ("no_known_suffix.seq", TEXT),
        ("gzip.fa.gz", packed(TEXT)),
        ("several_members.fa.gz", packed(TEXT[:20]) + packed(TEXT[20:])),
        ("bgzip.fa.gz", bgzip(TEXT[:20], TEXT[20:])),
        ("gzip_without_suffix.fa", packed(TEXT)),
        ("bzip2.fa.bz2", bz2.compress(TEXT)),
        ("xz.fa.xz", lzma.compress(TEXT)),
    ],
    ids=by_name,
)
def test_reads_every_layout_and_compression(tmp_path: Path, name: str, content: bytes):
    (tmp_path / name).write_bytes(content)
    assert list(read_fasta(tmp_path / name)) == RECORDS


def test_reads_zstandard(tmp_path: Path):
    with xopen(tmp_path / "x.fa.zst", "wb", threads=0) as file:
        file.write(TEXT)
    assert list(read_fasta(tmp_path / "x.fa.zst")) == RECORDS


def test_empty_records_are_handed_on(tmp_path: Path):
    (tmp_path / "x.fa").write_text(">a\n>b\nAC\n>c\n")
    assert [(record.name, record.sequence) for record in read_fasta(tmp_path / "x.fa")] == [
        ("a", b""),
        ("b", b"AC"),
        ("c", b""),
    ]


LONG = TEXT + b">c\n" + random.Random(0).randbytes(50_000).hex().encode()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.fa", b"", "no FASTA record"),
        ("blank.fa", b"\n \n", "no FASTA record"),
        ("empty.fa.gz", packed(b""), "no FASTA record"),
        ("fastq.fa", b"@a\nAC\n+\nII\n", "record 1, line 1: not FASTA"),
        ("text.fa", b"hello\n", "got 'hello'"),
        ("binary.fa", b"\xff\xfe\x00\x80" * 9, "record 1: not text .byte 0xff"),
        ("latin.fa", b">a\nAC\n>b\nAC\xe9GT\n", "not text .byte 0xe9"),
        ("accent_in_name.fa", ">a\nAC\n>é\nAC\n".encode(), "record 2: not FASTA: .*ASCII"),
        ("unnamed.fa", b">a\nAC\n> \nGG\n", "record 2: no name"),
        ("twice.fa", b">a x\nAC\n>b\nAC\n>a y\nGG\n", "record 3: the name 'a' is also that of record 1"),
        ("not_gzip.fa.gz", TEXT, "whose suffix is right"),
        ("not_xz.fa.xz", TEXT, "whose suffix is right"),
        ("cut.fa.gz", packed(LONG)[:-200], "record 3: the compressed file is cut short"),
        ("no_trailer.fa.gz", packed(TEXT)[:-4], "cut short"),
        ("tail.fa.gz", packed(TEXT) + b"something else", "Not a gzipped file"),
        ("short_tail.fa.gz", packed(TEXT) + b"more", "cut short, or followed by something else"),
        ("cut.fa.xz", lzma.compress(LONG)[:-200], "cut short"),
        ("cut.fa.bz2", bz2.compress(LONG)[:-200], "cut short"),
        ("cut_between_blocks.fa.gz", bgzip(TEXT[:20], TEXT[20:])[: -len(BGZF_EOF)], "bgzip file is cut short"),
        ("wrong_crc.fa.gz", packed(TEXT)[:-8] + b"\0\0\0\0" + packed(TEXT)[-4:], "CRC check failed"),
    ],
    ids=by_name,
)
def test_explains_what_is_wrong(tmp_path: Path, name: str, content: bytes, message: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        list(read_fasta(tmp_path / name))
    assert str(tmp_path / name) in str(caught.value)


def test_flipped_bytes_of_a_gzip_file_never_pass(tmp_path: Path):
    packed = gzip.compress(LONG, mtime=0)
    for position in range(12, len(packed), len(packed) // 40):
        damaged = bytearray(packed)
        damaged[position] ^= 0x10
        (tmp_path / "x.fa.gz").write_bytes(damaged)
        with pytest.raises(UserError, match=r"x\.fa\.gz"):
            list(read_fasta(tmp_path / "x.fa.gz"))


def test_missing_file_and_directory(tmp_path: Path):
    with pytest.raises(UserError, match="does not exist"):
        list(read_fasta(tmp_path / "nothing.fa"))
    with pytest.raises(UserError, match="is a directory"):
        list(read_fasta(tmp_path))


@given(
    sequences=st.lists(st.text("ACGTNacgtnRY", max_size=200), min_size=1, max_size=5),
    width=st.integers(1, 90),
    newline=st.sampled_from(["\n", "\r\n"]),
    packed=st.booleans(),
)
def test_sequences_come_back_for_any_width_and_line_end(tmp_path_factory, sequences, width, newline, packed):
    text = "".join(
        f">s{i}{newline}" + "".join(s[j : j + width] + newline for j in range(0, len(s), width))
        for i, s in enumerate(sequences)
    ).encode()
    path = tmp_path_factory.mktemp("fasta") / ("x.fa.gz" if packed else "x.fa")
    path.write_bytes(gzip.compress(text) if packed else text)
    assert [record.sequence.decode() for record in read_fasta(path)] == sequences


def read_or_refused(path: Path, content: bytes) -> list[FastaRecord] | None:
    """The records of a file with this content, or None where it is refused; whatever else happens fails the test."""
    path.write_bytes(content)
    try:
        return list(read_fasta(path))
    except UserError as error:
        refusal = str(error)
    assert str(path) in refusal
    assert "\n" not in refusal
    return None


def read_by_hand(text: str) -> list[FastaRecord]:
    records: list[FastaRecord] = []
    for line in map(str.strip, re.split("\r\n|\n|\r", text)):
        if line.startswith(">"):
            records.append(FastaRecord(line[1:].split()[0], b"", len(records) + 1))
        elif line and not line.startswith("#"):
            last = records.pop()
            records.append(FastaRecord(last.name, last.sequence + line.encode(), last.number))
    return records


@settings(max_examples=300)
@given(damaged(TEXT))
@example(b"\x0c>a\nAC\n")  # found: a form feed before the mark is white space, as at the end of a line
@example(b">a\nAC\xe2\x80\xa8\nG\n")  # found: so is a line separator of Unicode
@example(b">a\nA>C\0 \n")
@example(b"\xef\xbb\xbf>a\nAC\n")
def test_a_damaged_file_is_read_as_it_stands_or_refused(tmp_path_factory, content: bytes):
    records = read_or_refused(tmp_path_factory.getbasetemp() / "damaged.fa", content)
    assert records is None or records == read_by_hand(content.decode())


COMPRESSED = {
    "x.fa.gz": packed(TEXT),
    "blocks.fa.gz": bgzip(TEXT[:20], TEXT[20:]),
    "x.fa.bz2": bz2.compress(TEXT),
    "x.fa.xz": lzma.compress(TEXT),
}


@pytest.mark.parametrize("name", COMPRESSED)
@settings(max_examples=150)
@given(st.data())
def test_a_damaged_compressed_file_is_refused_or_unharmed(tmp_path_factory, name: str, data: st.DataObject):
    # Each of these formats has checksums, so what can be read at all is what was written.
    records = read_or_refused(tmp_path_factory.getbasetemp() / name, data.draw(damaged(COMPRESSED[name])))
    assert records is None or records == RECORDS


def names(path: Path, policy) -> list[str]:
    return [record.name for record in read_fasta(path, duplicate_names=policy)]


def test_repeated_names_are_numbered_if_asked(tmp_path: Path):
    path = tmp_path / "x.fa"
    path.write_text(">a first\nAC\n>b\nAC\n>a\nGG\n>a third\nGG\n")
    assert names(path, "number") == ["a", "b", "a_2", "a_3"]
    assert [record.numbered for record in read_fasta(path, duplicate_names="number")] == [False, False, True, True]
    with pytest.raises(UserError, match=r"record 3: the name 'a' is also that of record 1; .*--duplicate-names number$"):
        names(path, "error")
    with pytest.raises(UserError, match=r"rename or remove one of the two$"):  # where there is no such option
        names(path, None)


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ("a a_2 a", "record 3: 'a', numbered 'a_2', is also that of record 2"),
        ("a a a_2", "record 3: the name 'a_2' is also"),
    ],
)
def test_a_number_that_gives_another_records_name_is_refused(tmp_path: Path, order: str, message: str):
    path = tmp_path / "x.fa"
    path.write_text("".join(f">{name}\nAC\n" for name in order.split()))
    with pytest.raises(UserError, match=message):
        names(path, "number")
