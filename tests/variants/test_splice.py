"""What splice mode must satisfy whatever the model says, and what it writes."""

import numpy as np
import pytest

from dnabert2_jax.data.base_windows import encode_bases
from dnabert2_jax.data.packing import one_per_row
from dnabert2_jax.errors import UserError
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.variants.scoring import ScoringOptions, VariantScorer
from dnabert2_jax.variants.splice import SpliceLabels
from tests.variants.helpers import FLANK, Contigs, other_base, random_labeler, reverse, scored, with_allele

NEAR = 10
SITES = SpliceLabels("acceptor", "donor", NEAR)


@pytest.fixture(scope="module")
def model() -> InferenceModel:
    return random_labeler()


def told(model, genome, *alleles, strands="both", position=True):
    """Of each allele, for each strand: four scores and four places, which are relative to POS, or else absolute."""
    results = []
    for own, (_, pos, _, _) in zip(scored(model, genome, alleles, splice=SITES, strands=strands), alleles, strict=True):
        assert own.status == "ok"
        texts = [own.values[key] for key in ("splice_fwd", "splice_rev") if key in own.values]
        fields = [text.split("|")[2:] for text in texts]
        numbers = [(tuple(map(float, f[:4])), tuple(int(p) + (0 if position else pos) for p in f[4:])) for f in fields]
        assert own.values["splice"] == pytest.approx(max(max(scores) for scores, _ in numbers), abs=5e-5)
        results.append(numbers)
    return results


def probabilities(model, text):
    batches = one_per_row(encode_bases([text], model.tokenizer, len(text)), 1)
    return model.predictor.class_outputs(batches)[0, :, 1:]


def test_a_substitution_is_the_difference_of_two_readings(model, genome):
    at, ref = 130, genome[130]
    alt = other_base(ref)
    window = genome[at - FLANK : at + FLANK + 1]
    change = probabilities(model, window[:FLANK] + alt + window[FLANK + 1 :]) - probabilities(model, window)
    near = change[FLANK - NEAR : FLANK + NEAR + 1]
    ((scores, places),) = told(model, Contigs(c=genome), ("c", at, ref, alt), strands="+")[0]
    expected = [near[:, 0].max(), -near[:, 0].min(), near[:, 1].max(), -near[:, 1].min()]
    assert max(expected) > 0.01
    np.testing.assert_allclose(scores, expected, rtol=0, atol=6e-5)
    peaks = [near[:, 0].argmax(), near[:, 0].argmin(), near[:, 1].argmax(), near[:, 1].argmin()]
    assert places == tuple(peak - NEAR for peak in peaks)


def test_bases_that_one_allele_lacks_are_one_place(model, genome):
    """An insertion: what lies beyond it is compared with itself, and what is inserted with nothing."""
    at = next(at for at in range(180, 230) if other_base(genome[at + 3]) != genome[at])  # it cannot be shifted
    inserted = "".join(other_base(base) for base in genome[at + 1 : at + 4])
    left, right = genome[at + 1 - FLANK : at + 1], genome[at + 1 : at + 1 + FLANK]
    before, after = probabilities(model, left + right), probabilities(model, left + inserted + right)
    inside = after[FLANK : FLANK + 3].max(0)
    change = np.concatenate([after[:FLANK] - before[:FLANK], inside[None], after[FLANK + 3 :] - before[FLANK:]])
    near = change[FLANK - NEAR : FLANK + 1 + NEAR]
    ((scores, places),) = told(model, Contigs(c=genome), ("c", at, genome[at], genome[at] + inserted), strands="+")[0]
    expected = [(sign * near[:, site]).max() for site in (0, 1) for sign in (1, -1)]
    np.testing.assert_allclose(scores, expected, rtol=0, atol=6e-5)
    from_start = int((near[:, 0]).argmax()) - NEAR  # 0 is the place of what is inserted, which begins after the base at POS
    assert places[0] == (from_start + 1 if from_start <= 0 else from_start)


