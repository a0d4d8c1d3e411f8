"""What scores must satisfy whatever the model says: symmetries, closed forms, and equality with plain calls of the model."""

from functools import cache
from itertools import product

import numpy as np
import pytest
from scipy.special import log_softmax

from dnabert2_jax import DNABERT2
from dnabert2_jax.errors import UserError
from dnabert2_jax.tokenizer.kmer import KmerTokenizer
from dnabert2_jax.tokenizer.special import MASK, NUM_SPECIAL
from dnabert2_jax.variants.alleles import Allele, place, view
from dnabert2_jax.variants.scoring import ScoringOptions, VariantScorer
from tests.variants.helpers import (
    FLANK,
    LABELS,
    Contigs,
    constant_mlm,
    find_span,
    llr,
    other_base,
    random_mlm,
    reverse,
    scored,
    with_allele,
)

SUBSTITUTION, DELETION, INSERTION = 130, 50, 70


@pytest.fixture(scope="session")
def kinds(genome) -> list[tuple]:
    """One variant of each kind: a base, several bases, a deletion, an insertion, and both at once."""
    return [
        ("c", SUBSTITUTION, genome[SUBSTITUTION], other_base(genome[SUBSTITUTION])),
        ("c", 200, genome[200:203], reverse(genome[200:203]) + "T"),
        ("c", DELETION, genome[DELETION : DELETION + 4], genome[DELETION]),
        ("c", INSERTION, genome[INSERTION], genome[INSERTION] + "GATTACA"),
        ("c", 0, genome[0], other_base(genome[0])),
    ]


def test_exchanging_ref_and_alt_in_the_genome_too_negates_the_score(mlm, genome, kinds):
    for contig, position, ref, alt in kinds:
        (score,) = llr(mlm, Contigs(c=genome), (contig, position, ref, alt))
        (back,) = llr(mlm, with_allele(genome, position, ref, alt), (contig, position, alt, ref))
        assert abs(score) > 1e-3
        assert back == pytest.approx(-score, rel=1e-9)


def test_substitutions_add_up(mlm, genome):
    a = genome[SUBSTITUTION]
    b, c = other_base(a), other_base(a, 2)
    a_to_b, a_to_c = llr(mlm, Contigs(c=genome), ("c", SUBSTITUTION, a, b), ("c", SUBSTITUTION, a, c))
    (b_to_c,) = llr(mlm, with_allele(genome, SUBSTITUTION, a, b), ("c", SUBSTITUTION, b, c))
    assert a_to_b + b_to_c == pytest.approx(a_to_c, rel=1e-9)
    assert abs(b_to_c) > 1e-3


def test_the_probabilities_at_a_site_do_not_depend_on_which_base_the_genome_has(mlm, genome):
    a = genome[SUBSTITUTION]
    others = [("c", SUBSTITUTION, a, other_base(a, step)) for step in (1, 2, 3)]
    from_a = np.exp([0, *llr(mlm, Contigs(c=genome), *others, strands="+")])
    b = other_base(a)
    at_b = with_allele(genome, SUBSTITUTION, a, b)
    from_b = np.exp(
        [*llr(mlm, at_b, *[("c", SUBSTITUTION, b, x) for x in (a, other_base(a, 2), other_base(a, 3))], strands="+")]
    )
    p_of_a, p_of_b = from_a[0] / from_a.sum(), from_a[1] / from_a.sum()
    assert from_b[0] == pytest.approx(p_of_a / p_of_b)


def test_an_anchored_spelling_scores_the_same(mlm, genome):
    position = next(at for at in range(120, 140) if genome[at : at + 2] not in ("", genome[at] * 2))
    before, base = genome[position], genome[position + 1]
    alt = other_base(base)
    long, short = llr(mlm, Contigs(c=genome), ("c", position, before + base, before + alt), ("c", position + 1, base, alt))
    assert long == short


def test_all_spellings_of_an_indel_score_the_same(mlm, genome):
    run = genome.index("C" + "A" * 9 + "G")
    deletions = [("c", at, genome[at : at + 3], genome[at]) for at in (run, run + 3, run + 7)]
    insertions = [("c", at, genome[at], genome[at] + "AA") for at in (run, run + 4, run + 9)]
    repeat = genome.index("TGA" * 5)
    units = [("c", repeat + at, genome[repeat + at : repeat + at + 4], genome[repeat + at]) for at in (0, 3, 7)]
    for spellings in (deletions, insertions, units):
        assert len({*llr(mlm, Contigs(c=genome), *spellings)}) == 1
        assert len({own.values["emb"] for own in scored(mlm, Contigs(c=genome), spellings, scores=("emb",))}) == 1


