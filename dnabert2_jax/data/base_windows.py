"""Windows of a genome with labels for every base: the rows of training, evaluation and tracks."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.data.annotation import Annotation
from dnabert2_jax.data.base_labels import NOT_COUNTED, BaseLabels, labels_by_contig
from dnabert2_jax.data.encoding import EncodedRows
from dnabert2_jax.data.intervals import Interval, letters_of
from dnabert2_jax.data.sequences import reverse_complement
from dnabert2_jax.data.splits import SPLITS
from dnabert2_jax.errors import UserError, nearest
from dnabert2_jax.genome.letters import BASES, LetterCounts, base_codes
from dnabert2_jax.genome.reference import Reference
from dnabert2_jax.tokenizer.base import Tokenizer, worthwhile_threads
from dnabert2_jax.tokenizer.special import with_template
from dnabert2_jax.types import RowBases

_OTHER, _NONE = len(BASES), -1


def _continues(before: Interval, after: Interval) -> bool:
    """Whether a window directly follows another one in reading order."""
    if (before.contig, before.strand) != (after.contig, after.strand):
        return False
    return after.end == before.start if before.reverse else after.start == before.end


@dataclass(frozen=True)
class EncodedBases(EncodedRows):
    """Token rows for a head that labels every base.

    Attributes:
        letters: 0-3 for A, C, G, T, 4 for other letters, -1 where a row has no more bases. [rows, L].
        tokenizer: the tokenizer that made the ids.
    """

    letters: NDArray[np.int8]
    tokenizer: Tokenizer

    @property
    def places(self) -> tuple[int, ...]:
        """(L,)."""
        return self.letters.shape[1:]

    def bases_of(self, rows: NDArray[np.integer]) -> RowBases:
        """Letter, token and offset of each base of some rows, [B, L] each."""
        shape = (len(rows), self.letters.shape[1])
        letters = np.where((rows >= 0)[:, None], self.letters[rows], _NONE).astype(np.int32)
        tokens, offsets = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        for n, row in enumerate(rows.tolist()):
            if row >= 0:
                lengths = self.tokenizer.token_bases(self.input_ids[row])
                own = np.repeat(np.arange(len(lengths)), lengths)
                tokens[n, : len(own)] = own
                offsets[n, : len(own)] = np.arange(len(own)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return RowBases(letters, tokens, offsets)


def encode_bases(sequences: Sequence[str], tokenizer: Tokenizer, width: int) -> EncodedBases:
    """Tokenize sequences as rows for a head that labels every base.

    Args:
        sequences: clean letters, at most ``width`` bases each.
        tokenizer: the tokenizer.
        width: L.
    """
    raw = tokenizer.encode_raw_batch(sequences, num_threads=worthwhile_threads(sum(map(len, sequences))))
    rows = [with_template(ids) for ids in raw]
    letters = np.full((len(sequences), width), _NONE, np.int8)
    for row, sequence in zip(letters, sequences, strict=True):
        codes = base_codes(sequence)
        row[: len(sequence)] = np.where(codes < 0, _OTHER, codes)
    return EncodedBases(rows, np.array([len(row) for row in rows], np.int32), letters, tokenizer)


@dataclass(frozen=True)
class EncodedWindows(EncodedBases):
    """Labeled windows; those of a contig and strand are in reading order.

    Attributes:
        labels: class numbers [rows, L], or 0 and 1 for each label [rows, L, C]; -1 where a base does not count.
        windows: their places, which have no names; the strand is the one that is read.
    """

    labels: NDArray[np.int8]
    windows: tuple[Interval, ...]

    def targets_of(self, labels: NDArray[Any], rows: NDArray[np.integer]) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Labels [B, L] as int32 or [B, L, C] as float32, and weights [B, L]: 1 where a base counts."""
        chosen = labels[rows]
        counts = (chosen if chosen.ndim == 2 else chosen[..., 0]) != NOT_COUNTED
        counts &= (rows >= 0)[:, None]
        dtype = np.int32 if chosen.ndim == 2 else np.float32
        return np.maximum(chosen, 0).astype(dtype), counts.astype(np.float32)

    @cached_property
    def breaks(self) -> NDArray[np.bool_]:
        """Whether each window does not continue the previous one in reading order. [rows]."""
        pairs = zip(self.windows, self.windows[1:], strict=False)
        return np.array([True, *(not _continues(before, after) for before, after in pairs)])

    @property
    def bases(self) -> int:
        """Bases that count."""
        first = self.labels if self.labels.ndim == 2 else self.labels[..., 0]
        return int(np.count_nonzero(first != NOT_COUNTED))

    def label_counts(self, classes: int) -> list[int]:
        """Bases of each class, or with each label. [C]."""
        if self.labels.ndim == 2:
            return [int(np.count_nonzero(self.labels == c)) for c in range(classes)]
        return [int(np.count_nonzero(self.labels[..., c] == 1)) for c in range(classes)]


@dataclass(frozen=True)
class WindowSplits:
    """The windows of a genome, divided by contig.

    Attributes:
        train, dev, test: windows.
        reverse: the training windows on the other strand, if training alternates between the strands.
        labels: the labels of the bases.
        contigs: of each split.
        left_out: windows of each split that have more unknown letters than A, C, G and T.
        letters: letter counts and changes of the letters policy.
        notes: remarks on the annotation.
        source: the files, for messages.
    """

    train: EncodedWindows
    dev: EncodedWindows
    test: EncodedWindows
    reverse: EncodedWindows | None
    labels: BaseLabels
    contigs: Mapping[str, tuple[str, ...]]
    left_out: Mapping[str, int]
    letters: LetterCounts
    notes: tuple[str, ...]
    source: str


