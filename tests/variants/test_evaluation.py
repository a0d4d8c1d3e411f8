"""Agreement with measurements against SciPy and written-out models, and tables that cannot be evaluated."""

import csv
import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.reference import Reference
from dnabert2_jax.variants.evaluation import agreements, as_rows, floor_scores, read_scored, with_floors
from dnabert2_jax.variants.records import Record, open_variants
from tests.genome.helpers import random_dna, write_fasta
from tests.variants.helpers import other_base, reverse

RNG = np.random.default_rng(0)
GENOME = random_dna(400, 11)
SITES = range(50, 350, 10)
LLR, EFFECTS = RNG.normal(size=(2, len(SITES))).round(3)
LABELS = np.where(RNG.random(len(SITES)) < 0.4, "pathogenic", "benign")


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    with Reference(write_fasta(tmp_path_factory.mktemp("genome") / "g.fa", {"chr1": GENOME})) as reference:
        yield reference


@pytest.fixture
def table(tmp_path):
    rows = [
        ["1", at + 1, GENOME[at], other_base(GENOME[at]), effect, label, "ok", llr]
        for at, effect, label, llr in zip(SITES, EFFECTS, LABELS, LLR, strict=True)
    ]
    rows += [["1", 5, GENOME[4], "A", "", "benign", "ok", 1.0], ["1", 6, GENOME[5], "<DEL>", 1.0, "", "symbolic", ""]]
    path = tmp_path / "scored.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["chrom", "pos", "ref", "alt", "effect", "class", "status", "llr"], *rows])
    return open_variants(path)


def test_effects(table, reference):
    scored = read_scored(table, effect="effect")
    assert (len(scored.records), scored.left_out) == (len(SITES), 2)
    llr, composition, kmers = agreements(with_floors(scored, reference))
    assert [one["score"] for one in (llr, composition, kmers)] == ["llr", "base composition", "6-mer frequency"]
    assert llr["spearman"] == pytest.approx(spearmanr(LLR, EFFECTS).statistic)
    assert llr["spearman_size"] == pytest.approx(spearmanr(LLR, np.abs(EFFECTS)).statistic)
    low, high = llr["spearman_interval"]
    assert low < llr["spearman"] < high
    assert as_rows([llr])[0]["Spearman"] == f"{llr['spearman']:+.3f}"


def test_labels(table):
    scored = read_scored(table, label="class", positive="pathogenic")
    [llr] = agreements(scored)
    assert (len(scored.records), scored.left_out) == (len(SITES) + 1, 1)
    positive = [*(LABELS == "pathogenic"), False]
    assert llr["auroc"] == pytest.approx(roc_auc_score(positive, -np.array([*LLR, 1.0])))
    assert as_rows([llr])[0]["score"] == "-llr"


def test_of_splice_sites_the_largest_change_is_a_score(tmp_path):
    path = tmp_path / "scored.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["chrom", "pos", "ref", "alt", "effect", "status", "splice", "splice_fwd", "splice_rev"])
        for at, effect, splice in zip(SITES, EFFECTS, LLR, strict=True):
            writer.writerow(["1", at + 1, GENOME[at], "A", effect, "ok", splice, *["A|+|0|0|0|0|1|2|3|4"] * 2])
    [found] = agreements(read_scored(open_variants(path), effect="effect"))
    assert found["score"] == "splice"
    assert found["spearman"] == pytest.approx(spearmanr(LLR, EFFECTS).statistic)


def log_p(text, model, k):
    return sum(math.log(model[text[at : at + k]]) for at in range(len(text) - k + 1))


@pytest.mark.parametrize(("name", "k"), [("base composition", 1), ("6-mer frequency", 6)])
def test_floors_are_markov_models_of_both_strands(reference, name, k):
    """Counted and added up by hand."""
    both = GENOME, reverse(GENOME)
    seen = [strand[at : at + k] for strand in both for at in range(len(GENOME) - k + 1)]
    stems = {kmer[:-1] for kmer in seen} | {a for strand in both for a in [strand[: k - 1]]}
    counts = {kmer: seen.count(kmer) for kmer in set(seen)}

    class Model(dict):
        def __missing__(self, kmer):
            stem = kmer[:-1]
            return (counts.get(kmer, 0) + 1) / (sum(counts.get(stem + base, 0) for base in "ACGT") + 4)

    assert stems
    at = 200
    ref, alt = GENOME[at], other_base(GENOME[at])
    inserted = next(base for base in "ACGT" if base not in GENOME[at : at + 2])  # which no shift can place elsewhere
    records = [Record(1, "1", at, ".", ref, (alt,)), Record(2, "1", at, ".", ref, (ref + inserted,))]
    windows = [
        (GENOME[at - k + 1 : at + k], GENOME[at - k + 1 : at] + alt + GENOME[at + 1 : at + k]),
        (GENOME[at - 5 : at + 6], GENOME[at - 5 : at + 1] + inserted + GENOME[at + 1 : at + 6]),
    ]
    expected = [
        np.mean([log_p(strand(after), Model(), k) - log_p(strand(before), Model(), k) for strand in (str, reverse)])
        + (len(after) - len(before)) * math.log(4)
        for before, after in windows
    ]
    np.testing.assert_allclose(floor_scores(records, reference)[name], expected, rtol=1e-9)
    assert all(a.line < b.line for a, b in pairwise(records))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give either --effect COLUMN, or --label COLUMN with --positive VALUE"),
        ({"label": "class"}, "with --positive"),
        ({"effect": "efect"}, r"there is no column 'efect' \(did you mean 'effect'\?\); it has chrom, pos"),
        ({"effect": "class"}, r"line 2: class is '.*'; an effect is a number"),
        ({"label": "class", "positive": "bad"}, r"column 'class' holds benign, pathogenic; some rows must be 'bad'"),
    ],
)
def test_what_cannot_be_evaluated(table, options, message):
    with pytest.raises(UserError, match=message):
        read_scored(table, **options)


def test_other_tables(tmp_path, reference):
    plain, few = tmp_path / "plain.csv", tmp_path / "few.csv"
    plain.write_text("chrom,pos,ref,alt,effect\n1,5,A,C,1\n")
    with pytest.raises(UserError, match=r"plain\.csv: there are no scores in it; give a table that `dnabert2 variants"):
        read_scored(open_variants(plain), effect="effect")
    few.write_text("chrom,pos,ref,alt,effect,status,llr\n1,5,A,C,1,ok,2\n")
    with pytest.raises(UserError, match=r"few\.csv: 1 rows have a score and 'effect'; at least 10"):
        read_scored(open_variants(few), effect="effect")
    with pytest.raises(UserError, match=r"g\.fa has none of the contigs 17; give the FASTA file"):
        floor_scores([Record(1, "17", 4, ".", "A", ("C",))], reference)