@pytest.fixture(scope="module")
def kinds(genome):
    run = genome.index("C" + "A" * 9 + "G")
    return [
        ("c", 130, genome[130], other_base(genome[130])),
        ("c", 200, genome[200:203], reverse(genome[200:203]) + "T"),
        ("c", 50, genome[50:54], genome[50]),
        ("c", 70, genome[70], genome[70] + "GATTACA"),
        ("c", run, "CAA", "C"),
    ]


def test_exchanging_ref_and_alt_in_the_genome_too_exchanges_gains_and_losses(model, genome, kinds):
    for contig, position, ref, alt in kinds:
        (forth,) = told(model, Contigs(c=genome), (contig, position, ref, alt))
        (back,) = told(model, with_allele(genome, position, ref, alt), (contig, position, alt, ref))
        for (scores, _), (exchanged, _) in zip(forth, back, strict=True):
            assert max(scores) > 0.001
            assert scores == tuple(exchanged[n] for n in (1, 0, 3, 2))


def test_all_spellings_of_an_indel_are_told_the_same(model, genome):
    run = genome.index("C" + "A" * 9 + "G")
    repeat = genome.index("TGA" * 5)
    for spellings in (
        [("c", at, genome[at : at + 3], genome[at]) for at in (run, run + 3, run + 7)],
        [("c", at, genome[at], genome[at] + "AA") for at in (run, run + 4, run + 9)],
        [("c", repeat + at, genome[repeat + at : repeat + at + 4], genome[repeat + at]) for at in (0, 3, 7)],
    ):
        first, *others = told(model, Contigs(c=genome), *spellings, position=False)
        assert all(other == first for other in others)
    base, alt = genome[130], other_base(genome[130])
    long = ("c", 129, genome[129] + base, genome[129] + alt)
    first, other = told(model, Contigs(c=genome), long, ("c", 130, base, alt), position=False)
    assert first == other


def test_the_reversed_genome_exchanges_the_strands(model, genome, kinds):
    mirrored = [("c", len(genome) - at - len(ref), reverse(ref), reverse(alt)) for _, at, ref, alt in kinds]
    forward = told(model, Contigs(c=genome), *kinds)
    back = told(model, Contigs(c=reverse(genome)), *mirrored)
    for (plus, minus), (other_plus, other_minus) in zip(forward, back, strict=True):
        assert plus[0] == other_minus[0]
        assert minus[0] == other_plus[0]
    substitution, mirror = forward[0], back[0]
    assert [place for _, places in substitution for place in places] == [
        -place for _, places in reversed(mirror) for place in places
    ]


def test_at_the_ends_of_a_contig(model, genome):
    short = genome[:12]
    for at in (0, 11):
        (found,) = told(model, Contigs(c=short), ("c", at, short[at], other_base(short[at])))
        assert all(0 <= at + place < len(short) for _, places in found for place in places)


def test_what_the_model_must_have(model, classifier, genome):
    for splice, expected in (
        (SpliceLabels("aceptor", "donor", NEAR), r"has no label 'aceptor' \(did you mean 'acceptor'\?\); it has background"),
        (SpliceLabels("acceptor", "donor", FLANK + 1), f"--distance {FLANK + 1}: accepted is 1 to {FLANK}"),
    ):
        with pytest.raises(UserError, match=expected):
            VariantScorer(model, Contigs(c=genome), ScoringOptions(flank=FLANK, splice=splice))
    with pytest.raises(UserError, match="--splice needs a base_classifier"):
        VariantScorer(classifier, Contigs(c=genome), ScoringOptions(splice=SITES))
    for text in ("acceptor=a", "acceptor=a,donor=", "a,b", "acceptor=a,donor=b,both=c"):
        with pytest.raises(UserError, match="accepted is acceptor=LABEL,donor=LABEL"):
            SpliceLabels.parse(text)
