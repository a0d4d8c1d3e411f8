"""A masked language model along a genome: probabilities of bases against a slow version, strands, halos, and sums."""

from dataclasses import replace

import numpy as np
import pytest

from dnabert2_jax.data.sequences import reverse_complement
from dnabert2_jax.errors import UserError
from dnabert2_jax.inference.tracks import bases
from dnabert2_jax.inference.tracks.bases import BaseProbabilities, BaseTrack
from dnabert2_jax.tokenizer.kmer import KmerTokenizer
from dnabert2_jax.tokenizer.special import MASK, NUM_SPECIAL, with_template
from dnabert2_jax.types import TokenBatch
from tests.genome.helpers import random_dna
from tests.helpers import tiny_tokenizer
from tests.inference.tracks.helpers import assert_same, by_place, mirrored, stretches_of

GENOME = {"chr1": random_dna(150, 1), "chr2": random_dna(31, 2)}
LENGTHS = {name: len(letters) for name, letters in GENOME.items()}


def slow_probabilities(model, letters, first, start, end):
    """Probabilities of A, C, G and T at bases ``start`` to ``end`` of a contig; ``letters`` begin at its base ``first``."""
    pieces = model.tokenizer.pieces
    ids = np.array(model.tokenizer.encode_raw(letters), np.int32)
    found, at = {}, first
    for number, token in enumerate(ids):
        length = len(pieces[token])
        row = ids.copy()
        row[number % 8 :: 8] = MASK
        tokens = with_template(row)[None].astype(np.int32)
        batch = TokenBatch(tokens, np.ones_like(tokens), np.zeros_like(tokens))
        if at + length > start and at < end:
            p = model.predictor.token_probabilities(batch, np.array([[number + 1]], np.int32))[0, 0].astype(float)
            same = [n for n, piece in enumerate(pieces) if n >= NUM_SPECIAL and len(piece) == length]
            for offset in range(length):
                share = [sum(p[n] for n in same if pieces[n][offset] == base) / sum(p[same]) for base in "ACGT"]
                if start <= at + offset < end:
                    found[at + offset] = np.array(share)
        at += length
    return found


def expected_values(p, base):
    entropy = -float(np.sum(p * np.log2(p)))
    return {"logp": np.log(p["ACGT".index(base)]), "entropy": entropy, **dict(zip("ACGT", p * (2 - entropy), strict=True))}


def test_values_are_those_of_a_slow_version(tmp_path, mlm):
    stretches = stretches_of(tmp_path, GENOME, "chr1\t70\t81\nchr2\t25\t31\n")
    expected = {}
    for contig, start, end in (("chr1", 70, 81), ("chr2", 25, 31)):
        first, last = max(0, start - 64), min(LENGTHS[contig], end + 64)
        for place, p in slow_probabilities(mlm, GENOME[contig][first:last], first, start, end).items():
            expected[contig, "+", place, place + 1] = expected_values(p, GENOME[contig][place])
    for values in ("auto", "logo"):
        track = BaseTrack(mlm, stretches, 11, values)
        rows = {place: np.array([each[name] for name in track.channels]) for place, each in expected.items()}
        assert_same(by_place(track), rows)
    assert track.channels == ("A", "C", "G", "T")


def test_a_base_is_scored_once_whatever_the_batches(tmp_path, mlm):
    stretches = stretches_of(tmp_path, GENOME)
    whole = by_place(BaseTrack(mlm, stretches, 60))
    assert list(whole) == [(name, "+", n, n + 1) for name, bases in LENGTHS.items() for n in range(bases)]
    assert_same(by_place(BaseTrack(mlm, stretches, 60, batch_tokens=600)), whole)


def test_the_minus_strand_is_the_plus_strand_of_the_reverse_complement(tmp_path, mlm):
    turned = {name: reverse_complement(letters) for name, letters in GENOME.items()}
    for values in ("auto", "logo"):
        minus = by_place(BaseTrack(mlm, stretches_of(tmp_path / values / "minus", GENOME, strand="-"), 60, values))
        plus = by_place(BaseTrack(mlm, stretches_of(tmp_path / values / "plus", turned), 60, values))
        assert_same(dict(sorted(minus.items())), mirrored(plus, LENGTHS))


