"""Scores in memory, as Python users ask for them."""

import numpy as np
import pytest

from dnabert2_jax import DNABERT2
from dnabert2_jax.errors import UserError
from tests.genome.helpers import write_fasta
from tests.variants.helpers import FLANK, other_base


@pytest.fixture
def fasta(genome, tmp_path):
    return write_fasta(tmp_path / "ref.fa", {"1": genome})


def test_tuples_and_files_give_the_same(mlm, genome, fasta, tmp_path):
    model, how = DNABERT2(mlm), {"flank": FLANK, "batch_tokens": 1}
    given = [("chr1", at, genome[at - 1], other_base(genome[at - 1])) for at in (100, 130)]
    given.append(("1", 50, genome[49:52], "-"))
    scores = model.score_variants(fasta, iter(given), **how)
    assert repr(scores) == "VariantScores(3 alleles: 3 ok)"
    path = tmp_path / "in.csv"
    path.write_text("chrom,pos,ref,alt\n" + "".join(",".join(map(str, row)) + "\n" for row in given))
    of_file = model.score_variants(str(fasta), path, **how)
    np.testing.assert_array_equal(of_file["llr"], scores["llr"])
    frame = scores.to_pandas()
    assert frame["pos"].tolist() == [100, 130, 50]
    assert frame["llr"].notna().all()
    assert list(frame.columns) == [
        *("chrom", "pos", "id", "ref", "alt", "status", "llr", "llr_fwd", "llr_rev", "emb", "span", "tokens")
    ]


def test_no_variants(mlm, fasta):
    scores = DNABERT2(mlm).score_variants(fasta, [], scores=("emb",))
    assert len(scores) == 0
    assert repr(scores) == "VariantScores(0 alleles)"


def test_what_is_not_a_variant_is_named(mlm, fasta):
    with pytest.raises(UserError, match=r"variants\[1\] is \('1', 'x', 'A', 'C'\); accepted are tuples of contig"):
        DNABERT2(mlm).score_variants(fasta, [("1", 5, "A", "C"), ("1", "x", "A", "C")])


def test_shifts_and_noise(classifier, genome, fasta):
    given = [("1", 100, genome[99], other_base(genome[99]))]
    how = {"flank": FLANK, "batch_tokens": 1, "scores": ("delta",)}
    model = DNABERT2(classifier)
    moved = model.score_variants(fasta, given, shifts=1, tokenization_noise=2, **how)
    (alone,) = model.iter_score_variants(fasta, given, **how)
    assert moved["noise_none"][0] > 0
    assert moved["delta_none"][0] != alone["delta_none"][0]
    assert "noise_none" not in alone.columns
