"""A classifier along a genome: bins are means of predictions, on either strand, however they are computed."""

import numpy as np
import pytest

from dnabert2_jax.data.sequences import given_sequences, reverse_complement
from dnabert2_jax.errors import UserError
from dnabert2_jax.inference.prediction import predict
from dnabert2_jax.inference.tracks.bins import ClassTrack
from tests.genome.helpers import random_dna
from tests.inference.tracks.helpers import assert_same, by_place, mirrored, stretches_of

WINDOW, STEP = 40, 10
GENOME = {"chr1": random_dna(205, 1), "chr2": random_dna(33, 2)}
LENGTHS = {name: len(letters) for name, letters in GENOME.items()}


def expected_bins(classifier, genome, contig, start, end):
    """The bins of a stretch of the plus strand from predictions of its windows, written out."""
    windows = []
    at = start
    while True:
        windows.append((at, min(at + WINDOW, end)))
        if at + WINDOW >= end:
            break
        at += STEP
    values = predict(classifier, given_sequences([genome[contig][a:b] for a, b in windows])).outputs
    return {
        (contig, "+", a, min(a + STEP, end)): np.mean(
            [v for v, (first, last) in zip(values, windows, strict=True) if first <= a and last >= min(a + STEP, end)],
            axis=0,
        )
        for a in range(start, end, STEP)
    }


def test_a_bin_is_the_mean_of_the_windows_that_cover_it(tmp_path, classifier):
    whole = by_place(ClassTrack(classifier, stretches_of(tmp_path / "whole", GENOME), WINDOW, STEP))
    expected = {}
    for contig, bases in LENGTHS.items():
        expected |= expected_bins(classifier, GENOME, contig, 0, bases)
    assert_same(whole, expected)
    part = ClassTrack(classifier, stretches_of(tmp_path / "part", GENOME, "chr1\t15\t97\nchr1\t120\t130\n"), WINDOW, STEP)
    assert_same(
        by_place(part),
        expected_bins(classifier, GENOME, "chr1", 15, 97) | expected_bins(classifier, GENOME, "chr1", 120, 130),
    )
    assert part.windows == 6 + 1
    assert part.channels == classifier.labels


def test_the_size_of_chunks_changes_nothing(tmp_path, classifier, monkeypatch):
    stretches = stretches_of(tmp_path, GENOME)
    whole = by_place(ClassTrack(classifier, stretches, WINDOW, STEP))
    monkeypatch.setattr("dnabert2_jax.inference.tracks.bins.bases_of_a_chunk", lambda batch_tokens: 90)
    assert_same(by_place(ClassTrack(classifier, stretches, WINDOW, STEP)), whole)


def test_the_minus_strand_is_the_plus_strand_of_the_reverse_complement(tmp_path, classifier):
    turned = {name: reverse_complement(letters) for name, letters in GENOME.items()}
    minus = by_place(ClassTrack(classifier, stretches_of(tmp_path / "minus", GENOME, strand="-"), WINDOW, STEP))
    plus = by_place(ClassTrack(classifier, stretches_of(tmp_path / "plus", turned), WINDOW, STEP))
    assert_same(dict(sorted(minus.items())), mirrored(plus, LENGTHS))


def test_unknown_stretches_have_no_value(tmp_path, classifier):
    genome = {"c": random_dna(100, 3) + "N" * 100 + random_dna(100, 4)}
    track = ClassTrack(classifier, stretches_of(tmp_path, genome), WINDOW, STEP)
    scored = [(start, end) for _, _, start, end in by_place(track)]
    # The last window of the left part begins at 80, where half of it is known; the first of the right part at 180.
    assert scored == [(a, a + 10) for a in [*range(0, 120, 10), *range(180, 300, 10)]]
    assert track.unscored == len(range(90, 180, 10))


def test_a_window_that_cuts_bins_is_refused(tmp_path, classifier, mlm):
    stretches = stretches_of(tmp_path, GENOME)
    with pytest.raises(UserError, match="--window 40 --step 15: a window must be a multiple of the step"):
        ClassTrack(classifier, stretches, 40, 15)
    with pytest.raises(UserError, match="a track of classes needs a classifier"):
        ClassTrack(mlm, stretches, 40, 10)
