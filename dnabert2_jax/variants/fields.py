"""The names, types and descriptions of the values of a scored allele."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dnabert2_jax.config.inference import Strands, VariantScore
from dnabert2_jax.data.labels import with_signs_spelled
from dnabert2_jax.variants.alleles import Status

KEY_PREFIX = "DB2_"
"""The prefix of all our INFO keys."""


@dataclass(frozen=True, slots=True)
class Field:
    """One value of an allele.

    Attributes:
        column: its name in tables.
        key: its INFO key in VCF.
        type: its type in VCF.
        description: its description in VCF.
    """

    column: str
    key: str
    type: Literal["Float", "Integer", "String"]
    description: str


@dataclass(frozen=True, slots=True)
class AlleleScores:
    """The results for one allele.

    Attributes:
        status: whether it was scored.
        values: values by the column of their field; empty unless the status is ``ok``.
    """

    status: Status
    values: dict[str, float | int | str]


def fields_of(
    scores: Sequence[VariantScore],
    labels: Sequence[str],
    strands: Strands,
    regression: bool,
    splice: bool = False,
    windows: int = 1,
    segmentations: int = 0,
) -> tuple[Field, ...]:
    """The fields of a job's results.

    Args:
        scores: the scores to compute.
        labels: the model's classes, or the name of its measurement.
        strands: the strands read; ``both`` adds fields for each strand.
        regression: whether the model predicts a measurement.
        splice: whether changes of splice sites are reported.
        windows: number of windows to average over.
        segmentations: number of other segmentations over which the spread of ``delta`` is taken; 0 for none.
    """
    several = f"{windows} windows" if windows > 1 else ""
    means = " and ".join(filter(None, ["both strands" if strands == "both" else "", several]))
    over = f"; mean of {means}" if means else ""
    of_windows = f"; mean of {several}" if several else ""
    fields: list[Field] = []
    if "llr" in scores:
        llr = "Log-likelihood ratio of ALT and REF, normalized over segmentations into tokens and corrected for length"
        fields.append(_field("llr", "Float", llr + over))
        if strands == "both":
            fields += [
                _field("llr_fwd", "Float", f"{llr}; forward strand{of_windows}"),
                _field("llr_rev", "Float", f"{llr}; reverse strand{of_windows}"),
            ]
    if "pll" in scores:
        fields.append(_field("pll", "Float", f"Pseudo-log-likelihood of the window with ALT less that with REF{over}"))
    if "emb" in scores:
        fields.append(_field("emb", "Float", f"1 - cosine of the mean embeddings around REF and ALT{over}"))
    if "delta" in scores:
        what = "Prediction" if regression else "Probability of class"
        change = "Change of the prediction of" if regression else "Change of the log-odds of class"
        for label, key in zip(labels, _keys(labels), strict=True):
            fields += [
                Field(f"ref_{label}", f"{KEY_PREFIX}REF_{key}", "Float", f"{what} {label} with REF{over}"),
                Field(f"alt_{label}", f"{KEY_PREFIX}ALT_{key}", "Float", f"{what} {label} with ALT{over}"),
                Field(
                    f"delta_{label}", f"{KEY_PREFIX}DELTA_{key}", "Float", f"{change} {label} from REF to ALT{of_windows}"
                ),
            ]
            if segmentations:
                noise = f"Standard deviation of that change over {segmentations} other segmentations of the same bases"
                fields.append(Field(f"noise_{label}", f"{KEY_PREFIX}NOISE_{key}", "Float", noise))
    if splice:
        fields.append(_field("splice", "Float", "Largest gain or loss of the probability of a splice site near the variant"))
        ten = "Changes of splice sites: ALLELE|STRAND|DS_AG|DS_AL|DS_DG|DS_DL|DP_AG|DP_AL|DP_DG|DP_DL; "
        fields.append(_field("splice_fwd", "String", f"{ten}forward strand"))
        if strands == "both":
            fields.append(_field("splice_rev", "String", f"{ten}reverse strand"))
    fields += [
        _field("span", "Integer", "Bases of REF between the tokens that all alleles share, forward strand"),
        _field("tokens", "String", "Tokens of REF and ALT in the span, forward strand"),
    ]
    return tuple(fields)


def _field(column: str, kind: Literal["Float", "Integer", "String"], description: str) -> Field:
    return Field(column, f"{KEY_PREFIX}{column.upper()}", kind, description)


def _keys(labels: Sequence[str]) -> list[str]:
    """Class names as valid parts of INFO keys; names that become equal get the class number as a suffix."""
    words = [re.sub("[^0-9A-Za-z_.]", "_", with_signs_spelled(label)) for label in labels]
    count = Counter(words)
    return [f"{word}_{number}" if count[word] > 1 else word for number, word in enumerate(words)]
