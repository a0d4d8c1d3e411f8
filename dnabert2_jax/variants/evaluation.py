"""Agreement of variant scores with measured effects or labels, compared with floors from k-mer frequencies alone."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Required, TypedDict

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.data.sequences import reverse_complement
from dnabert2_jax.errors import UserError, nearest
from dnabert2_jax.genome.letters import base_codes
from dnabert2_jax.genome.reference import Reference
from dnabert2_jax.metrics.intervals import confidence_intervals
from dnabert2_jax.metrics.scores import ranks
from dnabert2_jax.variants.alleles import Allele, Window, place
from dnabert2_jax.variants.records import Record, VariantFile

FLOORS = {"base composition": 1, "6-mer frequency": 6}
"""Floors by name: the k of the k-mers whose frequencies in the genome score the alleles."""

_SCORES = ("llr", "pll", "emb", "delta_", "splice")
_TEXTS = ("splice_fwd", "splice_rev")
_LOWER_IS_WORSE = ("llr", "pll")
_FEWEST = 10
_BASES_AT_ONCE = 10_000_000
_LONGEST_ALLELE = 64


class Agreement(TypedDict, total=False):
    """Agreement of one score with the measurements.

    Attributes:
        score: its column, or the name of a floor.
        spearman: rank correlation with the effect; ``spearman_interval`` is its 95 % interval. For effects only.
        spearman_size: rank correlation with the absolute value of the effect. For effects only.
        auroc: area under the ROC curve; ``auroc_interval`` is its 95 % interval. For labels only.
        auprc: average precision. For labels only.
        sign: -1 if the score was negated for AUROC and AUPRC, because lower means worse.
    """

    score: Required[str]
    spearman: float
    spearman_interval: tuple[float, float] | None
    spearman_size: float
    auroc: float
    auroc_interval: tuple[float, float] | None
    auprc: float
    sign: int


@dataclass(frozen=True)
class ScoredVariants:
    """The alleles of a table that have scores and a measurement; make it with :func:`read_scored`.

    Attributes:
        records: the records of the alleles.
        scores: scores by name, [alleles] each; NaN where missing.
        measured: the effects, or 1 for positive and 0 for other labels. [alleles].
        kind: ``effect`` or ``label``.
        left_out: number of rows without a score or a measurement.
    """

    records: list[Record]
    scores: dict[str, NDArray[np.float64]]
    measured: NDArray[np.float64]
    kind: Literal["effect", "label"]
    left_out: int


def read_scored(
    source: VariantFile, *, effect: str | None = None, label: str | None = None, positive: str | None = None
) -> ScoredVariants:
    """Read a table that ``dnabert2 variants --table`` wrote from an input with a column of measurements.

    Args:
        source: the table.
        effect: its column of measured effects.
        label: or its column of labels.
        positive: the label that counts as positive.

    Raises:
        UserError: not a scored table, no such column, or too few rows with a score and a measurement.
    """
    if (effect is None) == (label is None) or (label is None) != (positive is None):
        raise UserError("give either --effect COLUMN, or --label COLUMN with --positive VALUE")
    wanted = effect or label or ""
    columns = source.columns
    names = [name for name in columns if name.removeprefix("db2_").startswith(_SCORES) and not name.endswith(_TEXTS)]
    if not names or "status" not in columns:
        raise UserError(f"{source.path}: there are no scores in it; give a table that `dnabert2 variants --table` wrote")
    if wanted not in columns:
        raise UserError(
            f"{source.path}: there is no column {wanted!r}{nearest(wanted, columns)}; it has {', '.join(columns)}"
        )
    at, status = columns.index(wanted), columns.index("status")
    records, rows, measured, left_out, others = [], [], [], 0, set[str]()
    for record in (item for item in source.items() if isinstance(item, Record)):
        value = record.fields[at].strip()
        number = (
            math.nan if not value else float(value == positive) if label else _number(value, source.path, record, wanted)
        )
        if record.fields[status] != "ok" or math.isnan(number):
            left_out += 1
            continue
        others.add(value)
        records.append(record)
        measured.append(number)
        rows.append([_score(record.fields[columns.index(name)]) for name in names])
    if len(records) < _FEWEST:
        raise UserError(f"{source.path}: {len(records)} rows have a score and {wanted!r}; at least {_FEWEST} are needed")
    if label and len(set(measured)) < 2:
        raise UserError(
            f"{source.path}: column {label!r} holds {', '.join(sorted(others)[:5])}; some rows must be {positive!r} "
            "(--positive) and some must not"
        )
    scores = np.array(rows, np.float64)
    return ScoredVariants(
        records,
        {name: scores[:, number] for number, name in enumerate(names)},
        np.array(measured),
        "effect" if effect else "label",
        left_out,
    )


def is_score(column: str) -> bool:
    """Whether a column is a final score, rather than that of a single strand."""
    return column.startswith(_SCORES) and column not in ("llr_fwd", "llr_rev")


def with_floors(variants: ScoredVariants, reference: Reference) -> ScoredVariants:
    """The alleles with the floors added to their scores.

    Raises:
        UserError: no allele lies on a contig of the genome.
    """
    return replace(variants, scores=variants.scores | floor_scores(variants.records, reference))


def agreements(variants: ScoredVariants) -> list[Agreement]:
    """The agreement of each score that is not constant."""
    results = []
    for name, values in variants.scores.items():
        good = np.isfinite(values)
        if good.sum() >= _FEWEST and np.ptp(values[good]) > 0:
            results.append(_agreement(name, values[good], variants.measured[good], variants.kind))
    return results


def _agreement(
    name: str, score: NDArray[np.float64], measured: NDArray[np.float64], kind: Literal["effect", "label"]
) -> Agreement:
    from sklearn.metrics import average_precision_score, roc_auc_score

    lower_is_worse = name.removeprefix("db2_").startswith(_LOWER_IS_WORSE) or name in FLOORS
    if kind == "effect":
        return Agreement(
            score=name,
            spearman=_spearman(score, measured),
            spearman_interval=confidence_intervals("regression", measured, score[:, None])["scores"].get("spearman"),
            spearman_size=_spearman(score, np.abs(measured)),
        )
    sign = -1 if lower_is_worse else 1
    labels, signed = measured.astype(int), sign * score
    share = ranks(signed) / (len(signed) + 1)  # in the order of the scores, and between 0 and 1
    outputs = np.stack([1 - share, share], axis=1)
    return Agreement(
        score=name,
        sign=sign,
        auroc=float(roc_auc_score(labels, signed)),
        auroc_interval=confidence_intervals("single_label", labels, outputs)["scores"].get("auroc"),
        auprc=float(average_precision_score(labels, signed)),
    )


def _spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1]) if np.ptp(b) else 0.0


def floor_scores(records: Sequence[Record], reference: Reference) -> dict[str, NDArray[np.float64]]:
    """Scores of alleles from k-mer frequencies in the genome, defined like ``llr``.

    ln P(ALT) - ln P(REF) of the window under a Markov model of order k - 1, plus (|ALT| - |REF|) ln 4, averaged over both
    strands. The models are estimated from both strands of the contigs with alleles; for k = 1, the model is the base
    composition.

    Args:
        records: alleles, one each.
        reference: the genome.

    Returns:
        The scores by name of the floor, [alleles] each; NaN where the window contains unknown bases.

    Raises:
        UserError: no allele lies on a contig of the genome.
    """
    contigs = {record.contig: reference.contig(record.contig) for record in records}
    known = {name for name in contigs.values() if name is not None}
    if not known:
        raise UserError(
            f"{reference.path} has none of the contigs {', '.join(list(contigs)[:5])}; give the FASTA file of the scores"
        )
    longest = max(FLOORS.values())
    alleles = [Allele(contigs[record.contig], record.position, record.ref, record.alts[0]) for record in records]
    windows = [place(reference, allele, longest - 1, _LONGEST_ALLELE) for allele in alleles]
    scores = {}
    for name, k in FLOORS.items():
        counts = _kmer_counts(reference, sorted(known), k).reshape(-1, 4) + 1.0  # pseudocount: no k-mer is impossible
        log_p = np.log(counts / counts.sum(1, keepdims=True))
        scores[name] = np.array([_log_ratio(window, log_p, k) for window in windows])
    return scores


def _log_ratio(window: Window | str, log_p: NDArray[np.float64], k: int) -> float:
    if not isinstance(window, Window):
        return math.nan
    ref, alt = (window.left + allele + window.right for allele in (window.ref, window.alt))
    return _on_both_strands(alt, log_p, k) - _on_both_strands(ref, log_p, k) + (len(alt) - len(ref)) * math.log(4)


def _on_both_strands(text: str, log_p: NDArray[np.float64], k: int) -> float:
    return (_log_likelihood(text, log_p, k) + _log_likelihood(reverse_complement(text), log_p, k)) / 2


def _log_likelihood(text: str, log_p: NDArray[np.float64], k: int) -> float:
    digits = base_codes(text.upper()).astype(np.int64)
    if (digits < 0).any():
        return math.nan
    return float(log_p.reshape(-1)[_codes(digits, k)].sum())


def _kmer_counts(reference: Reference, contigs: Sequence[str], k: int) -> NDArray[np.int64]:
    """Counts of each k-mer on both strands, [4 ** k]."""
    counts = np.zeros(4**k, np.int64)
    for text in _pieces(reference, contigs, k):
        digits = base_codes(text.upper()).astype(np.int64)
        known = np.convolve(digits < 0, np.ones(k, np.int64), "valid") == 0
        counts += np.bincount(_codes(np.maximum(digits, 0), k)[known], minlength=4**k)
    # Reverse complement of a k-mer: its digits d in reverse order, each replaced by 3 - d.
    mirrored = counts.reshape((4,) * k).transpose(range(k - 1, -1, -1))[(slice(None, None, -1),) * k].reshape(-1)
    return counts + mirrored


def _pieces(reference: Reference, contigs: Sequence[str], k: int) -> Iterator[str]:
    for contig in contigs:
        for start in range(0, reference.lengths[contig] - k + 1, _BASES_AT_ONCE):
            yield reference.fetch(contig, start, min(reference.lengths[contig], start + _BASES_AT_ONCE + k - 1))


def _codes(digits: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """The index of each k-mer among 4 ** k; the first base is the most significant digit. [bases - k + 1]."""
    codes = np.zeros(max(0, len(digits) - k + 1), np.int64)
    for offset in range(k):
        codes = codes * 4 + digits[offset : offset + len(codes)]
    return codes


def _number(value: str, path: Path, record: Record, column: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise UserError(f"{path}, line {record.line:,}: {column} is {value!r}; an effect is a number, or nothing") from None


def _score(text: str) -> float:
    return float(text) if text else math.nan


def as_rows(found: Sequence[Agreement]) -> list[Mapping[str, str]]:
    """The agreements as rows of a table, for the terminal."""
    rows = list[Mapping[str, str]]()
    for one in found:
        row: dict[str, Any] = {"score": f"-{one['score']}" if one.get("sign") == -1 else one["score"]}
        if "spearman" in one:
            row |= {"Spearman": f"{one['spearman']:+.3f}", "95 %": _interval(one["spearman_interval"], "+")}
            row["with the size of the effect"] = f"{one['spearman_size']:+.3f}"
        else:
            row |= {"AUROC": f"{one['auroc']:.3f}", "95 %": _interval(one["auroc_interval"]), "AUPRC": f"{one['auprc']:.3f}"}
        rows.append(row)
    return rows


def _interval(interval: tuple[float, float] | None, sign: str = "") -> str:
    return "" if interval is None else f"{interval[0]:{sign}.3f} to {interval[1]:{sign}.3f}"
