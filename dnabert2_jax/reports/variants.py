"""Pages about variants: how their scores are distributed, and how well they agree with what was measured."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dnabert2_jax.reports.page import Block, Heading, Page, Pictures, Section, Settings, Table, Text
from dnabert2_jax.reports.plots.style import Theme, drawn
from dnabert2_jax.reports.plots.variants import (
    effect_against_score,
    precision_recall_of_scores,
    roc_of_scores,
    score_distribution,
    scores_by_consequence,
)
from dnabert2_jax.variants.alleles import MEANINGS
from dnabert2_jax.variants.consequences import severity
from dnabert2_jax.variants.evaluation import FLOORS, Agreement, ScoredVariants, as_rows, is_score
from dnabert2_jax.variants.scored import ScoredAlleles

MOST_SCORES = 8
"""Maximum number of scores to draw for a classifier with many classes."""

MOST_CONSEQUENCES = 15
"""Maximum number of consequences to show, most frequent first."""

_QUANTILES = {"lowest": 0, "1 %": 1, "25 %": 25, "median": 50, "75 %": 75, "99 %": 99, "highest": 100}


def variants_page(alleles: ScoredAlleles, record: Mapping[str, Any]) -> Page:
    """The status of the alleles, the distribution of the scores, and scores by consequence if the file has them.

    Args:
        alleles: what was written.
        record: what made it.
    """
    of = {name: values[np.isfinite(values)] for name, values in alleles.scores.items()}
    shown = {name: values for name, values in list(of.items())[:MOST_SCORES] if len(values)}
    total = alleles.statuses.total()
    statuses = [(s, MEANINGS[s], f"{n:,}", f"{n / total:.1%}") for s, n in alleles.statuses.most_common()]  # type: ignore[index]
    pictures = [
        drawn(f"{name} of {len(values):,} alleles; the line is the median", partial(score_distribution, values, name))
        for name, values in shown.items()
    ]
    quantiles = [
        (name, f"{len(values):,}", *(f"{np.percentile(values, q):.4g}" for q in _QUANTILES.values()))
        for name, values in shown.items()
    ]
    sections = [
        Section("alleles", "Status of the alleles", [Table(("status", "", "alleles", "share"), statuses, 2)]),
    ]
    if shown:
        table = Table(("score", "alleles", *_QUANTILES), quantiles)
        sections.append(Section("scores", "Scores", [Pictures(pictures), table, Text(_HOW_TO_READ)]))
        if alleles.consequences is not None:
            sections.append(Section("consequences", "By consequence", _by_consequence(alleles, list(shown))))
    sections.append(Section("made", "How it was made", [Settings.from_record(record)]))
    hidden = len(of) - MOST_SCORES
    return Page(
        title="Variants",
        subtitle=f"{record['settings']['variants']}, scored by {record['model']}; dnabert2_jax {record['dnabert2_jax']}",
        sections=sections,
        figures=[(f"{total:,}", "alleles"), (f"{alleles.statuses['ok']:,}", "scored")],
        notes=[f"{hidden} more scores are in the file."] if hidden > 0 else [],
    )


_HOW_TO_READ = (
    "llr and pll are negative where the model expects REF; emb is 0 where nothing changes; delta is the change of the "
    "log-odds of a class, or of a prediction. Pictures leave out the lowest and the highest thousandth."
)


def _by_consequence(alleles: ScoredAlleles, names: Sequence[str]) -> list[Block]:
    terms = np.array([term or "none given" for term in alleles.consequences or ()], object)
    found, counts = np.unique(terms, return_counts=True)
    most = sorted(found[np.argsort(-counts, kind="stable")][:MOST_CONSEQUENCES], key=severity)
    pictures, rows = [], [[term, f"{int((terms == term).sum()):,}"] for term in most]
    for name in names:
        values = alleles.scores[name]
        groups = [(term, values[(terms == term) & np.isfinite(values)]) for term in most]
        caption = f"{name}: quartiles (bar), median, and the range of 90 % of the alleles (line)"
        if scored := [group for group in groups if len(group[1])]:
            pictures.append(drawn(caption, partial(scores_by_consequence, scored, name)))
        for row, (_, own) in zip(rows, groups, strict=True):
            row.append(f"{np.median(own):.4g}" if len(own) else "")
    note = "The most severe consequence that the file gives for each allele, in Ensembl's order."
    if len(found) > len(most):
        note += f" The {len(most)} most frequent of {len(found)} are shown."
    table = Table(("consequence", "alleles", *(f"median {name}" for name in names)), rows)
    return [Text(note), Pictures(pictures), table]


def agreement_page(variants: ScoredVariants, found: Sequence[Agreement], about: Mapping[str, Any]) -> Page:
    """How well scores agree with effects or labels.

    Args:
        variants: the alleles, with floors among their scores if there are any.
        found: the agreement of each score, at least one.
        about: what was compared.
    """
    blocks: list[Block]
    compared = [one for one in found if one["score"] in FLOORS or is_score(one["score"].removeprefix("db2_"))]
    if variants.kind == "label":
        labels = variants.measured.astype(np.int64)
        signed = {one["score"]: one["sign"] * variants.scores[one["score"]] for one in compared}
        positive = f"{int(labels.sum()):,} of {len(labels):,} alleles are positive"
        blocks = [
            Pictures(
                [
                    drawn(f"ROC; {positive}", partial(roc_of_scores, labels, signed)),
                    drawn(f"Precision and recall; {positive}", partial(precision_recall_of_scores, labels, signed)),
                ]
            )
        ]
    else:
        names = [one["score"] for one in compared][:MOST_SCORES]
        blocks = [Pictures([drawn(f"{name} and the effect", _scatter(variants, name)) for name in names])]
    table = Table.from_records(as_rows(found))
    return Page(
        title="Scores of variants beside what was measured",
        subtitle=", ".join(f"{name} {value}" for name, value in about.items()),
        sections=[Section("agreement", "Agreement", [*blocks, Heading("All scores"), table])],
        figures=[(f"{len(variants.records):,}", "alleles"), (f"{variants.left_out:,}", "left out")],
    )


def _scatter(variants: ScoredVariants, name: str) -> Callable[[Theme], Figure]:
    return partial(effect_against_score, variants.measured, variants.scores[name], name)