def load_windows(
    annotation: Annotation,
    reference: Reference,
    tokenizer: Tokenizer,
    *,
    window: int,
    dev_contigs: Sequence[str],
    test_contigs: Sequence[str],
    several: bool = False,
    stranded: bool = False,
    reverse: bool = False,
) -> WindowSplits:
    """Cut a genome into adjacent windows and label their bases.

    A window on the minus strand is read as its reverse complement, and its labels are in that order. Windows with more
    unknown letters than A, C, G and T are left out.

    Args:
        annotation: its features.
        reference: the genome.
        tokenizer: the tokenizer.
        window: bases of a window; the last of a contig may have fewer.
        dev_contigs: contigs of the dev windows.
        test_contigs: contigs of the test windows; all others are for training.
        several: whether a base may have several labels.
        stranded: whether strands are read separately, each with its own labels.
        reverse: also encode the training windows on the other strand.

    Raises:
        UserError: a contig that the genome lacks, one that is in two splits, a split without windows or with a single label,
            features that overlap, or a letter that is not DNA.
    """
    labels = BaseLabels.of(annotation, window, several=several)
    contigs = _split_contigs(reference, dev_contigs, test_contigs)
    by_contig = labels_by_contig(annotation, labels, reference.lengths, stranded=stranded)
    strands = ("+", "-") if stranded else ("+",)
    letters, left_out = LetterCounts(), dict.fromkeys(SPLITS, 0)
    encoded: dict[str, EncodedWindows] = {}
    turned: EncodedWindows | None = None
    for split in SPLITS:
        found: list[tuple[Interval, str]] = []
        for contig in contigs[split]:
            windows = _windows_of(reference, contig, window, letters)
            known = [(place, sequence) for place, sequence in windows if 2 * _known_letters(sequence) >= len(sequence)]
            left_out[split] += len(windows) - len(known)
            for strand in strands:
                in_order = known if strand == "+" else reversed(known)  # in reading order
                found += [(place._replace(strand=strand), sequence) for place, sequence in in_order]
        if not found:
            raise UserError(
                f"{reference.path}: no window for {split}; its contigs ({', '.join(contigs[split][:5])}) hold more unknown "
                "letters than A, C, G and T"
            )
        encoded[split] = _encode(found, by_contig, tokenizer, window)
        if not any(0 < count < encoded[split].bases for count in encoded[split].label_counts(len(labels))):
            raise UserError(
                f"{annotation.path}: all bases of the {split} contigs ({', '.join(contigs[split][:5])}) have the same "
                "label, or none; choose other data.dev_contigs and data.test_contigs"
            )
        if split == "train" and reverse:
            other = [(place._replace(strand="-"), sequence) for place, sequence in found]
            turned = _encode(other, by_contig, tokenizer, window)
    return WindowSplits(
        **encoded,
        reverse=turned,
        labels=labels,
        contigs=contigs,
        left_out=left_out,
        letters=letters,
        notes=annotation.notes,
        source=f"{annotation.path} on {reference.path}",
    )


def _windows_of(reference: Reference, contig: str, window: int, letters: LetterCounts) -> list[tuple[Interval, str]]:
    """The windows of a contig on the plus strand, with their letters."""
    bases = reference.lengths[contig]
    places = [Interval(contig, start, min(start + window, bases), ".", "+") for start in range(0, bases, window)]
    return [(place, letters_of(reference, place, place.start, place.end, letters)) for place in places]


def _known_letters(sequence: str) -> int:
    return sum(map(sequence.count, BASES))


def _split_contigs(reference: Reference, dev: Sequence[str], test: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The genome's names of the contigs of each split."""
    chosen: dict[str, tuple[str, ...]] = {}
    for split, given in (("dev", dev), ("test", test)):
        names = []
        for name in given:
            if (found := reference.contig(name)) is None:
                raise UserError(
                    f"data.{split}_contigs: no contig {name!r} in {reference.path}, which has {reference.describe_contigs()}"
                    f"{nearest(name, reference.lengths)}"
                )
            names.append(found)
        chosen[split] = tuple(dict.fromkeys(names))
    if both := [name for name in chosen["dev"] if name in chosen["test"]]:
        raise UserError(f"{both[0]} is in data.dev_contigs and in data.test_contigs; leave it in one of them")
    train = tuple(name for name in reference.lengths if name not in chosen["dev"] + chosen["test"])
    if not train:
        raise UserError(
            f"{reference.path}: all {len(reference.lengths)} contigs are in data.dev_contigs or data.test_contigs; "
            "leave some for training"
        )
    return {"train": train, **chosen}


def _encode(
    windows: Iterable[tuple[Interval, str]],
    by_contig: Mapping[tuple[str, str], NDArray[np.int8]],
    tokenizer: Tokenizer,
    width: int,
) -> EncodedWindows:
    """Encode windows, given by their plus-strand letters; contigs without labels by strand have those of ``+``."""
    places, sequences = zip(*windows, strict=True)
    read = [
        reverse_complement(sequence) if place.reverse else sequence
        for place, sequence in zip(places, sequences, strict=True)
    ]
    encoded = encode_bases(read, tokenizer, width)
    some = next(iter(by_contig.values()))
    labels = np.full((len(places), width, *some.shape[1:]), NOT_COUNTED, np.int8)
    for row, place in zip(labels, places, strict=True):
        own = by_contig.get((place.contig, place.strand), by_contig[place.contig, "+"])[place.start : place.end]
        row[: len(own)] = own[::-1] if place.reverse else own
    labels[(encoded.letters < 0) | (encoded.letters == _OTHER)] = NOT_COUNTED
    return EncodedWindows(**vars(encoded), labels=labels, windows=tuple(places))