def test_the_reversed_genome_scores_the_same_on_both_strands(mlm, genome, kinds):
    run = genome.index("C" + "A" * 9 + "G")
    variants = [*kinds, ("c", run, "CAA", "C")]
    mirrored = [("c", len(genome) - at - len(ref), reverse(ref), reverse(alt)) for _, at, ref, alt in variants]
    forward = scored(mlm, Contigs(c=genome), variants)
    back = scored(mlm, Contigs(c=reverse(genome)), mirrored)
    for one, other in zip(forward, back, strict=True):
        assert other.values["llr"] == pytest.approx(one.values["llr"], rel=1e-9)
        assert other.values["llr_fwd"] == pytest.approx(one.values["llr_rev"], rel=1e-9)
        assert other.values["emb"] == pytest.approx(one.values["emb"], rel=1e-5)
        assert one.values["llr_fwd"] != pytest.approx(one.values["llr_rev"], rel=1e-3)


def test_the_plus_strand_alone_is_the_forward_score(mlm, genome, kinds):
    both = scored(mlm, Contigs(c=genome), kinds)
    forward = scored(mlm, Contigs(c=genome), kinds, strands="+")
    for one, other in zip(both, forward, strict=True):
        assert other.values["llr"] == one.values["llr_fwd"]
        assert "llr_fwd" not in other.values
        assert one.values["llr"] == pytest.approx((one.values["llr_fwd"] + one.values["llr_rev"]) / 2)


def test_scores_do_not_depend_on_what_is_scored_beside_or_how_it_is_batched(mlm, genome, kinds):
    together = scored(mlm, Contigs(c=genome), kinds, batch_tokens=256)
    for variant, own in zip(kinds, together, strict=True):
        (alone,) = scored(mlm, Contigs(c=genome), [variant])
        assert alone.values["llr"] == pytest.approx(own.values["llr"], abs=1e-4)
        assert alone.values["emb"] == pytest.approx(own.values["emb"], abs=1e-5)


def test_a_model_that_always_says_the_same_has_a_closed_form(genome, kinds):
    """Without context, the probability of a span is that of its segmentations under one distribution of pieces."""
    bias = np.random.default_rng(5).normal(scale=2, size=64)
    model = constant_mlm(bias)
    names = model.tokenizer.pieces
    weight = {name: np.exp(bias[number]) for number, name in enumerate(names) if number >= NUM_SPECIAL}
    of_length = {n: sum(w for name, w in weight.items() if len(name) == n) for n in {len(name) for name in weight}}

    @cache
    def strings(string: str, slots: int) -> float:
        if not slots:
            return float(not string)
        return sum(w * strings(string[len(name) :], slots - 1) for name, w in weight.items() if string.startswith(name))

    @cache
    def lengths(length: int, slots: int) -> float:
        if not slots:
            return float(not length)
        return sum(w * lengths(length - n, slots - 1) for n, w in of_length.items() if n <= length)

    def expected(variant: tuple) -> float:
        seen = view(place(Contigs(c=genome), Allele(*variant), FLANK, 64), "+")
        span = find_span(seen.windows(), model.tokenizer.encode_raw_batch(seen.windows()), model.tokenizer)
        counts = range(min(span.counts), max(span.counts) + 1)
        ref, alt = span.strings[seen.ref], span.strings[seen.alt]
        p_ref, p_alt = (
            np.mean([strings(s, b) / lengths(len(s), b) for b in counts if lengths(len(s), b)]) for s in (ref, alt)
        )
        return np.log(p_alt / p_ref) + (len(alt) - len(ref)) * np.log(4)

    scores = llr(model, Contigs(c=genome), *kinds, strands="+")
    assert scores == pytest.approx([expected(variant) for variant in kinds], rel=1e-5)


def test_a_model_without_preferences_prefers_no_base(genome):
    """All pieces of one length are equal, so all strings that are cut alike are."""
    model = constant_mlm(np.zeros(64))
    a = genome[SUBSTITUTION]
    assert np.isfinite(llr(model, Contigs(c=genome), ("c", SUBSTITUTION, a, other_base(a)))).all()


