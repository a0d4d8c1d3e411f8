import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnabert2_jax.errors import UserError
from dnabert2_jax.genome import Corpus, SpeciesSource, Window, Windows, build_corpus
from dnabert2_jax.genome.windows import PATTERN, _species_pattern
from tests.genome.helpers import random_dna, write_fasta

WINDOW = 100


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    home = tmp_path_factory.mktemp("windows")
    species = {
        "a": [random_dna(9_000, 1), random_dna(5_037, 2), random_dna(60, 3)],
        "b": [random_dna(4_000, 4)[:2000] + "N" * 7 + random_dna(2_500, 5)],
    }
    sources = [
        SpeciesSource(name, [write_fasta(home / f"{name}.fa", {f"c{i}": s for i, s in enumerate(contigs)})])
        for name, contigs in species.items()
    ]
    return build_corpus(sources, home / "corpus", min_contig=30, validation_block=500, validation_fraction=0.15)


def forward(window: Window) -> str:
    return window.sequence if window.strand == 1 else window.sequence.translate(str.maketrans("ACGT", "TGCA"))[::-1]


def test_a_window_is_what_the_corpus_has_there(corpus: Corpus):
    windows = Windows(corpus, WINDOW, seed=3).batch(range(2000))
    for window in windows:
        letters = corpus.read(window.contig, window.start, window.start + len(window.sequence))
        assert forward(window) == letters.tobytes().decode()
        assert window.species == corpus.contig_species[window.contig]
    assert 0.45 < np.mean([window.strand == -1 for window in windows]) < 0.55
    assert {window.strand for window in Windows(corpus, WINDOW, 3, reverse_complement=False).batch(range(500))} == {1}


def test_reverse_complement_of_iupac_codes(make_corpus):
    codes = "ACGTRYSWKMBDHVN"
    windows = Windows(make_corpus({"a": [codes]}, ambiguous="unk", min_contig=1), len(codes), seed=0).batch(range(20))
    assert {(w.strand, w.sequence) for w in windows} == {(1, codes), (-1, "NBDHVKMWSRYACGT")}


def test_train_and_validation_share_no_base(corpus: Corpus):
    seen = {split: [np.zeros(length, bool) for length in corpus.contig_lengths] for split in ("train", "validation")}
    for split in ("train", "validation"):
        windows = Windows(corpus, WINDOW, 0, split)
        for window in windows.batch(range(windows.epoch_size if split == "validation" else 20 * windows.epoch_size)):
            seen[split][window.contig][window.start : window.start + len(window.sequence)] = True
    for train, validation in zip(seen["train"], seen["validation"], strict=True):
        assert not (train & validation).any()
    assert sum(int(track.sum()) for track in seen["validation"]) == sum(s.validation_bases for s in corpus.species)
    # Twenty epochs of fresh offsets reach nearly all of the training bases (a segment's very ends are rare).
    assert sum(int(track.sum()) for track in seen["train"]) > 0.97 * sum(s.train_bases for s in corpus.species)


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=30), st.integers(0, 2**64 - 1))
def test_a_window_depends_on_seed_and_index_alone(corpus: Corpus, indices, seed):
    windows = Windows(corpus, WINDOW, seed)
    together = windows.batch(indices)
    assert together == [windows[index] for index in indices]
    assert windows.batch(indices[::-1]) == together[::-1]
    assert Windows(corpus, WINDOW, seed).batch(indices) == together


def test_seeds_differ(corpus: Corpus):
    first, second = (Windows(corpus, WINDOW, seed).batch(range(100)) for seed in (1, 2))
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 5


