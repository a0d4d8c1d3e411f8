"""Labels along a genome: the same as the network says of each window, without seams, on both strands, at any window."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from dnabert2_jax.config.model import HeadConfig
from dnabert2_jax.data.base_windows import encode_bases
from dnabert2_jax.data.packing import one_per_row
from dnabert2_jax.data.sequences import reverse_complement
from dnabert2_jax.errors import UserError
from dnabert2_jax.inference.tracks.labels import LabelTrack
from dnabert2_jax.inference.tracks.values import iterate_track, joined
from tests.genome.helpers import random_dna
from tests.inference.conftest import BASE_LABELS
from tests.inference.tracks.helpers import assert_same, by_place, mirrored, stretches_of

GENOME = {"chr1": random_dna(700, 1), "chr2": random_dna(90, 2) + "N" * 30 + random_dna(40, 3) + "R" + random_dna(9, 4)}
LENGTHS = {name: len(letters) for name, letters in GENOME.items()}
OTHER = {name: reverse_complement(letters) for name, letters in GENOME.items()}


@pytest.fixture(scope="session")
def local(labeler):
    """The same without attention: what it says of a base depends on the bases close by alone."""
    params = labeler.predictor.params
    layers = params["encoder"]["layers"]
    out = jax.tree.map(lambda x: x * 0, layers["out"])
    changed = {**params, "encoder": {**params["encoder"], "layers": {**layers, "out": out}}}
    return replace(labeler, predictor=replace(labeler.predictor, params=changed))


def said_of(model, sequences, width):
    """What the network says about each sequence, [bases, labels]."""
    encoded = encode_bases(sequences, model.tokenizer, width)
    outputs = model.predictor.class_outputs(one_per_row(encoded, 4096))
    return [own[: len(letters), 1:] for own, letters in zip(outputs, sequences, strict=True)]


def test_each_known_base_is_written_once_with_what_the_network_says_about_its_window(labeler, tmp_path):
    track = LabelTrack(labeler, stretches_of(tmp_path, GENOME))
    assert (track.channels, track.read, track.context, track.written) == (BASE_LABELS[1:], 256, 64, 128)
    found = by_place(track)
    known = [(c, "+", n, n + 1) for c, letters in GENOME.items() for n, letter in enumerate(letters) if letter in "ACGT"]
    assert list(found) == known
    assert sum(len(piece.starts) for piece in track) == len(known)
    starts = [(contig, start) for contig, letters in GENOME.items() for start in range(0, len(letters), 128)]
    windows = [GENOME[contig][max(0, start - 64) : start + 128 + 64] for contig, start in starts]
    for (contig, start), outputs in zip(starts, said_of(labeler, windows, 256), strict=True):
        for n in range(start, min(start + 128, LENGTHS[contig])):
            if GENOME[contig][n] in "ACGT":
                np.testing.assert_allclose(found[contig, "+", n, n + 1], outputs[n - max(0, start - 64)], atol=1e-5)


def test_windows_and_batches_change_nothing_where_no_token_sees_beyond_the_context(local, tmp_path):
    """Exactly, but for rounding; with attention, farther bases have a part that the context leaves out."""
    stretches = stretches_of(tmp_path, GENOME)
    reference = by_place(LabelTrack(local, stretches, window=256))
    for window, batch_tokens in ((256, 100), (900, None)):
        assert_same(by_place(LabelTrack(local, stretches, window, batch_tokens)), reference)
    [whole] = said_of(local, [GENOME["chr1"]], 700)
    found = np.stack([values for place, values in reference.items() if place[0] == "chr1"])
    np.testing.assert_allclose(found, whole, atol=1e-5)


def test_the_minus_strand_is_the_plus_strand_of_the_reversed_genome(labeler, tmp_path):
    minus = by_place(LabelTrack(labeler, stretches_of(tmp_path / "own", GENOME, strand="-")))
    plus = by_place(LabelTrack(labeler, stretches_of(tmp_path / "reversed", OTHER)))
    assert_same(minus, mirrored(plus, LENGTHS))
    assert {place[1] for place in minus} == {"-"}


def test_intervals_have_the_context_of_their_contig(local, tmp_path):
    whole = by_place(LabelTrack(local, stretches_of(tmp_path / "whole", GENOME)))
    part = by_place(LabelTrack(local, stretches_of(tmp_path / "part", GENOME, "chr1\t300\t420\nchr2\t80\t130\n")))
    assert len(part) == 120 + 20
    assert_same(part, {place: whole[place] for place in part})


def test_several_labels_have_no_background(labeler, tmp_path):
    forward = replace(labeler.predictor.forward, head=HeadConfig(task="per_base", window=256, several=True))
    several = replace(labeler, predictor=replace(labeler.predictor, forward=forward))
    track = LabelTrack(several, stretches_of(tmp_path, {"chr1": random_dna(50, 1)}))
    assert track.channels == BASE_LABELS
    assert all(values.shape == (3,) and (values > 0).all() and (values < 1).all() for values in by_place(track).values())


def test_a_stretch_of_unknown_bases_has_no_value(labeler, tmp_path):
    assert not by_place(LabelTrack(labeler, stretches_of(tmp_path, {"chr1": "N" * 300})))


def test_mistakes_are_explained(labeler, mlm, tmp_path):
    stretches = stretches_of(tmp_path, GENOME)
    with pytest.raises(UserError, match=r"--window 128: a window needs more than 128 bases, because 64 on either side"):
        LabelTrack(labeler, stretches, window=128)
    with pytest.raises(UserError, match=r"is a masked_lm; a track of labels needs a base_classifier: train one"):
        LabelTrack(mlm, stretches)


def test_python_has_the_values_of_the_files(labeler, tmp_path):
    track = LabelTrack(labeler, stretches_of(tmp_path, GENOME))
    pieces = list(track)
    found = joined(list(iterate_track(labeler, track.stretches.reference.path)))
    assert found.channels == track.channels
    np.testing.assert_array_equal(found.values, np.concatenate([piece.values for piece in pieces]))
    np.testing.assert_array_equal(found.starts, np.concatenate([piece.starts for piece in pieces]))
