"""What a track covers: order, strands, and overlaps."""

import pytest

from tests.genome.helpers import random_dna
from tests.inference.tracks.helpers import stretches_of

GENOME = {"b": random_dna(100, 1), "a": random_dna(50, 2).lower()}
BED = "a\t0\t10\tx\t0\t-\nb\t40\t60\ty\t0\t+\nb\t20\t30\tz\nb\t30\t45\tw\t0\t+\nb\t50\t55\tv\t0\t-\n"


def places(stretches):
    return [(i.strand, i.contig, i.start, i.end) for i in stretches]


@pytest.mark.parametrize(
    ("strand", "expected"),
    [
        ("+", [("+", "b", 20, 30), ("+", "b", 30, 60), ("+", "a", 0, 10)]),
        ("-", [("-", "b", 20, 30), ("-", "b", 30, 60), ("-", "a", 0, 10)]),
        ("bed", [("+", "b", 20, 30), ("+", "b", 30, 60), ("-", "b", 50, 55), ("-", "a", 0, 10)]),
    ],
)
def test_stretches_are_in_the_order_of_the_genome_and_overlaps_are_merged(tmp_path, strand, expected):
    stretches = stretches_of(tmp_path, GENOME, BED, strand)
    assert places(stretches) == expected
    merged = {"bed": 1}.get(strand, 2)
    assert f"overlapping intervals merged: {merged} into others" in stretches.summary()
    assert stretches.bases == sum(end - start for *_, start, end in expected)


def test_both_strands_are_read_one_after_the_other(tmp_path):
    stretches = stretches_of(tmp_path, GENOME, BED, "both")
    assert places(stretches) == [("+", *place[1:]) for place in places(stretches)[:3]] + [
        ("-", *place[1:]) for place in places(stretches)[:3]
    ]
    assert stretches.strands == ("+", "-")
    assert "6 stretches, 100 bases on + and -; 20 lower-case letters upper-cased" in stretches.summary()


def test_without_intervals_the_whole_genome_is_covered(tmp_path):
    stretches = stretches_of(tmp_path, GENOME)
    assert places(stretches) == [("+", "b", 0, 100), ("+", "a", 0, 50)]
    assert stretches.summary().startswith(f"{tmp_path / 'g.fa'}: 2 stretches, 150 bases on +")
