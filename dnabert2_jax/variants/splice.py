"""Effects of an allele on nearby splice sites, from a model that labels every base (Jaganathan et al. 2019, SpliceAI).

For each strand, the probabilities of an acceptor and of a donor at every base of the window are compared between REF and
ALT, giving the largest gain and loss of either near the variant, and their positions. If the alleles differ in length, the
bases between their shared flanks count as one position, with the largest of their probabilities (0 if there are none).
Hence all equivalent representations of an indel get the same scores, and exchanging REF and ALT exchanges gains and losses.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.data.base_windows import encode_bases
from dnabert2_jax.data.packing import one_per_row
from dnabert2_jax.errors import UserError, nearest
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.variants.alleles import Allele, View, Window, view

_WIDTH_STEP = 64
"""Rows are padded to a multiple of this many bases, to limit the number of compiled shapes."""


@dataclass(frozen=True)
class SpliceLabels:
    """The labels of splice sites.

    Attributes:
        acceptor: label of the first base of an exon.
        donor: label of the last base of an exon.
        distance: bases to search for sites on either side of a variant.
    """

    acceptor: str
    donor: str
    distance: int = 50

    @classmethod
    def parse(cls, text: str, distance: int = 50) -> "SpliceLabels":
        """Parse ``acceptor=LABEL,donor=LABEL``.

        Raises:
            UserError: the text has another form.
        """
        pairs = dict(part.strip().partition("=")[::2] for part in text.split(","))
        if set(pairs) != {"acceptor", "donor"} or not all(pairs.values()):
            raise UserError(f"--splice {text}: accepted is acceptor=LABEL,donor=LABEL, with two labels of the model")
        return cls(pairs["acceptor"], pairs["donor"], distance)

    def columns(self, model: InferenceModel, flank: int) -> list[int]:
        """The indices of the model's outputs for the acceptor and the donor.

        Raises:
            UserError: the model does not label bases, or lacks a label; the window is too small for the distance.
        """
        model.need("base_classifier", "--splice", "train one with `dnabert2 finetune` and data.task=per_base")
        if not 1 <= self.distance <= flank:
            raise UserError(f"--distance {self.distance}: accepted is 1 to {flank}, the bases that --flank reads")
        for label in (self.acceptor, self.donor):
            if label not in model.labels:
                raise UserError(
                    f"--splice: {model.path} has no label {label!r}{nearest(label, model.labels)}; it has "
                    f"{', '.join(model.labels)}"
                )
        return [model.labels.index(self.acceptor), model.labels.index(self.donor)]


def splice_scores(
    model: InferenceModel,
    labels: SpliceLabels,
    flank: int,
    changes: Sequence[tuple[Allele, Window]],
    signs: Sequence[Literal["+", "-"]],
    batch_tokens: int,
) -> list[dict[str, float | int | str]]:
    """For each allele, ``splice`` (the largest change) and ten fields per strand; see ``docs/guides/variants.md``.

    Args:
        model: a model that labels bases.
        labels: the labels of splice sites.
        flank: bases of a window on either side.
        changes: alleles as written, each in its window; at least one.
        signs: the strands to read.
        batch_tokens: tokens of a batch.

    Raises:
        UserError: as :meth:`SpliceLabels.columns`, or out of memory.
    """
    views = [[view(window, sign) for sign in signs] for _, window in changes]
    pairs = [(one.windows()[one.ref], one.windows()[one.alt]) for strands in views for one in strands]
    rows = {text: row for row, text in enumerate(dict.fromkeys(text for pair in pairs for text in pair))}
    width = -(-max(map(len, rows)) // _WIDTH_STEP) * _WIDTH_STEP
    batches = one_per_row(encode_bases(list(rows), model.tokenizer, width), batch_tokens)
    outputs = model.predictor.class_outputs(batches)[..., labels.columns(model, flank)].astype(np.float64)
    found = iter((outputs[rows[ref], : len(ref)], outputs[rows[alt], : len(alt)]) for ref, alt in pairs)
    results = []
    for (allele, window), strands in zip(changes, views, strict=True):
        own: dict[str, float | int | str] = {}
        largest = 0.0
        for sign, one in zip(signs, strands, strict=True):
            ref, alt = (_places(one, *pair) for pair in zip((one.ref, one.alt), next(found), strict=True))
            first, after = len(one.left), len(ref) - len(one.right)
            near = slice(max(0, first - labels.distance), after + labels.distance)
            gains = np.maximum((alt - ref)[near], 0)
            losses = np.maximum((ref - alt)[near], 0)
            positions = _positions(window, len(ref))[:: 1 if sign == "+" else -1][near] - allele.position
            by_kind = [change[:, site] for site in (0, 1) for change in (gains, losses)]  # AG, AL, DG, DL
            peaks = [int(change.argmax()) for change in by_kind]
            scores = [float(change[peak]) for change, peak in zip(by_kind, peaks, strict=True)]
            told = [f"{score:.4f}" for score in scores] + [str(positions[peak]) for peak in peaks]
            own["splice_fwd" if sign == "+" else "splice_rev"] = "|".join([allele.alt or "-", sign, *told])
            largest = max(largest, *scores)
        results.append({"splice": largest, **own})
    return results


def _places(one: View, number: int, outputs: NDArray[np.float64]) -> NDArray[np.float64]:
    """The outputs of an allele at the positions common to both alleles, [P, 2]."""
    before, own = len(one.left), len(one.alleles[number])
    if len(one.alleles[one.ref]) == len(one.alleles[one.alt]):
        return outputs
    inside = outputs[before : before + own].max(0, initial=0.0, keepdims=True)
    return np.concatenate([outputs[:before], inside, outputs[before + own :]])


def _positions(window: Window, places: int) -> NDArray[np.int64]:
    """Reference coordinates of the positions, from 0 on the plus strand; unequal alleles are at their start. [P]."""
    inside = places - len(window.left) - len(window.right)
    end = window.start + len(window.ref)
    return np.concatenate(
        [
            np.arange(window.start - len(window.left), window.start),
            window.start + np.arange(inside),
            np.arange(end, end + len(window.right)),
        ]
    )
