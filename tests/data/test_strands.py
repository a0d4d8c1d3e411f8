from hypothesis import given
from hypothesis import strategies as st

from dnabert2_jax.data.reading import read_table
from dnabert2_jax.data.sequences import given_sequences, other_strand, reverse_complement
from tests.helpers import write_table

BASES_OF = {
    **{base: base for base in "ACGT"},
    **{"R": "AG", "Y": "CT", "S": "CG", "W": "AT", "K": "GT", "M": "AC"},
    **{"B": "CGT", "D": "AGT", "H": "ACT", "V": "ACG", "N": "ACGT"},
}
PAIRED = dict(zip("ACGT", "TGCA", strict=True))


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
