"""Windows of a corpus: the stretch of DNA at index i, as a pure function of (seed, i).

There is no sequential random state, so hosts, workers and resumed runs agree on every window without communicating.

Training. The species of index i is given by slot i mod P of a pattern that assigns every species its share of P slots;
given the slot's rank among the slots of its species, i is the k-th window of that species. A species with n cells visits
all of them in each epoch k // n, in an order determined by seed and epoch. The valid starts of a segment are divided into
equal cells, as many as whole windows fit into the segment; the start within a cell is redrawn each epoch. Every region is
thus seen once per epoch, at fresh offsets, and starts are uniform over the segment.

Validation. Segments are cut into equal tiles no longer than a window, in order, on the forward strand: every base once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.draws import Domain, hash64, permute, uniform
from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.corpus import Corpus, Split
from dnabert2_jax.genome.letters import COMPLEMENTS

PATTERN = 1 << 16
"""Slots of the species pattern: shares are exact to 1 / PATTERN, and every species gets at least one slot."""

_COMPLEMENT = bytes.maketrans(*(letters.encode() for letters in COMPLEMENTS))


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of DNA.

    Attributes:
        sequence: upper-case letters, read along ``strand``.
        species: species number in the corpus.
        contig: contig number in the corpus.
        start: first base on the forward strand.
        strand: 1 forward, -1 reverse complement.
    """

    sequence: str
    species: int
    contig: int
    start: int
    strand: int


