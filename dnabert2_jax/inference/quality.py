"""Sequences whose predictions are doubtful: very short, mostly unknown, or outside the range of training lengths."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from dnabert2_jax.data.encoding import EncodedSequences
from dnabert2_jax.data.sequences import Sequences
from dnabert2_jax.tokenizer.special import NUM_SPECIAL, UNK

SHORT_BASES = 10
"""Sequences with fewer bases are too short: they have a handful of tokens at most."""

TOO_SHORT, MOSTLY_UNK = "too_short", "mostly_unk"
SHORTER, LONGER = "shorter_than_training", "longer_than_training"


def notes_on(sequences: Sequences, encoded: EncodedSequences, training_data: Mapping[str, Any] | None) -> list[str]:
    """Reasons to doubt the prediction for each sequence (or pair), joined by ``;``; empty if there are none.

    Args:
        sequences: the sequences.
        encoded: the same as token rows.
        training_data: from the model's provenance; if None, lengths are not checked.
    """
    first_rows = np.cumsum(encoded.windows) - encoded.windows
    ids = np.concatenate(encoded.input_ids)
    first_tokens = (np.cumsum(encoded.lengths) - encoded.lengths)[first_rows]
    unknown, known = (np.add.reduceat(kind, first_tokens, dtype=int) for kind in (ids == UNK, ids >= NUM_SPECIAL))
    bases = np.array(sequences.row_bases())
    shortest, longest = (training_data[end] for end in ("shortest", "longest")) if training_data else (0, np.inf)
    applies = {
        TOO_SHORT: bases < SHORT_BASES,
        MOSTLY_UNK: unknown > known,
        SHORTER: bases < shortest,
        LONGER: bases > longest,
    }
    notes = [""] * len(bases)
    for row in np.flatnonzero(np.any(list(applies.values()), axis=0)).tolist():
        notes[row] = ";".join(note for note, rows in applies.items() if rows[row])
    return notes


def count_notes(notes: list[str]) -> Counter[str]:
    """The number of sequences with each note."""
    return Counter(note for own in notes for note in own.split(";") if note)


def doubts_in(counts: Mapping[str, int], training_data: Mapping[str, Any] | None) -> str | None:
    """One line about doubtful sequences, for the terminal; None if there are none.

    Args:
        counts: by note, see :func:`count_notes`.
        training_data: from the model's provenance.
    """
    words = {TOO_SHORT: f"shorter than {SHORT_BASES} bases", MOSTLY_UNK: "mostly [UNK]"}
    if training_data:
        words[SHORTER] = f"shorter than any training row ({training_data['shortest']:,} bases)"
        words[LONGER] = f"longer than any training row ({training_data['longest']:,} bases)"
    found = [f"{counts[note]:,} {text}" for note, text in words.items() if counts.get(note)]
    return f"doubtful predictions (column note): {', '.join(found)}" if found else None
