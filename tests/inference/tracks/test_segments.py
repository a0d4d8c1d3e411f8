"""Segments of bases, against a definition base by base, however the bases come in pieces."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnabert2_jax.errors import UserError
from dnabert2_jax.inference.tracks.segments import SegmentRules, Segments
from dnabert2_jax.inference.tracks.stretches import Piece

PROBABILITIES = st.sampled_from([None, 0.0, 0.2, 0.5, 0.75, 1.0])  # exact in float32, and their sums in float64 nearly so


def pieces_of(contigs, cuts):
    """Values by contig (None: no value) as pieces that end at some of the places."""
    for contig, values in contigs.items():
        edges = [0, *sorted({cut for cut in cuts if cut < len(values)}), len(values)]
        for first, last in itertools.pairwise(edges):
            places = np.array([n for n in range(first, last) if values[n] is not None], np.int64)
            if len(places):
                columns = np.array([[9.0, values[n]] for n in places], np.float32)
                yield Piece(contig, "-", places, places + 1, columns)


def expected_segments(values, rules):
    """(start, end, mean) of the segments of a contig, by going from base to base."""
    high = [n for n, value in enumerate(values) if value is not None and value >= np.float32(rules.threshold)]
    found = []
    for n in high:
        if found and n - found[-1][1] <= rules.merge:
            found[-1][1] = n + 1
        else:
            found.append([n, n + 1])
    kept = [(start, end) for start, end in found if end - start >= rules.min_length]
    return [(a, b, np.mean([v for v in values[a:b] if v is not None], dtype=np.float64)) for a, b in kept]


@given(
    contigs=st.dictionaries(st.sampled_from(["chr1", "chr2"]), st.lists(PROBABILITIES, min_size=1, max_size=25), min_size=1),
    cuts=st.lists(st.integers(1, 24), max_size=5),
    threshold=st.sampled_from([0.0, 0.4, 0.5, 1.0]),
    merge=st.integers(0, 4),
    min_length=st.integers(1, 4),
)
def test_segments_are_those_of_the_definition_however_bases_are_cut(contigs, cuts, threshold, merge, min_length):
    rules = SegmentRules(threshold, merge, min_length)
    segments = Segments(1, "my label", rules)
    lines = [line for piece in pieces_of(contigs, cuts) for line in segments.add(piece)]
    lines += segments.finish()
    found = [line.rstrip("\n").split("\t") for line in lines]
    expected = [(contig, *segment) for contig, values in contigs.items() for segment in expected_segments(values, rules)]
    assert [(f[0], int(f[1]), int(f[2])) for f in found] == [e[:3] for e in expected]
    assert all((f[3], f[5]) == ("my_label", "-") for f in found)
    for own, (*_, mean) in zip(found, expected, strict=True):
        assert abs(int(own[4]) - 1000 * mean) <= 0.5 + 1e-4


@pytest.mark.parametrize("rules", [{"threshold": 1.5}, {"threshold": -0.1}, {"merge": -1}, {"min_length": 0}])
def test_rules_out_of_range_are_refused(rules):
    with pytest.raises(UserError, match="accepted are"):
        SegmentRules(**rules)
