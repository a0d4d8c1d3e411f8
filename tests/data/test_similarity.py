import numpy as np
import pytest

from dnabert2_jax.data.sequences import reverse_complement
from dnabert2_jax.data.similarity import KMER, canonical_kmers, jaccard, similar_groups
from tests.genome.helpers import random_dna


def mutated(sequence: str, changes: int, seed: int) -> str:
    letters = list(sequence)
    for at in np.random.default_rng(seed).choice(len(letters), changes, replace=False):
        letters[at] = "ACGT"[("ACGT".index(letters[at]) + 1) % 4]
    return "".join(letters)


def test_kmers_are_those_of_either_strand():
    sequence = random_dna(200, 1)
    np.testing.assert_array_equal(canonical_kmers([sequence]), canonical_kmers([reverse_complement(sequence)]))
    assert len(canonical_kmers([sequence])) == 200 - KMER + 1
    assert jaccard(canonical_kmers([sequence]), canonical_kmers([random_dna(200, 2)])) == 0
    assert len(canonical_kmers(["ACGT"])) == len(canonical_kmers(["N" * 50])) == 1


def test_near_copies_are_grouped_and_nothing_else():
    """Against the index of every pair."""
    originals = [random_dna(int(n), seed) for seed, n in enumerate(np.random.default_rng(0).integers(80, 200, 30))]
    copies = [mutated(sequence, 1 + n % 4, n) for n, sequence in enumerate(originals)]
    others = [reverse_complement(sequence) for sequence in copies[:10]]
    rows = [(sequence,) for sequence in [*originals, *copies, *others]]
    groups = similar_groups(rows, 0.3)
    sets = [canonical_kmers(row) for row in rows]
    for a in range(len(rows)):
        for b in range(a):
            if jaccard(sets[a], sets[b]) >= 0.3:
                assert groups[a] == groups[b]
    assert len(set(groups[:30])) == 30
    assert sum(groups[30:60] == groups[:30]) > 20


@pytest.mark.parametrize(("step", "same"), [(40, True), (100, False)])
def test_overlapping_windows_form_a_chain(step, same):
    genome = random_dna(1000, 3)
    groups = similar_groups([(genome[start : start + 100],) for start in range(0, 900, step)], 0.3)
    assert (len(set(groups)) == 1) is same


def test_pairs_are_compared_as_pairs():
    a, b = random_dna(100, 1), random_dna(100, 2)
    assert len(set(similar_groups([(a, b), (b, a), (a, random_dna(100, 3))], 0.9))) == 2
