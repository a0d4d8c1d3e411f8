"""An allele in its window: checked against the reference, trimmed, and independent of how an indel is aligned.

A deletion in a repeat can be written at several positions, all of which give the same sequence. The window is placed around
the interval from the leftmost to the rightmost of these equivalent representations. Left-alignment would be enough for one
strand; the interval is also the same on the reverse strand.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from dnabert2_jax.data.sequences import reverse_complement
from dnabert2_jax.genome.letters import BASES

Status = Literal["ok", "ref_mismatch", "no_contig", "symbolic", "breakend", "star", "missing", "too_long", "n_in_span"]
"""The status of an allele: scored, or the reason why not."""

MEANINGS: dict[Status, str] = {
    "ok": "scored",
    "ref_mismatch": "REF is not what the FASTA file has there",
    "no_contig": "the FASTA file lacks the contig",
    "symbolic": "a symbolic allele such as <DEL>",
    "breakend": "a breakend",
    "star": "an allele that an upstream deletion removed",
    "missing": "no ALT, or text that is not an allele",
    "too_long": "the changed stretch is longer than --max-span, or lies in a repeat of more than 1,024 bases",
    "n_in_span": "an unknown base in the changed stretch",
}

LONGEST_REPEAT = 1024
"""Maximum distance in bases between equivalent representations of an indel."""

_ALLELE = re.compile("[ACGTNRYSWKMBDHV]*", re.IGNORECASE)
_KNOWN = bytes(code if code in BASES.encode() else ord("N") for code in bytes(range(256)).upper())
"""What each character is read as."""


class Genome(Protocol):
    """A source of bases: :class:`~dnabert2_jax.genome.reference.Reference`, or contigs in memory."""

    @property
    def lengths(self) -> Mapping[str, int]:
        """Bases of each contig."""
        ...

    def fetch(self, contig: str, start: int, end: int) -> str:
        """The letters of an interval, in either case."""
        ...


@dataclass(frozen=True, slots=True)
class Allele:
    """One ALT of a record.

    Attributes:
        contig: its name in the FASTA file; None if the file lacks it.
        position: first base of REF, from 0.
        ref: REF as written.
        alt: ALT as written; empty for a deletion without an anchor base.
    """

    contig: str | None
    position: int
    ref: str
    alt: str


@dataclass(frozen=True, slots=True)
class Window:
    """REF and ALT with their shared flanks.

    Attributes:
        left: bases before the interval in which the alleles differ, up to ``flank``; fewer at the start of a contig.
        ref: the interval in REF; for an indel, it includes all bases over which the indel can be shifted.
        alt: the interval in ALT.
        right: bases after it.
        start: first base of the interval in the contig, from 0.
    """

    left: str
    ref: str
    alt: str
    right: str
    start: int

    def moved(self, flank: int, offset: int) -> "Window":
        """A window of ``flank`` bases on either side, shifted right by ``offset`` bases; this one must be long enough."""
        left, right = flank - offset, flank + offset
        if len(self.left) <= left and len(self.right) <= right:
            return self
        return replace(self, left=self.left[max(0, len(self.left) - left) :], right=self.right[:right])


@dataclass(frozen=True, slots=True)
class View:
    """One strand of a window, with all the alleles that enter the score.

    For a substitution of one base, these are all four bases, so that scores at a site add up; otherwise REF and ALT.

    Attributes:
        left: bases before the interval.
        alleles: the interval in each allele.
        right: bases after the interval.
        ref: index of REF in ``alleles``.
        alt: index of ALT in ``alleles``.
    """

    left: str
    alleles: tuple[str, ...]
    right: str
    ref: int
    alt: int

    def window(self, number: int) -> str:
        """The whole window of an allele."""
        return self.left + self.alleles[number] + self.right

    def windows(self) -> list[str]:
        """The whole window of each allele."""
        return list(map(self.window, range(len(self.alleles))))


def unwritten(ref: str, alt: str) -> Status | None:
    """Why two alleles as written cannot be scored, regardless of the reference; None if they can."""
    if alt.startswith("<"):
        return "symbolic"
    if "[" in alt or "]" in alt or (len(alt) > 1 and (alt[0] == "." or alt[-1] == ".")):
        return "breakend"
    if alt == "*":
        return "star"
    if not ref or not _ALLELE.fullmatch(ref) or not _ALLELE.fullmatch(alt) or ref.upper() == alt.upper():
        return "missing"
    return None


def differs(genome: Genome, allele: Allele) -> str | None:
    """The FASTA file's bases at REF if a known base differs, else None; empty beyond the end of the contig."""
    assert allele.contig is not None
    end = allele.position + len(allele.ref)
    if allele.position < 0 or end > genome.lengths[allele.contig]:
        return ""
    found = known_letters(genome.fetch(allele.contig, allele.position, end))
    return found if _differ(known_letters(allele.ref), found) else None


