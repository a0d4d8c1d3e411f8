"""Alleles in their windows: trimming, equal spellings, the reference check, and what is not scored."""

import hypothesis
import pytest
from hypothesis import strategies as st

from dnabert2_jax.variants.alleles import LONGEST_REPEAT, Allele, Window, place, shifts, trimmed, view
from tests.genome.helpers import random_dna
from tests.variants.helpers import Contigs, reverse

DNA = st.text("ACGT", min_size=1, max_size=6)


def placed(genome: str, position: int, ref: str, alt: str, flank: int = 8, max_span: int = 64):
    return place(Contigs(c=genome), Allele("c", position, ref, alt), flank, max_span)


def test_a_substitution_lies_in_the_middle_of_its_window():
    genome = random_dna(50, 0)
    window = placed(genome, 20, genome[20], "A" if genome[20] != "A" else "C")
    assert window.left + window.ref + window.right == genome[12:29]
    assert len(window.alt) == 1


def test_soft_masked_bases_are_bases_and_ambiguous_ones_are_unknown():
    window = placed("acgtRYACGT" * 2, 6, "A", "c")
    assert (window.left, window.ref, window.alt, window.right) == ("ACGTNN", "A", "C", "CGTACGTN")


@pytest.mark.parametrize(("position", "left", "right"), [(0, 0, 8), (3, 3, 8), (49, 8, 0)])
def test_windows_are_shorter_at_the_ends_of_a_contig(position, left, right):
    genome = "ACGTT" * 10
    window = placed(genome, position, genome[position], "N")
    assert (len(window.left), len(window.right)) == (left, right)


@pytest.mark.parametrize(
    ("ref", "alt", "expected"),
    [
        ("TG", "TA", (11, "G", "A")),
        ("ACG", "TCG", (10, "A", "T")),
        ("A", "ATT", (11, "", "TT")),
        ("CA", "CACA", (12, "", "CA")),
    ],
)
def test_trimming(ref, alt, expected):
    assert trimmed(10, ref, alt) == expected


@hypothesis.given(left=DNA, right=DNA, ref=DNA, alt=DNA, pad=DNA)
def test_bases_that_both_alleles_have_change_no_window(left, right, ref, alt, pad):
    hypothesis.assume(ref != alt)
    genome = left + pad + ref + pad + right
    short = placed(genome, len(left + pad), ref, alt)
    long = placed(genome, len(left), pad + ref + pad, pad + alt + pad)
    assert short == long


def spellings(genome: str, position: int, size: int) -> list[tuple[int, str, str]]:
    """All deletions of ``size`` bases, anchored by the base before, with the sequence of the one at ``position``."""
    wanted = genome[:position] + genome[position + size :]
    starts = [at for at in range(1, len(genome) - size + 1) if genome[:at] + genome[at + size :] == wanted]
    return [(at - 1, genome[at - 1 : at + size], genome[at - 1]) for at in starts]


@hypothesis.given(genome=st.text("AC", min_size=6, max_size=24), size=st.integers(1, 3), data=st.data())
def test_all_spellings_of_an_indel_have_one_window(genome, size, data):
    position = data.draw(st.integers(1, len(genome) - size))
    every = spellings(genome, position, size)
    assert position - 1 in [at for at, _, _ in every]
    windows = {placed(genome, *spelling) for spelling in every}
    assert len(windows) == 1
    window = windows.pop()
    assert window.left + window.alt + window.right in genome[:position] + genome[position + size :]
    # The insertion that undoes it has the same window with the alleles exchanged.
    shorter = genome[:position] + genome[position + size :]
    back = placed(shorter, position - 1, genome[position - 1], genome[position - 1 : position + size])
    assert back == Window(window.left, window.alt, window.ref, window.right, window.start)


@hypothesis.given(genome=st.text("ACGT", min_size=8, max_size=30), data=st.data())
def test_the_window_of_the_reversed_genome_is_the_reversed_window(genome, data):
    start = data.draw(st.integers(0, len(genome) - 4))
    ref = genome[start : start + data.draw(st.integers(1, 3))]
    alt = data.draw(DNA)
    hypothesis.assume(alt != ref)
    forward = placed(genome, start, ref, alt)
    back = placed(reverse(genome), len(genome) - start - len(ref), reverse(ref), reverse(alt))
    assert view(back, "+") == view(forward, "-")
    assert view(back, "-") == view(forward, "+")


def test_shifts_of_a_repeat():
    assert shifts("GCA", "CA", "CAT") == (2, 2)
    assert shifts("", "A", "") == (0, 0)
    assert shifts("GNN", "A", "NN") == (0, 0)


@pytest.mark.parametrize(
    ("ref", "alt", "status"),
    [
        ("C", "<DEL>", "symbolic"),
        ("C", "<*>", "symbolic"),
        ("C", "C[2:321682[", "breakend"),
        ("C", "]13:123]C", "breakend"),
        ("C", ".C", "breakend"),
        ("C", "*", "star"),
        ("C", ".", "missing"),
        ("", "A", "missing"),
        ("C", "c", "missing"),
        ("C", "foo", "missing"),
        ("A", "C", "ref_mismatch"),
        ("C" * 99, "A", "ref_mismatch"),  # beyond the end
        ("CGTAC", "G", "too_long"),
    ],
)
def test_what_is_not_scored(ref, alt, status):
    assert placed("ACGTACGTAC", 1, ref, alt, max_span=3) == status


def test_lower_case_and_codes_are_read_by_the_letters_policy():
    assert placed("AACGTA", 2, "c", "t") == placed("AACGTA", 2, "C", "T")
    assert placed("AANGTA", 2, "A", "T").ref == "N"  # an unknown base contradicts nothing, but there is nothing to compare
    assert placed("AANGTA", 2, "AG", "AT").ref == "G"
    assert placed("AACGTA", 2, "R", "T").ref == "N"


def test_a_contig_that_is_not_there():
    assert place(Contigs(c="ACGT"), Allele(None, 0, "A", "C"), 8, 64) == "no_contig"


def test_a_repeat_without_end_is_too_long():
    genome = "G" + "A" * (LONGEST_REPEAT + 200) + "G"
    for position in (0, 600, LONGEST_REPEAT + 100):
        anchor = genome[position]
        assert placed(genome, position, anchor + "A", anchor) == "too_long"
    shorter = "G" + "A" * (LONGEST_REPEAT + 1) + "G"
    assert len(placed(shorter, 0, "GA", "G").ref) == LONGEST_REPEAT + 1


def test_all_bases_take_part_in_a_substitution_on_either_strand():
    window = placed("AACGTA", 2, "C", "T", flank=2)
    forward, back = view(window, "+"), view(window, "-")
    assert forward.windows() == ["AAAGT", "AACGT", "AAGGT", "AATGT"]
    assert (forward.ref, forward.alt) == (1, 3)
    assert back.windows() == ["ACATT", "ACCTT", "ACGTT", "ACTTT"]
    assert (back.ref, back.alt) == (2, 0)