def test_probabilities_of_bases_sum_to_1(mlm):
    tokenizer = tiny_tokenizer()
    rng = np.random.default_rng(0)
    ids = np.arange(NUM_SPECIAL, tokenizer.vocab_size, dtype=np.int32)
    probabilities = rng.dirichlet(np.full(tokenizer.vocab_size, 0.1), len(ids)).astype(np.float32)
    found = BaseProbabilities(tokenizer)(ids, probabilities)
    assert found.shape == (sum(len(tokenizer.pieces[n]) for n in ids), 4)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-12)
    assert (found >= 0).all()


def test_a_piece_that_is_certain_makes_its_bases_certain():
    tokenizer = tiny_tokenizer()
    ids = np.array([n for n, piece in enumerate(tokenizer.pieces) if len(piece) == 2 and n >= NUM_SPECIAL], np.int32)
    certain = np.eye(tokenizer.vocab_size, dtype=np.float32)[ids]
    found = BaseProbabilities(tokenizer)(ids[::-1], certain)
    letters = "".join("ACGT"[n] for n in found.argmax(1))
    assert letters == "".join(tokenizer.pieces[n] for n in ids)
    assert (found.max(1) == 1).all()


def test_unknown_bases_have_no_value_and_are_not_masked(tmp_path, mlm):
    genome = {"c": random_dna(50, 5) + "N" * 30 + random_dna(50, 6), "n": "N" * 40}
    places = [start for _, _, start, _ in by_place(BaseTrack(mlm, stretches_of(tmp_path, genome), 40))]
    assert places == [*range(50), *range(80, 130)]


def test_gaps_of_an_assembly_are_not_tokenized(tmp_path, mlm, monkeypatch):
    genome = {"c": random_dna(50, 5) + "N" * 400 + random_dna(50, 6)}
    stretches = stretches_of(tmp_path, genome)
    given = by_place(BaseTrack(mlm, stretches, 25))
    texts: list[str] = []
    encode = mlm.tokenizer.encode_raw
    monkeypatch.setattr(mlm.tokenizer, "encode_raw", lambda text: texts.append(text) or encode(text))
    assert_same(by_place(BaseTrack(mlm, stretches, 25)), given)
    assert texts
    assert all(set(text) != {"N"} for text in texts)


def test_tokens_of_windows_are_those_of_the_whole_contig(tmp_path, mlm, monkeypatch):
    """With one base beside a window, halos must grow; then every token is one of the contig's."""
    monkeypatch.setattr(bases, "HALO", 1)
    letters = random_dna(400, 7)
    ids = np.array(mlm.tokenizer.encode_raw(letters))
    ends = np.cumsum(mlm.tokenizer.token_bases(ids))
    whole = set(zip((ends - mlm.tokenizer.token_bases(ids)).tolist(), ids.tolist(), strict=True))
    track = BaseTrack(mlm, stretches_of(tmp_path, {"c": letters}), 25)
    halos = set()
    for window in (window for chunk in track._chunks() for window in chunk):
        assert {(window.start + at, token) for at, token in track._tokens_inside(window)} <= whole
        halos.add(len(window.letters) - 25)
    assert len(halos) > 2


def test_other_models_and_tokenizers_are_refused(tmp_path, mlm, classifier):
    stretches = stretches_of(tmp_path, GENOME)
    with pytest.raises(UserError, match="a track of bases needs a masked_lm"):
        BaseTrack(classifier, stretches, 40)
    with pytest.raises(UserError, match="tokenizer of k-mers"):
        BaseTrack(replace(mlm, tokenizer=KmerTokenizer(3, 1)), stretches, 40)
    with pytest.raises(UserError, match="--window 0"):
        BaseTrack(mlm, stretches, 0)