class Windows:
    """The windows of one split.

    Args:
        corpus: the source of the DNA.
        window_bases: window length; a window is shorter if its segment is.
        seed: determines order, offsets and strands (training).
        split: "train": any nonnegative index; "validation": indices below ``epoch_size``.
        reverse_complement: reverse-complement a random half of the training windows.

    Attributes:
        epoch_size: windows after which every region has been seen about once (training); number of tiles (validation).

    Raises:
        UserError: the split is empty, or ``window_bases`` is below 1.
    """

    def __init__(
        self, corpus: Corpus, window_bases: int, seed: int, split: Split = "train", *, reverse_complement: bool = True
    ) -> None:
        if window_bases < 1:
            raise UserError(f"window_bases is {window_bases}; accepted is 1 base or more")
        self._segments = corpus.segments(split)
        if not len(self._segments):
            blocks = f"validation_fraction {corpus.manifest.settings.validation_fraction}"
            raise UserError(
                f"{corpus.path}: the {split} split is empty (built with {blocks}; a species of a single block holds out "
                "nothing); build the corpus with a larger validation_fraction or a smaller validation_block"
            )
        self.corpus = corpus
        self.window_bases = window_bases
        self.seed = seed
        self.split = split
        self.reverse_complement = reverse_complement

        lengths = self._segments[:, 2] - self._segments[:, 1]
        whole = lengths // window_bases
        cells = np.maximum(1, whole) if split == "train" else -(-lengths // window_bases)
        self._first_cell = np.concatenate([[0], np.cumsum(cells)])
        """Number of the first cell (or tile) of each segment, over all segments."""
        self.epoch_size = int(self._first_cell[-1])

        segment_species = corpus.contig_species[self._segments[:, 0]]
        edges = np.searchsorted(segment_species, np.arange(len(corpus.species) + 1))
        self._species_cell = self._first_cell[edges[:-1]]
        self._species_cells = self._first_cell[edges[1:]] - self._species_cell
        self._pattern, self._rank, self._slots = _species_pattern([species.weight for species in corpus.species], seed)

    def __getitem__(self, index: int) -> Window:
        """The window at an index."""
        return self.batch([index])[0]

    def batch(self, indices: Sequence[int] | NDArray[np.integer]) -> list[Window]:
        """The windows at the given indices, in the same order.

        Raises:
            IndexError: an index is negative, or past the end of the validation split.
        """
        places = self._places(indices)
        contig, start, _, reverse = places
        species = self.corpus.contig_species[contig]
        return [
            Window(sequence, s, c, a, -1 if r else 1)
            for sequence, c, a, r, s in zip(
                self._read(*places), *(x.tolist() for x in (contig, start, reverse, species)), strict=True
            )
        ]

    def sequences(self, indices: Sequence[int] | NDArray[np.integer]) -> list[str]:
        """The letters of the windows at the given indices, in the same order; the fast path for training.

        Raises:
            IndexError: as for :meth:`batch`.
        """
        return self._read(*self._places(indices))

    def species(self, indices: Sequence[int] | NDArray[np.integer]) -> NDArray[np.int64]:
        """Species number of the windows at the given indices, without reading them. Shape [indices]."""
        return self.corpus.contig_species[self._places(indices)[0]]

    def _places(self, indices: Sequence[int] | NDArray[np.integer]) -> tuple[NDArray[np.int64], ...]:
        """Contig, first base, base after the last, and 1 if it is read backward, of each window."""
        index = np.asarray(indices, np.int64)
        if len(index) and (index.min() < 0 or (self.split == "validation" and index.max() >= self.epoch_size)):
            end = f" below {self.epoch_size}" if self.split == "validation" else ""
            raise IndexError(f"window indices {index.min()} to {index.max()}; accepted is 0 and above{end}")
        return self._train(index) if self.split == "train" else self._tiles(index)

    def _train(self, index: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
        turn, slot = np.divmod(index, PATTERN)
        species = self._pattern[slot]
        cells = self._species_cells[species]
        epoch, position = np.divmod(turn * self._slots[species] + self._rank[slot], cells)
        cell = permute(position, cells, self.seed, Domain.WINDOW_ORDER, species, epoch)

        segment, part, parts, length = self._locate(self._species_cell[species] + cell)
        window = np.minimum(length, self.window_bases)
        starts = length - window + 1
        offset = uniform(self.seed, Domain.WINDOW_START, species, epoch, cell)
        # The minimum guards against rounding: part + offset may come out equal to parts.
        start = np.minimum(((part + offset) * starts / parts).astype(np.int64), starts - 1) + self._segments[segment, 1]
        coin = (hash64(self.seed, Domain.WINDOW_STRAND, species, epoch, cell) >> np.uint64(63)).astype(np.int64)
        reverse = coin if self.reverse_complement else 0 * coin
        return self._segments[segment, 0], start, start + window, reverse

    def _tiles(self, index: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
        segment, part, parts, length = self._locate(index)
        first = self._segments[segment, 1]
        return self._segments[segment, 0], first + part * length // parts, first + (part + 1) * length // parts, 0 * first

    def _locate(self, cell: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
        """The segment of each cell, the cell's number within it, the segment's number of cells, and its length in bases."""
        segment = np.searchsorted(self._first_cell, cell, "right") - 1
        length = self._segments[segment, 2] - self._segments[segment, 1]
        return segment, cell - self._first_cell[segment], self._first_cell[segment + 1] - self._first_cell[segment], length

    def _read(
        self, contig: NDArray[np.int64], start: NDArray[np.int64], stop: NDArray[np.int64], reverse: NDArray[np.int64]
    ) -> list[str]:
        if not len(contig):
            return []
        rows, shifts = self.corpus.read_rows(contig, start, stop)
        letters = rows.tobytes()
        forward, backward = letters.decode("ascii"), letters.translate(_COMPLEMENT)[::-1].decode("ascii")
        first = np.arange(len(rows)) * rows.shape[1] + shifts
        last = first + (stop - start)
        begin, end = np.where(reverse, (len(letters) - last, len(letters) - first), (first, last))
        return [
            (backward if r else forward)[a:b] for a, b, r in zip(begin.tolist(), end.tolist(), reverse.tolist(), strict=True)
        ]


def _species_pattern(weights: list[float], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The species of each slot, the slot's rank among those of its species, and the number of slots per species.

    Every species gets one slot, and the rest are distributed by weight, rounded by the largest-remainder method.
    """
    wanted = np.maximum(0.0, np.asarray(weights) / np.sum(weights) * PATTERN - 1)
    wanted *= (PATTERN - len(weights)) / max(1.0, wanted.sum())
    slots = 1 + wanted.astype(np.int64)
    slots[np.argsort(slots - wanted, kind="stable")[: PATTERN - slots.sum()]] += 1
    order = np.argsort(hash64(seed, Domain.WINDOW_SPECIES, np.arange(PATTERN)), kind="stable")
    pattern = np.repeat(np.arange(len(slots)), slots)[order]
    rank = np.empty(PATTERN, np.int64)
    rank[np.argsort(pattern, kind="stable")] = np.arange(PATTERN) - np.repeat(np.cumsum(slots) - slots, slots)
    return pattern, rank, slots
