"""Stretches of a genome: BED files, read one line at a time, and regions such as ``chr1:1,001-2,000``.

BED counts from 0 and excludes the end; a region is written as in genome browsers and samtools, from 1 with the end included.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from dnabert2_jax.config.inference import BadRecordPolicy
from dnabert2_jax.data.bad_records import BadRecords
from dnabert2_jax.data.sequences import clean_sequence, reverse_complement
from dnabert2_jax.errors import UserError, nearest
from dnabert2_jax.genome.letters import LetterCounts
from dnabert2_jax.genome.reference import Reference
from dnabert2_jax.storage.compressed import DAMAGED_GZIP, open_plain_or_gzip

NAME_COLUMN = 4
"""The column of a BED file that names its intervals, from 1."""

_STRANDS = ("+", "-", ".")
_NOT_AN_INTERVAL = re.compile(r"\s*$|#|(track|browser)(\s|$)")
_NUMBER = re.compile(r"[0-9]{1,18}")
_REGION = re.compile(r"(.+?):([0-9,]{1,24})(?:-([0-9,]{0,24}))?")

_CHECKED_AT_ONCE = 1_000_000


class Interval(NamedTuple):
    """A stretch of a contig.

    Attributes:
        contig: its name in the FASTA file.
        start: first base, from 0.
        end: the base after the last one.
        name: column 4 of a BED file, a region as it was written, or ``.``.
        strand: ``+``, ``-`` or, if none is given, ``.``, which is read as ``+``.
    """

    contig: str
    start: int
    end: int
    name: str
    strand: str

    @property
    def reverse(self) -> bool:
        """Whether it is read as its reverse complement."""
        return self.strand == "-"


@dataclass(frozen=True)
class Intervals:
    """The intervals of a BED file, followed by regions; iteration reads the file again, a line at a time.

    Attributes:
        reference: the genome.
        bed: a BED file, or None.
        regions: regions as written.
        bad_records: what to do with intervals that cannot be used.
        name_column: the column of the BED file that holds the names, from 1.
    """

    reference: Reference
    bed: Path | None = None
    regions: tuple[str, ...] = ()
    bad_records: BadRecordPolicy | None = None
    name_column: int = NAME_COLUMN
    _renamed: dict[str, str] = field(default_factory=dict, init=False, repr=False)
    _skipped: list[str] = field(default_factory=list, init=False, repr=False)

    @property
    def source(self) -> str:
        """Their origin, for messages."""
        return " ".join([*([str(self.bed)] if self.bed else []), *self.regions])

    def __iter__(self) -> Iterator[Interval]:
        return (interval for _, interval in self.numbered())

    def numbered(self) -> Iterator[tuple[int, Interval]]:
        """All usable intervals in their order, each with its line in the BED file, 0 for a region.

        Raises:
            UserError: an interval cannot be used, and is not to be skipped (the message names all of them); or there are
                none.
        """
        if self.bed is not None:
            yield from self._of_bed(self.bed)
        for region in self.regions:
            yield 0, self._of_region(region)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was skipped or read under another name, once an iteration has finished."""
        pairs = [f"{given} as {found}" for given, found in self._renamed.items()]
        renamed = [f"contigs read under the names of {self.reference.path}: {', '.join(pairs)}"] if pairs else []
        return (*self._skipped, *renamed)

    def _of_bed(self, path: Path) -> Iterator[tuple[int, Interval]]:
        bad, lines = BadRecords(str(path), self.bad_records), 0
        for number, line in text_lines(path, "BED"):
            if _NOT_AN_INTERVAL.match(line):
                continue
            lines += 1
            try:
                interval = self._parse(line, f"{path}, line {number}")
            except UserError as error:
                bad.add(error)
            else:
                yield number, interval
        if not lines:
            raise UserError(f"{path}: no intervals; a line is contig, start and end, separated by tabs")
        self._skipped[:] = bad.finish(lines)

    def _parse(self, line: str, where: str) -> Interval:
        fields = line.split("\t") if "\t" in line else line.split()
        if len(fields) < 3:
            raise UserError(f"{where}: {len(fields)} fields; an interval has contig, start and end, separated by tabs")
        contig, first, last = (text.strip() for text in fields[:3])
        for what, text in (("start", first), ("end", last)):
            if not (text.isascii() and _NUMBER.fullmatch(text)):
                raise UserError(f"{where}: the {what} {text!r} is not a whole number of 0 or more; BED counts bases from 0")
        name = fields[self.name_column - 1].strip() if len(fields) >= self.name_column else "."
        strand = fields[5].strip() if len(fields) > 5 else "."
        if strand not in _STRANDS:
            raise UserError(f"{where}: the strand {strand!r} (column 6) is not one of {' '.join(_STRANDS)}")
        return self.place(contig, int(first), int(last), name or ".", strand, where)

    def _of_region(self, text: str) -> Interval:
        if (whole := self.reference.contig(text)) is not None:
            return self.place(text, 0, self.reference.lengths[whole], text, ".", f"--region {text}")
        match = _REGION.fullmatch(text)
        if match is None:
            contig, _, bases = text.rpartition(":")
            if self.reference.contig(contig) is not None:
                raise UserError(
                    f"--region {text}: {bases!r} is no range of bases; write it as in {contig}:1-100, counted from 1"
                )
            raise self._unknown(text, f"--region {text}")
        start, end = (int(number.replace(",", "") or 0) for number in (match[2], match[3] or match[2]))
        if start < 1:
            raise UserError(f"--region {text}: regions count bases from 1, as in chr1:1-100")
        length = self.reference.lengths[self._contig(match[1], f"--region {text}")]
        if match[3] == "":  # to the end of the contig
            end = max(start, length)
        if start > end:
            raise UserError(f"--region {text}: it ends before it starts; swap the two positions")
        if end > length:
            raise UserError(
                f"--region {text} goes beyond the contig, which has {length:,} bases in {self.reference.path}; check that "
                "both are of one assembly"
            )
        return self.place(match[1], start - 1, end, text, ".", f"--region {text}")

    def place(self, given: str, start: int, end: int, name: str, strand: str, where: str) -> Interval:
        """An interval under the reference's name of its contig; other names are noted in :attr:`notes`.

        Args:
            given: name of the contig.
            start: first base, from 0.
            end: the base after the last one.
            name: of the interval.
            strand: ``+``, ``-`` or ``.``.
            where: where it was read, for messages.

        Raises:
            UserError: no such contig, no bases, or beyond the contig's end.
        """
        contig = self._contig(given, where)
        if start >= end:
            raise UserError(f"{where}: {given} from {start:,} to {end:,} has no bases; the end must be above the start")
        if end > (bases := self.reference.lengths[contig]):
            raise UserError(
                f"{where}: {given} from {start:,} to {end:,} is beyond the contig, which has {bases:,} bases in "
                f"{self.reference.path}; check that both are of one assembly"
            )
        return Interval(contig, start, end, name, strand)

    def _contig(self, given: str, where: str) -> str:
        contig = self.reference.contig(given)
        if contig is None:
            raise self._unknown(given, where)
        if contig != given:
            self._renamed[given] = contig
        return contig

    def _unknown(self, contig: str, where: str) -> UserError:
        return UserError(
            f"{where}: no contig {contig!r} in {self.reference.path}, which has {self.reference.describe_contigs()}"
            f"{nearest(contig, self.reference.lengths)}; check that both are of one assembly"
        )