def test_every_cell_once_an_epoch_at_fresh_offsets(make_corpus):
    # One segment of 1000 bases and windows of 100: ten cells of 90.1 starts each.
    windows = Windows(make_corpus({"a": [random_dna(1000, 0)]}, validation_fraction=0), WINDOW, 5)
    assert windows.epoch_size == 10
    epochs = [[w.start for w in windows.batch(range(10 * e, 10 * e + 10))] for e in range(200)]
    for starts in epochs:
        assert all(90.1 * cell - 1 < start < 90.1 * (cell + 1) for cell, start in enumerate(sorted(starts)))
    assert len({tuple(starts) for starts in epochs}) == 200  # offsets
    assert len({tuple(np.argsort(starts)) for starts in epochs}) == 200  # order
    # Uniform over the 901 valid starts, both ends included: chi-square over 17 parts of 53.
    counts = np.bincount(np.concatenate(epochs) // 53, minlength=17)
    assert ((counts - 2000 / 17) ** 2 / (2000 / 17)).sum() < 16 + 6 * np.sqrt(32)
    assert max(map(max, epochs)) >= 895
    assert min(map(min, epochs)) <= 5


def test_epochs_cover_all_segments_of_several_contigs(make_corpus):
    corpus = make_corpus({"a": [random_dna(n, n) for n in (130, 1000, 70, 255)]}, validation_fraction=0, min_contig=50)
    windows = Windows(corpus, WINDOW, 0)
    assert windows.epoch_size == 1 + 10 + 1 + 2
    for epoch in range(5):
        batch = windows.batch(range(14 * epoch, 14 * epoch + 14))
        assert Counter(w.contig for w in batch) == {0: 1, 1: 10, 2: 1, 3: 2}
        assert [len(w.sequence) for w in batch if w.contig == 2] == [70]
        assert {len(w.sequence) for w in batch if w.contig != 2} == {WINDOW}


@pytest.mark.parametrize("weights", [{"a": 1.0, "b": 1.0}, {"a": 0.9, "b": 0.1}, {"a": 1e9, "b": 1.0}])
def test_weights_are_honoured(make_corpus, weights):
    corpus = make_corpus({"a": [random_dna(3000, 0)], "b": [random_dna(2000, 1)]}, weights, validation_fraction=0)
    species = [window.species for window in Windows(corpus, WINDOW, 0).batch(range(PATTERN))]
    expected = max(weights["b"] / sum(weights.values()), 1 / PATTERN)
    assert np.mean(species) == pytest.approx(expected, abs=1 / PATTERN)
    # Shares hold locally too, not only over the whole pattern.
    assert np.mean(species[:8000]) == pytest.approx(expected, abs=0.03)


@given(st.lists(st.floats(1e-6, 1e12), min_size=1, max_size=60), st.integers(0, 2**32))
def test_pattern_is_invertible_and_exact(weights, seed):
    pattern, rank, slots = _species_pattern(weights, seed)
    assert slots.sum() == PATTERN
    assert slots.min() >= 1
    share = np.array(weights) / np.sum(weights) * PATTERN
    # Lifting rare species to one slot takes at most one slot each from the others.
    assert (np.abs(slots - share) <= 1 + len(weights)).all()
    for species in range(len(weights)):
        assert rank[pattern == species].tolist() == list(range(slots[species]))


def test_many_species_of_little_weight():
    _, _, slots = _species_pattern([1e15] + [1.0] * 60_000, 0)
    assert slots.sum() == PATTERN
    assert slots.min() == 1
    assert _species_pattern([1.0] * PATTERN, 0)[2].tolist() == [1] * PATTERN


def test_validation_tiles_are_in_order_and_complete(corpus: Corpus):
    windows = Windows(corpus, WINDOW, 0, "validation")
    tiles = windows.batch(range(windows.epoch_size))
    assert tiles == Windows(corpus, WINDOW, 99, "validation").batch(range(windows.epoch_size))
    assert {tile.strand for tile in tiles} == {1}
    assert all(len(tile.sequence) <= WINDOW for tile in tiles)
    places = [(tile.contig, tile.start, tile.start + len(tile.sequence)) for tile in tiles]
    assert places == sorted(places)
    assert all(a[0] != b[0] or a[2] <= b[1] for a, b in itertools.pairwise(places))
    with pytest.raises(IndexError, match=f"below {windows.epoch_size}"):
        windows[windows.epoch_size]
    with pytest.raises(IndexError, match="-1"):
        windows[-1]


def test_no_window_holds_a_code_after_splitting(corpus: Corpus):
    for split in ("train", "validation"):
        windows = Windows(corpus, WINDOW, 0, split)
        assert not any("N" in w.sequence for w in windows.batch(range(windows.epoch_size)))


def test_empty_split_and_bad_window(make_corpus):
    corpus = make_corpus({"a": [random_dna(500, 0)]})
    with pytest.raises(UserError, match=r"validation split is empty.*validation_fraction"):
        Windows(corpus, WINDOW, 0, "validation")
    with pytest.raises(UserError, match="window_bases is 0"):
        Windows(corpus, 0, 0)
    assert Windows(corpus, WINDOW, 0).batch([]) == []
