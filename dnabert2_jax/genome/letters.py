"""The alphabet and the letters policy: what a DNA sequence may contain, what is changed, and a count of every change.

The policy applies before any tokenizer, to all input (FASTA, tables, Python calls). Lower case is treated as soft-masking
and upper-cased; IUPAC ambiguity codes are kept (a tokenizer maps each to one ``[UNK]``; a corpus may split its windows
there instead); anything else is an error that names the file, record and position.
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.errors import UserError

BASES = "ACGT"

AMBIGUITY_CODES = "NRYSWKMBDHV"

COMPLEMENTS = ("ACGTRYSWKMBDHVN", "TGCAYRSWMKVHDBN")
"""All letters, and their complements at the same positions."""

_UPPER = np.arange(256, dtype=np.uint8)
_UPPER[ord("a") : ord("z") + 1] -= 32

_BASE, _AMBIGUOUS, _FORBIDDEN = 0, 1, 2
_KIND = np.full(256, _FORBIDDEN, np.uint8)
_KIND[np.frombuffer(b"ACGTacgt", np.uint8)] = _BASE
_KIND[np.frombuffer((AMBIGUITY_CODES + AMBIGUITY_CODES.lower()).encode(), np.uint8)] = _AMBIGUOUS

_CODE = np.full(256, -1, np.int8)
_CODE[np.frombuffer(BASES.encode(), np.uint8)] = range(len(BASES))

_REMEDIES = {
    "U": "this looks like RNA: write T for U",
    "-": "this looks like an alignment: remove the gaps",
    ".": "this looks like an alignment: remove the gaps",
    "X": "write N for a masked or unknown base",
    "[": "special tokens are not sequence; they are added by the tokenizer",
    **dict.fromkeys("EFIJLOPQZ*", "this looks like protein: give the DNA that encodes it"),
    **dict.fromkeys(" \t\r\n", "remove white space from the sequence"),
}


@dataclass
class LetterCounts:
    """Counts of letters, including those that were changed.

    Attributes:
        bases: number of all letters.
        lower_case: letters that were upper-cased.
        ambiguous: IUPAC codes by letter.
    """

    bases: int = 0
    lower_case: int = 0
    ambiguous: Counter[str] = field(default_factory=Counter)

    def add(self, other: "LetterCounts") -> None:
        """Add another sequence's counts to this one."""
        self.bases += other.bases
        self.lower_case += other.lower_case
        self.ambiguous.update(other.ambiguous)

    def changes(self) -> list[str]:
        """What the letters policy changed, for the terminal; often empty."""
        changed = [f"{self.lower_case:,} lower-case letters upper-cased"] if self.lower_case else []
        return changed + ([f"{self.ambiguous.total():,} ambiguity codes read as [UNK]"] if self.ambiguous else [])


def clean_letters(sequence: str | bytes, *, source: str, record: str) -> tuple[NDArray[np.uint8], LetterCounts]:
    """Apply the letters policy to one sequence.

    Args:
        sequence: letters as given.
        source: the file, for the error message; empty if ``record`` is sufficient.
        record: record name or row number, for the error message.

    Returns:
        Upper-case ASCII codes from ``ACGT`` and the ambiguity codes, shape [bases], and the counts.

    Raises:
        UserError: at the first letter that is neither a base nor an IUPAC code.
    """
    # Characters outside Latin-1 become "?", which is forbidden like any other symbol.
    raw = np.frombuffer(sequence.encode("latin-1", "replace") if isinstance(sequence, str) else sequence, np.uint8)
    kind = _KIND[raw]
    counts = LetterCounts(bases=len(raw))
    if kind.any():
        forbidden = np.flatnonzero(kind == _FORBIDDEN)
        if forbidden.size:
            position = int(forbidden[0])
            letter = sequence[position] if isinstance(sequence, str) else chr(sequence[position])
            where = f"{source}, {record}" if source else record
            raise UserError(
                f"{where}, position {position + 1}: {letter!r} is not a DNA letter; accepted are A C G T and the "
                f"IUPAC codes {' '.join(AMBIGUITY_CODES)} in either case"
                + (f"; {_REMEDIES[letter.upper()]}" if letter.upper() in _REMEDIES else "")
            )
        letters, numbers = np.unique(_UPPER[raw[kind == _AMBIGUOUS]], return_counts=True)
        counts.ambiguous.update({chr(a): int(n) for a, n in zip(letters, numbers, strict=True)})
    clean = _UPPER[raw]
    counts.lower_case = int(np.count_nonzero(clean != raw))
    return clean, counts


def base_codes(letters: str) -> NDArray[np.int8]:
    """The index in ``ACGT`` of each letter of clean text, -1 for an IUPAC code or any other symbol. [L]."""
    return _CODE[np.frombuffer(letters.encode("ascii"), np.uint8)]
