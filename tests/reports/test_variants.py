"""Pages about variants."""

from collections import Counter

import numpy as np
import pytest

from dnabert2_jax.reports.page import Pictures, Table
from dnabert2_jax.reports.variants import agreement_page, variants_page
from dnabert2_jax.variants.evaluation import ScoredVariants, agreements
from dnabert2_jax.variants.records import Record
from dnabert2_jax.variants.scored import ScoredAlleles

RNG = np.random.default_rng(0)
RECORD = {
    "model": "runs/model",
    "model_sha256": "ab" * 32,
    "dnabert2_jax": "1",
    "settings": {"variants": "in.vcf", "fasta": "ref.fa"},
}


def alleles(names: list[str], consequences: list[str] | None) -> ScoredAlleles:
    scores = {name: RNG.normal(size=40).astype(np.float32) for name in names}
    for values in scores.values():
        values[0] = np.nan
    return ScoredAlleles(Counter({"ok": 40, "n_in_span": 10}), scores, consequences)


def blocks(page, kind) -> list:
    return [block for section in page.sections for block in section.blocks if isinstance(block, kind)]


def test_scores_and_statuses():
    given = alleles(["llr", "emb"], None)
    page = variants_page(given, RECORD)
    statuses, quantiles = blocks(page, Table)
    assert [row[0] for row in statuses.rows] == ["ok", "n_in_span"]
    assert statuses.rows[1][2:] == ("10", "20.0%")
    assert quantiles.rows[0][:2] == ("llr", "39")
    assert float(quantiles.rows[0][quantiles.header.index("median")]) == pytest.approx(
        np.nanmedian(given.scores["llr"]), rel=1e-3
    )
    (pictures,) = blocks(page, Pictures)
    assert len(pictures.pictures) == 2
    assert "consequences" not in {section.anchor for section in page.sections}
    assert "n_in_span" in page.html()


def test_by_consequence_the_most_severe_first():
    given = alleles(["llr"], ["intron_variant"] * 25 + ["stop_gained"] * 10 + [""] * 5)
    page = variants_page(given, RECORD)
    table = blocks(page, Table)[-1]
    assert [row[:2] for row in table.rows] == [["stop_gained", "10"], ["intron_variant", "25"], ["none given", "5"]]
    assert float(table.rows[0][2]) == pytest.approx(np.median(given.scores["llr"][25:35]), rel=1e-3)
    assert len(blocks(page, Pictures)) == 2


def test_a_score_that_only_consequences_that_are_not_shown_have(monkeypatch):
    monkeypatch.setattr("dnabert2_jax.reports.variants.MOST_CONSEQUENCES", 1)
    given = alleles(["llr", "splice"], ["intron_variant"] * 30 + ["stop_gained"] * 10)
    given.scores["splice"][:30] = np.nan
    page = variants_page(given, RECORD)
    assert blocks(page, Table)[-1].rows == [["intron_variant", "30", f"{np.nanmedian(given.scores['llr'][:30]):.4g}", ""]]
    assert len(blocks(page, Pictures)[-1].pictures) == 1


def test_a_classifier_with_many_classes(monkeypatch):
    monkeypatch.setattr("dnabert2_jax.reports.variants.MOST_SCORES", 1)
    page = variants_page(alleles(["delta_a", "delta_b", "delta_c"], None), RECORD)
    assert len(blocks(page, Pictures)[0].pictures) == 1
    assert list(page.notes) == ["2 more scores are in the file."]


def test_nothing_scored():
    page = variants_page(ScoredAlleles(Counter({"no_contig": 3}), {"llr": np.empty(0, np.float32)}, []), RECORD)
    assert [section.anchor for section in page.sections] == ["alleles", "made"]


@pytest.mark.parametrize("kind", ["label", "effect"])
def test_agreement(kind):
    score = RNG.normal(size=60)
    measured = (score + RNG.normal(size=60) < 0).astype(float) if kind == "label" else score + RNG.normal(size=60)
    records = [Record(n, "1", n, ".", "A", ("C",)) for n in range(60)]
    scores = {"llr": score, "llr_fwd": score, "emb": RNG.random(60), "6-mer frequency": RNG.normal(size=60)}
    given = ScoredVariants(records, scores, measured, kind, 2)
    page = agreement_page(given, agreements(given), {"table": "t.tsv"})
    (table,), (pictures,) = blocks(page, Table), blocks(page, Pictures)
    assert len(table.rows) == 4
    # Curves of all scores in one picture, or a picture of each; that of one strand is in the table alone.
    assert len(pictures.pictures) == (2 if kind == "label" else 3)
    assert "60" in page.html()
