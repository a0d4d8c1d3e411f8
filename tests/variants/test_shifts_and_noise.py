"""Means over moved windows, and the spread of delta over segmentations of the same bases."""

from dataclasses import replace

import numpy as np
import pytest

from dnabert2_jax.data.sequences import given_sequences
from dnabert2_jax.errors import UserError
from dnabert2_jax.inference.prediction import predict
from dnabert2_jax.inference.views import other_segmentation
from dnabert2_jax.tokenizer.kmer import KmerTokenizer
from dnabert2_jax.variants.fields import fields_of
from tests.variants.helpers import FLANK, LABELS, Contigs, llr, other_base, random_mlm, reverse, scored, with_allele

SITE = 130


@pytest.fixture
def substitution(genome) -> tuple:
    return ("c", SITE, genome[SITE], other_base(genome[SITE]))


def cut_out(genome: str, left: int, right: int) -> tuple[Contigs, int]:
    """A contig that ends so many bases from the site, which makes the window what it is; and where the site is in it."""
    return Contigs(c=genome[SITE - left : SITE + 1 + right]), left


def test_the_mean_over_moved_windows(mlm, genome, substitution):
    _, _, ref, alt = substitution
    each = []
    for offset in (0, -6, 6, -12, 12):
        contigs, site = cut_out(genome, FLANK - offset, FLANK + offset)
        each += scored(mlm, contigs, [("c", site, ref, alt)], flank=2 * FLANK)
    (found,) = scored(mlm, Contigs(c=genome), [substitution], shifts=2)
    for name in ("llr", "llr_fwd", "llr_rev", "emb"):
        values = [own.values[name] for own in each]
        assert np.ptp(values) > 1e-6
        assert found.values[name] == pytest.approx(np.mean(values), abs=1e-6)
    assert found.values["tokens"] == each[0].values["tokens"]


def test_moved_windows_keep_the_symmetries(mlm, genome, substitution):
    _, _, ref, alt = substitution
    indel = ("c", 50, genome[50:54], genome[50])
    forward = llr(mlm, Contigs(c=genome), substitution, indel, shifts=1)
    mirrored = [("c", len(genome) - at - len(ref), reverse(ref), reverse(alt)) for _, at, ref, alt in (substitution, indel)]
    assert llr(mlm, Contigs(c=reverse(genome)), *mirrored, shifts=1) == pytest.approx(forward, rel=1e-6)
    (back,) = llr(mlm, with_allele(genome, SITE, ref, alt), ("c", SITE, alt, ref), shifts=1)
    assert back == pytest.approx(-forward[0], rel=1e-6)


def test_the_usual_window_decides_whether_an_allele_is_scored(mlm, genome, substitution):
    """An unknown base that only a moved window reads is one of its tokens."""
    unknown = genome[: SITE - FLANK - 1] + "N" + genome[SITE - FLANK :]
    (usual,) = scored(mlm, Contigs(c=genome), [substitution])
    (found,) = scored(mlm, Contigs(c=unknown), [substitution], shifts=1)
    assert found.status == "ok"
    assert found.values["llr"] != usual.values["llr"]
    (none,) = scored(mlm, Contigs(c=genome[:SITE] + "N" + genome[SITE + 1 :]), [substitution], shifts=1)
    assert (none.status, none.values) == ("n_in_span", {})


def test_noise_is_the_spread_of_delta_over_segmentations(classifier, genome, substitution):
    _, _, ref, alt = substitution
    (found,) = scored(classifier, Contigs(c=genome), [substitution], tokenization_noise=3)
    (plain,) = scored(classifier, Contigs(c=genome), [substitution])
    left, right = genome[SITE - FLANK : SITE], genome[SITE + 1 : SITE + 1 + FLANK]
    deltas = []
    for number in (1, 2, 3):
        reader = replace(classifier, tokenizer=other_segmentation(classifier.tokenizer, number))
        windows = given_sequences([left + ref + right, left + alt + right])
        p = predict(reader, windows, reverse_complement=True).probabilities.astype(np.float64)
        logits = np.log(p / (1 - p))
        deltas.append(logits[1] - logits[0])
    for at, label in enumerate(LABELS):
        assert found.values[f"noise_{label}"] == pytest.approx(np.std(deltas, axis=0, ddof=1)[at], rel=1e-3)
        assert found.values[f"noise_{label}"] > 1e-4
        assert found.values[f"delta_{label}"] == plain.values[f"delta_{label}"]


def test_noise_is_that_of_the_alleles_whatever_stands_beside_them(classifier, genome, substitution):
    _, _, ref, alt = substitution
    how = {"tokenization_noise": 2, "shifts": 1}
    (alone,) = scored(classifier, Contigs(c=genome), [substitution], **how)
    *_, beside = scored(classifier, Contigs(c=genome), [("c", 50, genome[50:54], genome[50]), substitution], **how)
    (back,) = scored(classifier, with_allele(genome, SITE, ref, alt), [("c", SITE, alt, ref)], **how)
    for label in LABELS:
        assert beside.values[f"noise_{label}"] == pytest.approx(alone.values[f"noise_{label}"], rel=1e-3)
        assert back.values[f"noise_{label}"] == pytest.approx(alone.values[f"noise_{label}"], rel=1e-3)


def test_the_fields_say_what_was_done():
    before = fields_of(("llr", "delta"), ("a",), "both", regression=False)
    fields = fields_of(("llr", "delta"), ("a",), "both", regression=False, windows=3, segmentations=5)
    added = [field for field in fields if field.key not in {own.key for own in before}]
    assert [(field.column, field.key) for field in added] == [("noise_a", "DB2_NOISE_a")]
    assert added[0].description.endswith("over 5 other segmentations of the same bases")
    of = {field.column: field.description for field in fields}
    assert of["llr"].endswith("mean of both strands and 3 windows")
    assert of["llr_fwd"].endswith("forward strand; mean of 3 windows")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shifts": 13}, "shifts 13: windows are moved by up to half a flank of 24; accepted are 0 to 12"),
        ({"shifts": -1}, "accepted are 0 to 12"),
        ({"tokenization_noise": 1}, "a spread needs 2 or more"),
        ({"tokenization_noise": 2, "scores": ("emb",)}, "is the spread of delta, which is not among the scores"),
    ],
)
def test_mistakes(classifier, genome, substitution, options, words):
    with pytest.raises(UserError, match=words):
        scored(classifier, Contigs(c=genome), [substitution], **options)


def test_kmers_have_no_other_segmentation(genome, substitution):
    model = replace(random_mlm(tokenizer=KmerTokenizer(3, 3)), kind="classifier", labels=LABELS)
    with pytest.raises(UserError, match="reads k-mers"):
        scored(model, Contigs(c=genome), [substitution], tokenization_noise=2)