def window_pair(genome: str, variant: tuple) -> tuple[str, str]:
    """REF's and ALT's window of a variant that cannot be shifted, cut by hand."""
    _, position, ref, alt = variant
    before, after = genome[max(0, position - FLANK) : position], genome[position + len(ref) :][:FLANK]
    return before + ref + after, before + alt + after


def test_delta_is_the_difference_of_two_predictions(classifier, genome, kinds):
    variants = [kinds[0], kinds[4]]
    results = scored(classifier, Contigs(c=genome), variants)
    assert [own.status for own in results] == ["ok", "ok"]
    for variant, own in zip(variants, results, strict=True):
        said = DNABERT2(classifier).predict(window_pair(genome, variant), reverse_complement=True).probabilities
        for number, label in enumerate(LABELS):
            assert own.values[f"ref_{label}"] == pytest.approx(float(said[0, number]), rel=1e-5)
            assert own.values[f"alt_{label}"] == pytest.approx(float(said[1, number]), rel=1e-5)
            odds = [p / (1 - p) for p in said[:, number].astype(float)]
            assert own.values[f"delta_{label}"] == pytest.approx(np.log(odds[1] / odds[0]), abs=1e-4)


def test_emb_is_the_distance_of_mean_base_embeddings(mlm, genome, kinds):
    (own,) = scored(mlm, Contigs(c=genome), kinds[:1], scores=("emb",), strands="+")
    refs, alts = DNABERT2(mlm).embed(window_pair(genome, kinds[0]), "base")
    a, b = (np.delete(states, FLANK, axis=0).mean(0) for states in (refs, alts))
    expected = 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert expected > 1e-5
    assert own.values["emb"] == pytest.approx(expected, rel=1e-2, abs=1e-6)


def test_emb_reads_64_bases_on_either_side(mlm, genome):
    variant = ("c", 150, genome[150], other_base(genome[150]))
    (own,) = scored(mlm, Contigs(c=genome), [variant], scores=("emb",), strands="+", flank=80)
    window = [genome[70:150] + base + genome[151:231] for base in variant[2:]]
    refs, alts = DNABERT2(mlm).embed(window, "base")
    a, b = (np.delete(states[16:145], 64, axis=0).mean(0) for states in (refs, alts))
    assert own.values["emb"] == pytest.approx(1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b), rel=1e-2, abs=1e-6)


def test_pll_masks_each_token_alone(mlm, genome, kinds):
    (own,) = scored(mlm, Contigs(c=genome), kinds[:1], scores=("pll",), strands="+")
    sums = []
    for window in window_pair(genome, kinds[0]):
        ids = np.array(mlm.tokenizer.encode(window))
        masked = np.tile(ids, (len(ids) - 2, 1))
        places = np.arange(1, len(ids) - 1)
        masked[places - 1, places] = MASK
        logits = DNABERT2(mlm).mlm_logits(masked)
        sums.append(log_softmax(logits[places - 1, places], axis=-1)[places - 1, ids[places]].sum())
    assert own.values["pll"] == pytest.approx(sums[1] - sums[0], abs=1e-3)
    assert abs(own.values["pll"]) > 0.1


def test_what_cannot_be_scored_has_a_status_and_no_values(mlm, genome):
    unknown = genome[:90] + "NNNN" + genome[94:]
    results = scored(
        mlm,
        Contigs(c=unknown),
        [
            ("c", 91, "A", "C"),
            ("c", 95, unknown[95], other_base(unknown[95])),
            ("c", 50, genome[50], genome[50] + "ACGT" * 17),
            ("c", 51, genome[51], "N"),
            ("c", 0, unknown, unknown[0]),
        ],
    )
    assert [own.status for own in results] == ["n_in_span", "ok", "too_long", "n_in_span", "too_long"]
    gap = "N" * 3000
    for ref, alt in (("AC", "A"), ("A", "AC"), ("ACG", "AT")):  # in a gap of the assembly
        (own,) = scored(mlm, Contigs(c=gap), [("c", 1500, ref, alt)])
        assert own.status == "n_in_span"
    assert [bool(own.values) for own in results] == [False, True, False, False, False]


