import bz2
import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnabert2_jax.data.reading import read_sequences
from dnabert2_jax.data.sequences import given_sequences
from dnabert2_jax.errors import UserError
from tests.genome.helpers import write_fasta


def written(path, content):
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(data)
    return path


def test_fasta(tmp_path):
    sequences = read_sequences(write_fasta(tmp_path / "genes.fa", {"b": "ACGTN" * 30, "a": "ggg"}))
    assert sequences.names == ["b", "a"]
    assert sequences.sequences == ["ACGTN" * 30, "GGG"]
    assert sequences.pairs is None
    assert "2 sequences, 153 bases; 3 lower-case letters upper-cased; 30 ambiguity codes" in sequences.summary()


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("x.fa.gz", gzip.compress),
        ("x.fna.bz2", bz2.compress),
        ("x.txt", bytes),
        ("x", bytes),
        ("x.gz", gzip.compress),
    ],
)
def test_fasta_is_recognised(tmp_path, name, pack):
    sequences = read_sequences(written(tmp_path / name, pack(b">one two\nAC\nGT\n")))
    assert (sequences.names, sequences.sequences) == (["one"], ["ACGT"])


@pytest.mark.parametrize(("name", "pack"), [("x.csv", bytes), ("x.csv.gz", gzip.compress), ("x.txt", bytes)])
def test_table(tmp_path, name, pack):
    text = b'\xef\xbb\xbfname,sequence,other\r\nfirst,ACGT,1\r\n"se,cond",ggn,\r\n'
    sequences = read_sequences(written(tmp_path / name, pack(text)))
    assert sequences.names == ["first", "se,cond"]
    assert sequences.sequences == ["ACGT", "GGN"]
    assert (sequences.letters.lower_case, sequences.letters.ambiguous) == (3, {"N": 1})


def test_rows_without_names_are_numbered(tmp_path):
    path = written(tmp_path / "x.tsv", "label\tsequence\n1\tACGT\n0\tGG\n")
    assert read_sequences(path).names == ["1", "2"]
    assert read_sequences(path, name_column="label").names == ["1", "0"]


def test_pairs_and_one_column_of_them(tmp_path):
    path = written(tmp_path / "x.csv", "sequence1,sequence2\nAC,GGG\nTT,A\n")
    sequences = read_sequences(path)
    assert (sequences.sequences, sequences.pairs) == (["AC", "TT"], ["GGG", "A"])
    assert "2 pairs, 8 bases" in sequences.summary()
    one = read_sequences(path, sequence_column="sequence2")
    assert (one.sequences, one.pairs) == (["GGG", "A"], None)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", "", r"x\.csv: the file is empty"),
        ("x.csv", "sequence\n", r"x\.csv: the file has a header and no rows"),
        (
            "x.csv",
            "seqence,label\nA,1\n",
            r"no column 'sequence'; the header has 'seqence', 'label'.*did you mean 'seqence'",
        ),
        ("x.csv", "sequence,sequence\nA,A\n", r"2 columns are called 'sequence'"),
        ("x.csv", "sequence,sequence1\nA,A\n", r"has both 'sequence' and 'sequence1'"),
        ("x.csv", "sequence1,label\nA,A\n", r"no column 'sequence2'"),
        ("x.csv", "name,sequence\na,A\nb\n", r"x\.csv, line 3: 1 fields, but the header has 2"),
        ("x.csv", "name,sequence\na,A\nb,\n", r"x\.csv, line 3: column 'sequence' is empty"),
        ("x.csv", "name,sequence\na,A\nb,ACXT\n", r"line 3, column 'sequence', position 3: 'X' is not a DNA letter"),
        ("x.csv", "sequence\nAC[MASK]T\n", r"position 3: '\[' is not a DNA letter.*special tokens"),
        ("x.csv.gz", b"\x1f\x8b\x08broken", r"x\.csv\.gz: damaged gzip file"),
        ("x.fa", ">a\nACGT\n>b\n", r"x\.fa, record 'b': the sequence is empty"),
        ("x.fa", ">a\nAC\n>a\nAC\n", r"the name 'a' is also that of record 1"),
        ("x.fa", "", r"x\.fa: no FASTA record"),
        ("x.fa.gz", b"plain text", r"x\.fa\.gz, record 1"),
        ("x.fastq", "@read\nACGT\n+\nIIII\n", r"this looks like FASTQ"),
    ],
)
def test_mistakes(tmp_path, name, content, message):
    path = written(tmp_path / name, content)
    with pytest.raises(UserError, match=message):
        read_sequences(path)


def test_paths_that_are_no_files(tmp_path):
    with pytest.raises(UserError, match="is a directory; give a FASTA, CSV or TSV file"):
        read_sequences(tmp_path)
    with pytest.raises(UserError, match=r"x\.csv: cannot be read"):
        read_sequences(tmp_path / "x.csv")
    with pytest.raises(UserError, match=r"x\.fa does not exist"):
        read_sequences(tmp_path / "x.fa")


def test_a_column_of_names_that_was_asked_for_must_be_there(tmp_path):
    with pytest.raises(UserError, match=r"no column 'gene'; the header has 'genes', 'sequence'.*did you mean 'genes'"):
        read_sequences(written(tmp_path / "x.csv", "genes,sequence\na,A\n"), name_column="gene")


@given(st.lists(st.text("acgtACGTnNRy", min_size=1, max_size=30), min_size=1, max_size=8))
def test_given_sequences_are_what_a_file_would_give(tmp_path_factory, texts):
    names = [f"s{n}" for n in range(len(texts))]
    lines = "".join(f"{name},{text}\n" for name, text in zip(names, texts, strict=True))
    path = written(tmp_path_factory.mktemp("given") / "x.csv", f"name,sequence\n{lines}")
    from_file, from_python = read_sequences(path), given_sequences(texts, names=names)
    assert (from_python.names, from_python.sequences) == (from_file.names, from_file.sequences)
    assert from_python.letters == from_file.letters


def test_mistakes_in_python():
    with pytest.raises(UserError, match=r"sequences is one text; give a list of them: \[sequences\]"):
        given_sequences("ACGT")
    with pytest.raises(UserError, match="there are no sequences"):
        given_sequences([])
    with pytest.raises(UserError, match=r"sequences\[1\]: the sequence is empty"):
        given_sequences(["A", ""])
    with pytest.raises(UserError, match=r"sequences\[1\], position 2: 'U'.*RNA"):
        given_sequences(["A", "AU"])
    with pytest.raises(UserError, match=r"pairs\[0\], position 1: '-'"):
        given_sequences(["A"], ["-"])
    with pytest.raises(UserError, match="2 pairs for 1 sequences"):
        given_sequences(["A"], ["A", "C"])
    with pytest.raises(UserError, match="0 names for 1 sequences"):
        given_sequences(["A"], names=[])