def letters_of(reference: Reference, interval: Interval, start: int, end: int, counts: LetterCounts) -> str:
    """The clean letters of a stretch of an interval's contig, reverse-complemented if the interval is.

    Args:
        reference: the genome.
        interval: its contig and strand.
        start: first base in the contig, from 0.
        end: the base after the last one.
        counts: the counts to add to.

    Raises:
        UserError: a letter that is not DNA.
    """
    raw = reference.fetch(interval.contig, start, end)
    clean = clean_sequence(raw, counts, str(reference.path), f"{interval.contig}:{start + 1}-{end}")
    return reverse_complement(clean) if interval.reverse else clean


def check_letters(reference: Reference, interval: Interval, counts: LetterCounts) -> None:
    """Read an interval, a million bases at a time, and count its letters.

    Raises:
        UserError: a letter that is not DNA.
    """
    for start in range(interval.start, interval.end, _CHECKED_AT_ONCE):
        letters_of(reference, interval, start, min(interval.end, start + _CHECKED_AT_ONCE), counts)


def text_lines(path: Path, kind: str) -> Iterator[tuple[int, str]]:
    """Numbered lines of a text file, plain or gzip, without their ends.

    Args:
        path: the file.
        kind: the expected format, for messages: ``BED``.

    Raises:
        UserError: the file is missing, not text, or damaged.
    """
    if not path.is_file():
        state = "is a directory" if path.is_dir() else "does not exist"
        raise UserError(f"{path} {state}; give a {kind} file, plain or gzip")
    number = 0
    try:
        with open_plain_or_gzip(path) as lines:
            for number, raw in enumerate(lines, start=1):
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}, line {number}: not text; give a {kind} file, plain or gzip") from error
    except DAMAGED_GZIP as error:
        raise UserError(
            f"{path}: the compressed file is damaged or cut short ({error}); download or compress it again"
        ) from error