def test_max_span_is_of_the_span_on_either_strand(mlm, genome, kinds):
    (own,) = scored(mlm, Contigs(c=genome), kinds[3:4])
    assert own.status == "ok"
    seen = place(Contigs(c=genome), Allele(*kinds[3]), FLANK, 64)
    longest = 0
    for strand in ("+", "-"):
        windows = view(seen, strand).windows()
        span = find_span(windows, mlm.tokenizer.encode_raw_batch(windows), mlm.tokenizer)
        longest = max(longest, *map(len, span.strings))
    assert scored(mlm, Contigs(c=genome), kinds[3:4], max_span=longest)[0].status == "ok"
    assert scored(mlm, Contigs(c=genome), kinds[3:4], max_span=longest - 1)[0].status == "too_long"


def test_span_and_tokens_are_those_of_the_forward_strand(mlm, genome, kinds):
    (own,) = scored(mlm, Contigs(c=genome), kinds[2:3])
    windows = view(place(Contigs(c=genome), Allele(*kinds[2]), FLANK, 64), "+").windows()
    span = find_span(windows, mlm.tokenizer.encode_raw_batch(windows), mlm.tokenizer)
    assert own.values["span"] == len(span.strings[0])
    assert own.values["tokens"] == f"{span.counts[0]}>{span.counts[1]}"


def test_kmers(genome, kinds):
    consecutive, overlapping = random_mlm(tokenizer=KmerTokenizer(3, 3)), random_mlm(tokenizer=KmerTokenizer(3, 1))
    long = genome * 3
    results = scored(consecutive, Contigs(c=long), [kinds[0], ("c", 50, genome[50:52], genome[50])], flank=90)
    assert [own.status for own in results] == ["ok", "too_long"]
    with pytest.raises(UserError, match="overlapping k-mers"):
        VariantScorer(overlapping, Contigs(c=genome), ScoringOptions(("llr",)))
    (own,) = scored(overlapping, Contigs(c=genome), kinds[:1])  # auto leaves llr out
    assert own.status == "ok"
    assert set(own.values) == {"emb", "span", "tokens"}
    # The last k-mer of every window has k bases, whatever windows are scored with it.
    assert scored(overlapping, Contigs(c=genome), kinds[:3])[0].values["emb"] == own.values["emb"]


@pytest.mark.parametrize(
    ("kind", "scores", "words"),
    [
        ("mlm", ("delta",), "tiny is a masked_lm; the score delta needs a classifier: train one with `dnabert2 finetune`"),
        ("classifier", ("llr",), "tiny is a classifier; the score llr needs a masked_lm: use a pretrained model"),
        ("classifier", ("pll",), "the score pll needs a masked_lm"),
        ("mlm", ("lrr",), r"--scores lrr: accepted are auto or some of llr,delta,emb,pll \(did you mean 'llr'\?\)"),
    ],
)
def test_a_score_that_the_model_cannot_give(kind, scores, words, request):
    with pytest.raises(UserError, match=words):
        VariantScorer(request.getfixturevalue(kind), Contigs(), ScoringOptions(scores))


def test_options_out_of_range(mlm):
    for options in (ScoringOptions(flank=0), ScoringOptions(max_span=0)):
        with pytest.raises(UserError, match="numbers of bases"):
            VariantScorer(mlm, Contigs(), options)


def test_names_of_classes_become_keys(classifier):
    fields = VariantScorer(classifier, Contigs(), ScoringOptions()).fields
    keys = [field.key for field in fields if field.column.startswith("delta_")]
    assert keys == ["DB2_DELTA_coding_plus", "DB2_DELTA_coding_minus", "DB2_DELTA_none"]
    assert [field.column for field in fields if field.key in keys] == [f"delta_{label}" for label in LABELS]


def test_all_orders_of_masks_fit(mlm):
    """The inputs of one call are batched by length, and come back to the alleles that they are of."""
    genome = "".join(a + b + c for a, b, c in product("ACGT", repeat=3))
    variants = [("c", at, genome[at], genome[at] + "ACGTTGCA"[: at % 8 + 1]) for at in range(40, 60, 5)]
    together = llr(mlm, Contigs(c=genome), *variants, batch_tokens=64)
    for variant, score in zip(variants, together, strict=True):
        assert llr(mlm, Contigs(c=genome), variant) == pytest.approx([score], abs=1e-4)
