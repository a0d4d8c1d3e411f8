"""Segments: the stretches of contigs that training and validation windows may lie in."""

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.draws import Domain, hash64

IntRows = NDArray[np.int64]
"""Integer columns, or a single one: [rows, columns] or [rows]."""


def validation_blocks(
    lengths: IntRows, species_key: int, *, fraction: float, block: int, shortest: int = 1
) -> tuple[IntRows, NDArray[np.bool_]]:
    """Cut the contigs of one species into blocks and choose some for validation.

    A contig is cut into as many equal blocks of at least ``block`` bases as fit, and at least one. Blocks are ranked by a
    hash of (species, contig, block) and assigned to validation up to ``fraction`` of the bases; with two or more blocks, at
    least one is assigned and at least one is not. If a species is so small that one block exceeds ``fraction`` of it, blocks
    are as long as that fraction, but no shorter than ``shortest``.

    Args:
        lengths: bases of each contig, [contigs].
        species_key: number that identifies the species.
        fraction: fraction of the bases for validation; 0 for none.
        block: bases per block.
        shortest: minimum bases per block in a small species.

    Returns:
        Rows (contig, start, stop), [blocks, 3], and whether a block is for validation, [blocks].
    """
    wanted = int(fraction * lengths.sum())
    if wanted >= shortest:
        block = min(block, wanted)
    counts = np.maximum(1, lengths // block)
    contig = np.repeat(np.arange(len(lengths)), counts)
    number = np.arange(len(contig)) - np.repeat(np.cumsum(counts) - counts, counts)
    start = number * lengths[contig] // counts[contig]
    stop = (number + 1) * lengths[contig] // counts[contig]

    chosen = np.zeros(len(contig), bool)
    if fraction > 0 and len(contig) > 1:
        order = np.argsort(hash64(Domain.VALIDATION_BLOCKS, species_key, contig, number), kind="stable")
        bases = np.cumsum((stop - start)[order])
        size = int(np.searchsorted(bases, fraction * bases[-1], "right"))
        chosen[order[: min(max(1, size), len(contig) - 1)]] = True
    return np.stack([contig, start, stop], axis=1), chosen


def merge_blocks(blocks: IntRows, chosen: NDArray[np.bool_]) -> tuple[IntRows, IntRows]:
    """Merge adjacent blocks of a contig in the same split into segments.

    Returns:
        Training and validation segments, rows (contig, start, stop).
    """
    first = np.ones(len(blocks), bool)
    first[1:] = (blocks[1:, 0] != blocks[:-1, 0]) | (chosen[1:] != chosen[:-1])
    last = np.append(first[1:], True)
    segments = np.stack([blocks[first, 0], blocks[first, 1], blocks[last, 2]], axis=1)
    return segments[~chosen[first]], segments[chosen[first]]


def cut_at_runs(segments: IntRows, offsets: IntRows, runs: IntRows) -> IntRows:
    """Remove the runs of IUPAC codes from segments.

    Args:
        segments: rows (contig, start, stop) in order, [segments, 3].
        offsets: start of each contig in the coordinates of the runs, [contigs].
        runs: rows (start, stop, ...) in order, [runs, 2 or more].

    Returns:
        The remaining segments, rows (contig, start, stop) in order.
    """
    if not len(segments):
        return segments
    shift = offsets[segments[:, 0]]
    starts, stops = segments[:, 1] + shift, segments[:, 2] + shift
    # Nothing changes between two adjacent edges: each piece lies entirely inside a segment or run, or entirely outside.
    edges = np.unique(np.concatenate([starts, stops, runs[:, 0], runs[:, 1]]))
    pieces, ends = edges[:-1], edges[1:]
    segment = np.searchsorted(starts, pieces, "right") - 1
    inside = (segment >= 0) & (pieces < stops[segment])
    run = np.searchsorted(runs[:, 0], pieces, "right") - 1
    if len(runs):
        inside &= (run < 0) | (pieces >= runs[run, 1])
    contig = segments[segment[inside], 0]
    return np.stack([contig, pieces[inside] - offsets[contig], ends[inside] - offsets[contig]], axis=1)
