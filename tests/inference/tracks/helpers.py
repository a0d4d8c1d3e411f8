"""What the tests of tracks share."""

from pathlib import Path

import numpy as np

from dnabert2_jax.data.intervals import Intervals
from dnabert2_jax.genome.reference import Reference
from dnabert2_jax.inference.tracks.stretches import plan_stretches
from tests.genome.helpers import write_fasta


def stretches_of(path: Path, genome: dict[str, str], bed: str | None = None, strand: str = "+"):
    """The stretches of a genome and a BED file that are written here; the whole genome without one."""
    path.mkdir(parents=True, exist_ok=True)
    if bed is not None:
        (path / "b.bed").write_text(bed)
    intervals = Intervals(Reference(write_fasta(path / "g.fa", genome)), path / "b.bed" if bed is not None else None)
    return plan_stretches(intervals, strand)


def by_place(track) -> dict[tuple[str, str, int, int], np.ndarray]:
    """All values of a track by contig, strand, start and end."""
    found = {}
    for piece in track:
        for start, end, values in zip(piece.starts.tolist(), piece.ends.tolist(), piece.values, strict=True):
            found[piece.contig, piece.strand, start, end] = values
    return found


def assert_same(first: dict, second: dict, atol: float = 1e-5) -> None:
    assert list(first) == list(second)
    np.testing.assert_allclose(np.array(list(first.values())), np.array(list(second.values())), atol=atol)


def mirrored(found: dict, lengths: dict[str, int]) -> dict:
    """Values on the plus strand as the minus strand of the reverse complement has them."""
    turned = {
        (contig, "-", lengths[contig] - end, lengths[contig] - start): values
        for (contig, _, start, end), values in found.items()
    }
    return dict(sorted(turned.items()))
