"""Explanations as pictures: one file per sequence, and a page with all of them and their strongest features."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.config.inference import ExplainMethod
from dnabert2_jax.inference.tracks.files import file_stem
from dnabert2_jax.interpretation.attention import AttentionMaps
from dnabert2_jax.interpretation.dependency import DependencyMap
from dnabert2_jax.interpretation.gradients import Attributions
from dnabert2_jax.interpretation.ism import MutationScores
from dnabert2_jax.interpretation.results import Explanation, Explanations, Places
from dnabert2_jax.reports.page import Block, Page, Pictures, Section, Settings, Table, Text
from dnabert2_jax.reports.plots.explanations import explanation_picture
from dnabert2_jax.reports.plots.style import DARK, LIGHT, PictureFormat, drawn, render
from dnabert2_jax.storage.atomic import write_bytes
from dnabert2_jax.storage.paths import make_directory

MOST_PICTURES = 50
"""Sequences that are drawn."""

STRETCH = 8
"""Bases of a stretch that is listed, about a motif."""

_MOST_LISTED = 5

_HOW_TO_READ: dict[ExplainMethod, str] = {
    "ism": "The height of a letter is how far the model's output is above the mean over the four bases at its site (upside "
    "down if below). The map shows all four: blue bases would raise the output, red ones would lower it.",
    "ig": "The height of a letter is its token's contribution, divided evenly over the token's bases: the method does not "
    "distinguish bases within a token. All contributions add up to the output minus that of a sequence of masks.",
    "saliency": "The height of a letter is its token's gradient times the difference between the token and a mask, divided "
    "evenly over the token's bases: a quick estimate, which need not add up to the output.",
    "attention": "Each row shows where a token looks, as the mean over the layers and heads. It shows what was combined, "
    "not what decided the output.",
    "dependency": "Each row shows what substituting a base does to the model's prediction of the others. A substitution "
    "also moves the boundaries of tokens near it, which shows up beside the diagonal.",
}


def save_pictures(
    directory: Path, results: Explanations, picture_format: PictureFormat, *, most: int = MOST_PICTURES
) -> list[Path]:
    """Draw each sequence for light and dark grounds, ``001_NAME.png`` and ``001_NAME.dark.png``.

    Args:
        directory: made if there is none; files of the same names are replaced.
        results: of one method.
        picture_format: PNG, SVG or PDF.
        most: sequences to draw.

    Returns:
        The files.

    Raises:
        UserError: a file cannot be written.
    """
    make_directory(directory)
    files = []
    for n, result in enumerate(results[:most], start=1):
        for suffix, theme in (("", LIGHT), (".dark", DARK)):
            path = directory / f"{n:03}_{file_stem(result.name)}{suffix}.{picture_format}"
            files.append(write_bytes(path, render(explanation_picture(result, theme), picture_format)))
    return files


def explanation_page(
    method: ExplainMethod, results: Explanations, record: Mapping[str, Any], places: Places, *, most: int = MOST_PICTURES
) -> Page:
    """One page: how to read it, a section for each sequence, and what made it.

    Args:
        method: of the results.
        results: at least one.
        record: what made them.
        places: of intervals, as in the file; empty for sequences of a file.
        most: sequences to show.
    """
    shown = [
        Section(
            f"sequence{n + 1}",
            result.name,
            [
                Pictures([drawn(f"{result.name}, {len(result.sequence):,} bases", partial(explanation_picture, result))]),
                *_facts(result),
                strongest(result, Coordinates(places, n)),
            ],
        )
        for n, result in enumerate(results[:most])
    ]
    notes = [f"{len(results):,} sequences were explained; the first {most} are shown."] if len(results) > most else []
    return Page(
        title=f"What the output depends on ({method})",
        subtitle=f"{record['model']}; dnabert2_jax {record['dnabert2_jax']}",
        sections=[
            Section("reading", "How to read it", [Text(_HOW_TO_READ[method])]),
            *shown,
            Section("made", "How it was made", [Settings.from_record(record)]),
        ],
        notes=notes,
    )


class Coordinates:
    """From bases of a sequence to what people look up: 1-based, and in the genome if it lies in one."""

    def __init__(self, places: Places, number: int) -> None:
        self._place = (
            {name: values[number] for name, values in places.items()} if places else None  # contigs, starts, ends, strands
        )

    def of(self, start: int, end: int) -> str:
        """Where bases ``start`` (from 0) to ``end`` (not included) are."""
        if self._place is None:
            return f"{start + 1:,}-{end:,}" if end > start + 1 else f"{end:,}"
        if self._place["strands"] == "-":
            start, end = self._place["ends"] - end, self._place["ends"] - start
        else:
            start, end = self._place["starts"] + start, self._place["starts"] + end
        last = f"-{end:,}" if end > start + 1 else ""
        return f"{self._place['contigs']}:{start + 1:,}{last}"


def _facts(result: Explanation) -> list[Block]:
    """The numbers of integrated gradients."""
    if not isinstance(result, Attributions):
        return []
    pairs = [(result.unit, f"{result.value:.3f}")]
    if not np.isnan(result.baseline_value):
        pairs += [
            ("of the masked sequence", f"{result.baseline_value:.3f}"),
            ("completeness error", f"{result.completeness_error:.2%}"),
        ]
    return [Settings(pairs)]


def strongest(result: Explanation, coordinates: Coordinates) -> Table:
    """What stands out: stretches of bases, or pairs."""
    if isinstance(result, MutationScores | Attributions):
        stretches = [
            (coordinates.of(start, start + STRETCH), result.sequence[start : start + STRETCH], f"{total:+.3f}")
            for start, total in strongest_stretches(result.contributions)
        ]
        return Table(("stretch", "bases", "sum of contributions"), stretches, text_columns=2)
    if isinstance(result, DependencyMap):
        bases = [f"{letter} ({coordinates.of(n, n + 1)})" for n, letter in enumerate(result.sequence)]
        pairs = [(bases[i], bases[j], f"{value:.3f}") for i, j, value in _largest_pairs(result.values)]
        return Table(("substituted", "predicted", "change of the log-odds"), pairs, text_columns=2)
    starts = np.cumsum(result.token_bases) - result.token_bases
    looks = [
        (_token(result, starts, q, coordinates), _token(result, starts, k, coordinates), f"{value:.3f}")
        for q, k, value in _largest_pairs(result.weights.mean((0, 1)))
    ]
    return Table((result.resolution, "attends to", "attention"), looks, text_columns=2)


def _token(result: AttentionMaps, starts: NDArray[np.int64], n: int, coordinates: Coordinates) -> str:
    """A token or a base, by its letters and place."""
    start, bases = (n, 1) if result.resolution == "base" else (int(starts[n]), int(result.token_bases[n]))
    if not bases:
        return "[CLS]" if n == 0 else "[SEP]"
    return f"{result.sequence[start : start + bases]} ({coordinates.of(start, start + bases)})"


def strongest_stretches(contributions: NDArray[np.floating]) -> list[tuple[int, float]]:
    """First base and sum of the stretches with the largest sums in size, which do not overlap; strongest first.

    Args:
        contributions: of each base; NaN counts as 0. [L].
    """
    if len(contributions) < STRETCH:
        return []
    sums = np.convolve(np.nan_to_num(np.asarray(contributions, np.float64), nan=0.0), np.ones(STRETCH), "valid")
    found: list[tuple[int, float]] = []
    for start in np.argsort(-np.abs(sums), kind="stable").tolist():
        if all(abs(start - other) >= STRETCH for other, _ in found):
            found.append((start, float(sums[start])))
        if len(found) == _MOST_LISTED:
            break
    return found


def _largest_pairs(values: NDArray[np.floating]) -> list[tuple[int, int, float]]:
    """Row, column and value of the largest entries off the diagonal."""
    known = np.nan_to_num(np.asarray(values, np.float64), nan=0.0)
    np.fill_diagonal(known, 0)
    order: Sequence[int] = np.argsort(-known, axis=None, kind="stable")[:_MOST_LISTED].tolist()
    return [(n // len(known), n % len(known), float(known.flat[n])) for n in order]
