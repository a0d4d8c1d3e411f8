"""Counts of a genome's labeled windows, for the terminal and the report of a run."""

from typing import TypedDict

import numpy as np

from dnabert2_jax.data.base_windows import EncodedWindows, WindowSplits
from dnabert2_jax.data.splits import SPLITS


class SplitReport(TypedDict):
    """Counts of one split.

    Attributes:
        contigs: its contigs.
        windows: windows; each strand has its own.
        left_out: windows with more unknown letters than A, C, G and T.
        bases: bases that count.
        label_counts: bases by class or label.
        token_lengths: (tokens per window, windows of that length), ascending.
    """

    contigs: list[str]
    windows: int
    left_out: int
    bases: int
    label_counts: dict[str, int]
    token_lengths: list[list[int]]


class WindowsReport(TypedDict):
    """Counts of a run's windows.

    Attributes:
        source: the files.
        splits: by name: train, dev, test.
        changes: what the letters policy changed, and remarks on the annotation.
        notes: warnings for readers of the scores.
    """

    source: str
    splits: dict[str, SplitReport]
    changes: list[str]
    notes: list[str]


def windows_report(splits: WindowSplits) -> WindowsReport:
    """Count the windows, bases and labels of each split."""
    found = {name: _split_report(splits, name, getattr(splits, name)) for name in SPLITS}
    notes = [
        f"The {name} contigs have no base with the label {label!r}: the scores do not cover it."
        for name in ("dev", "test")
        for label, bases in found[name]["label_counts"].items()
        if not bases
    ]
    notes += [
        f"The training contigs have no base with the label {label!r}: it cannot be learned."
        for label, bases in found["train"]["label_counts"].items()
        if not bases
    ]
    changes = [*splits.letters.changes(), *splits.notes]
    return WindowsReport(source=splits.source, splits=found, changes=changes, notes=notes)


def _split_report(splits: WindowSplits, name: str, rows: EncodedWindows) -> SplitReport:
    lengths, windows = np.unique(rows.lengths, return_counts=True)
    return SplitReport(
        contigs=list(splits.contigs[name]),
        windows=len(rows),
        left_out=splits.left_out[name],
        bases=rows.bases,
        label_counts=dict(zip(splits.labels.names, rows.label_counts(len(splits.labels)), strict=True)),
        token_lengths=[[int(length), int(count)] for length, count in zip(lengths, windows, strict=True)],
    )