def _differ(ref: str, found: str) -> bool:
    """Whether the two differ at any base that is known in both."""
    return ref != found and any(a != b for a, b in zip(ref, found, strict=True) if "N" not in (a, b))


def known_letters(text: str) -> str:
    """Upper case, with N for everything that is not A, C, G or T."""
    return text.encode("latin-1", "replace").translate(_KNOWN).decode("ascii")


def place(genome: Genome, allele: Allele, flank: int, max_span: int) -> Window | Status:
    """Trim an allele, find all its equivalent representations, and cut the window around them.

    Args:
        genome: the reference.
        allele: REF and ALT.
        flank: bases on either side.
        max_span: maximum length of an allele, in bases.

    Returns:
        The window, or the status of an allele that has none.
    """
    if (status := unwritten(allele.ref, allele.alt)) is not None:
        return status
    if allele.contig is None:
        return "no_contig"
    written, length = known_letters(allele.ref), genome.lengths[allele.contig]
    if allele.position < 0 or allele.position + len(written) > length:
        return "ref_mismatch"
    start, ref, alt = trimmed(allele.position, written, known_letters(allele.alt))
    end = start + len(ref)
    around = flank if ref and alt else flank + 2 * LONGEST_REPEAT
    first = max(0, min(allele.position, start - around))
    last = min(length, max(allele.position + len(written), end + around))
    bases = known_letters(genome.fetch(allele.contig, first, last))
    if _differ(written, bases[allele.position - first :][: len(written)]):
        return "ref_mismatch"
    if max(len(ref), len(alt)) > max_span:
        return "too_long"
    before, after = bases[: start - first], bases[end - first :]
    # Where the FASTA file has N, the record may give the base, but the reference is still treated as unknown.
    if "N" in bases[start - first : end - first]:
        ref = "".join("N" if known == "N" else base for base, known in zip(ref, bases[start - first :], strict=False))
    if not (ref and alt) and "N" not in ref + alt:  # unknown bases cannot be checked for repeats
        to_the_left, to_the_right = shifts(before, ref or alt, after)
        if to_the_left + to_the_right > LONGEST_REPEAT:
            return "too_long"
        shared_left, shared_right = before[len(before) - to_the_left :], after[:to_the_right]
        ref, alt = (shared_left + changed + shared_right for changed in (ref, alt))
        before, after = before[: len(before) - to_the_left], after[to_the_right:]
    return Window(before[max(0, len(before) - flank) :], ref, alt, after[:flank], first + len(before))


def trimmed(position: int, ref: str, alt: str) -> tuple[int, str, str]:
    """Position, REF and ALT without the common prefix and suffix of the alleles."""
    prefix = _common(ref, alt)
    ref, alt = ref[prefix:], alt[prefix:]
    suffix = _common(ref[::-1], alt[::-1])
    return position + prefix, ref[: len(ref) - suffix], alt[: len(alt) - suffix]


def _common(a: str, b: str) -> int:
    """Length of the common prefix."""
    shorter, length = min(len(a), len(b)), 0
    while length < shorter and a[length] == b[length]:
        length += 1
    return length


def shifts(before: str, inserted: str, after: str) -> tuple[int, int]:
    """How far an indel can be shifted to the left and to the right without changing the sequence.

    Args:
        before: bases before it.
        inserted: the bases that one of the alleles lacks.
        after: bases after it.
    """
    size = len(inserted)
    longer = before + inserted + after
    start = left = len(before)
    while left and longer[left - 1] == longer[left - 1 + size]:
        left -= 1
    right = start
    while right + size < len(longer) and longer[right] == longer[right + size]:
        right += 1
    return start - left, right - start


def view(window: Window, strand: Literal["+", "-"]) -> View:
    """One strand of a window."""
    left, right = window.left, window.right
    ref, alt = window.ref, window.alt
    if strand == "-":
        left, right = reverse_complement(right), reverse_complement(left)
        ref, alt = reverse_complement(ref), reverse_complement(alt)
    if len(ref) == len(alt) == 1 and ref in BASES and alt in BASES:
        return View(left, tuple(BASES), right, BASES.index(ref), BASES.index(alt))
    return View(left, (ref, alt), right, 0, 1)
