import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnabert2_jax.data.reading import read_sequences, read_table
from dnabert2_jax.data.sequences import given_sequences, other_strand, reverse_complement
from dnabert2_jax.errors import UserError
from tests.helpers import write_table


def written(path, content):
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(data)
    return path


BASES_OF = {
    **{base: base for base in "ACGT"},
    **{"R": "AG", "Y": "CT", "S": "CG", "W": "AT", "K": "GT", "M": "AC"},
    **{"B": "CGT", "D": "AGT", "H": "ACT", "V": "ACG", "N": "ACGT"},
}
PAIRED = dict(zip("ACGT", "TGCA", strict=True))


@given(st.lists(st.text("acgtACGTnNRy", min_size=1, max_size=30), min_size=1, max_size=8))
def test_given_sequences_are_what_a_file_would_give(tmp_path_factory, texts):
    names = [f"s{n}" for n in range(len(texts))]
    lines = "".join(f"{name},{text}\n" for name, text in zip(names, texts, strict=True))
    path = written(tmp_path_factory.mktemp("given") / "x.csv", f"name,sequence\n{lines}")
    from_file, from_python = read_sequences(path), given_sequences(texts, names=names)
    assert (from_python.names, from_python.sequences) == (from_file.names, from_file.sequences)
    assert from_python.letters == from_file.letters


def test_mistakes_in_python():
    with pytest.raises(UserError, match=r"sequences is a single string; give a list of strings: \[sequences\]"):
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


@given(st.text("".join(BASES_OF), min_size=1, max_size=60))
def test_each_letter_meets_its_partner_and_twice_is_the_same(sequence):
    other = reverse_complement(sequence)
    assert reverse_complement(other) == sequence
    for letter, partner in zip(sequence, reversed(other), strict=True):
        assert {PAIRED[base] for base in BASES_OF[letter]} == set(BASES_OF[partner])


def test_pairs_keep_their_order(tmp_path):
    table = read_table(write_table(tmp_path / "pairs.csv", [("AAC", "GGT", "0")], "sequence1,sequence2,label"))
    other = other_strand(table)
    assert (other.sequences, other.pairs, other.labels) == (["GTT"], ["ACC"], ["0"])
    both = other_strand(given_sequences(["AAC"], ["GGT"]))
    assert (both.sequences, both.pairs) == (["GTT"], ["ACC"])
    assert other_strand(given_sequences(["AACN"])).sequences == ["NGTT"]


def test_collections_of_python():
    assert given_sequences(text for text in ["ac", "g"]).sequences == ["AC", "G"]
    assert given_sequences(np.array(["AC", "G"])).sequences == ["AC", "G"]
    named = given_sequences({"lacZ": "AC", 7: "G"})
    assert (named.names, named.sequences) == (["lacZ", "7"], ["AC", "G"])
    assert given_sequences(["A", "C"], (text for text in ["G", "T"])).pairs == ["G", "T"]


def test_every_bad_sequence_of_python_is_named():
    with pytest.raises(UserError, match=r"3 of 4 records.*sequences\[1\] is None, not text.*sequences\[2\].*sequences\[3\]"):
        given_sequences(["A", None, "", "U"])


def test_pandas():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"gene": ["a", "b"], "DNA seq": ["AC", "G"]}, index=["x", "y"])
    series = given_sequences(frame["DNA seq"])
    assert (series.names, series.sequences) == (["x", "y"], ["AC", "G"])
    with pytest.raises(UserError, match=r"a DataFrame with the columns 'gene', 'DNA seq'; .* frame\['DNA seq'\]"):
        given_sequences(frame)
    frame.loc["y", "DNA seq"] = float("nan")
    with pytest.raises(UserError, match=r"sequences\['y'\] is nan, not text; fill in the sequence or drop the row"):
        given_sequences(frame["DNA seq"])
