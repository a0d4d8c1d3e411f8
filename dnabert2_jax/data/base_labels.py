"""Labels of every base of a contig, from the features of an annotation."""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.config.model import HeadConfig
from dnabert2_jax.data.annotation import Annotation
from dnabert2_jax.data.intervals import Interval
from dnabert2_jax.data.labels import Target
from dnabert2_jax.errors import UserError

BACKGROUND = "background"
"""The class of bases without a label, if each base has one class."""

NOT_COUNTED = -1
"""The label of a position that does not count: a letter other than A, C, G and T, or no base."""

MOST_LABELS = 100
"""A file with more labels than this probably has names in place of labels."""


@dataclass(frozen=True)
class BaseLabels(Target):
    """The classes of a base, ``background`` first; or labels, any number per base.

    Attributes:
        names: of the classes or labels.
        several: whether a base may have several labels.
        window: bases of a row in training.
    """

    names: tuple[str, ...]
    several: bool
    window: int

    @classmethod
    def of(cls, annotation: Annotation, window: int, *, several: bool) -> "BaseLabels":
        """The labels of an annotation.

        Raises:
            UserError: too many to be labels, or one is called ``background``.
        """
        labels = annotation.labels
        if len(labels) > MOST_LABELS:
            raise UserError(
                f"{annotation.path}: {len(labels):,} different labels, such as {', '.join(labels[:3])}; accepted are "
                f"{MOST_LABELS} at most: a label says what a stretch is (gene), not which one it is"
            )
        if BACKGROUND in labels:
            raise UserError(
                f"{annotation.path}: {BACKGROUND!r} is the class of bases without a label; give the label another name"
            )
        return cls(labels if several else (BACKGROUND, *labels), several, window)

    @property
    def head(self) -> HeadConfig:
        """The head that predicts them."""
        return HeadConfig(task="per_base", several=self.several, window=self.window)

    @property
    def what(self) -> str:
        """The number of classes or labels, and their names."""
        kind = "labels, any number at a base" if self.several else "classes of a base"
        return f"{len(self)} {kind}: {', '.join(self.names)}"


def labels_by_contig(
    annotation: Annotation, labels: BaseLabels, lengths: dict[str, int], *, stranded: bool
) -> dict[tuple[str, str], NDArray[np.int8]]:
    """The labels of every base of some contigs.

    Args:
        annotation: the features.
        labels: the classes or labels.
        lengths: bases of each wanted contig.
        stranded: whether each strand has its own labels; a feature without a strand is on both.

    Returns:
        By contig and strand (``+`` alone unless stranded), on the plus strand's coordinates: class numbers [bases], or 0 and
        1 for each label, [bases, C].

    Raises:
        UserError: features with different labels overlap, although each base has one class.
    """
    strands = ("+", "-") if stranded else ("+",)
    number = {name: n for n, name in enumerate(labels.names)}
    features: dict[str, list[Interval]] = defaultdict(list)
    for feature in annotation.features:
        features[feature.contig].append(feature)
    found: dict[tuple[str, str], NDArray[np.int8]] = {}
    overlaps: list[str] = []
    for contig, bases in lengths.items():
        for strand in strands:
            codes = np.zeros((bases, len(labels)) if labels.several else bases, np.int8)
            for feature in features[contig]:
                if stranded and feature.strand not in (strand, "."):
                    continue
                own = codes[feature.start : feature.end]
                if labels.several:
                    own[:, number[feature.name]] = 1
                    continue
                taken = np.flatnonzero((own != 0) & (own != number[feature.name]))
                if len(taken):
                    other = labels.names[own[taken[0]]]
                    overlaps.append(f"{feature.name!r} and {other!r} at {contig}:{feature.start + taken[0] + 1:,}")
                own[:] = number[feature.name]
            found[contig, strand] = codes
    if overlaps:
        raise UserError(
            f"{annotation.path}: {len(overlaps):,} features overlap one of another label (first: {overlaps[0]}); choose "
            'features that exclude each other, or set data.overlaps="several" to let a base have several labels'
        )
    return found
