"""Input sequences for all methods: checked, read from intervals, mutated."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.config.model import DEFAULT_MAX_TOKENS
from dnabert2_jax.data.intervals import Intervals, letters_of
from dnabert2_jax.data.sequences import Sequences
from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.letters import BASES, LetterCounts
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.tokenizer.base import worthwhile_threads

Ids = NDArray[np.int32]


def tokens_of(model: InferenceModel, sequences: Sequences, max_tokens: int | None) -> list[Ids]:
    """The ids of each sequence without special tokens, [tokens] each.

    Args:
        model: the model.
        sequences: single sequences.
        max_tokens: maximum tokens of a sequence, special tokens included; by default as in the classifier's training, or 512
            for a masked language model.

    Raises:
        UserError: pairs, a sequence that is too long, or one without a known base.
    """
    if sequences.pairs is not None:
        raise UserError(
            f"{sequences.source} holds pairs, but one sequence is explained at a time; choose one of the two columns "
            "(--sequence-column sequence1)"
        )
    most = max_tokens or (model.head.max_tokens if model.kind == "classifier" else DEFAULT_MAX_TOKENS)
    threads = worthwhile_threads(sum(map(len, sequences.sequences)))
    encoded = model.tokenizer.encode_raw_batch(sequences.sequences, num_threads=threads)
    for n, (letters, ids) in enumerate(zip(sequences.sequences, encoded, strict=True)):
        if not set(letters) & set(BASES):
            raise UserError(
                f"{sequences.where(n)}: {len(letters):,} bases, none of them A, C, G or T: there is nothing to explain; "
                "choose another region"
            )
        if len(ids) + 2 > most:
            raise UserError(
                f"{sequences.where(n)}: {len(letters):,} bases are {len(ids) + 2:,} tokens, over the {most:,} that are "
                "explained as a whole; cut the sequence into windows, or raise --max-tokens (max_tokens=)"
            )
    return encoded


def read_intervals(intervals: Intervals) -> tuple[Sequences, dict[str, Any]]:
    """The sequences of all intervals, and their coordinates.

    Args:
        intervals: intervals with their genome; those on the minus strand are reverse-complemented.

    Returns:
        The sequences, named by their coordinates as genome browsers write them; and ``contigs``, ``starts``, ``ends``
        (0-based, half-open), ``strands`` and ``intervals`` (names). [intervals] each.

    Raises:
        UserError: an invalid interval or letter, or no intervals.
    """
    letters = LetterCounts()
    found = list(intervals)
    texts = [letters_of(intervals.reference, each, each.start, each.end, letters) for each in found]
    names = [f"{each.contig}:{each.start + 1:,}-{each.end:,}{' (-)' if each.reverse else ''}" for each in found]
    places = {
        "contigs": [each.contig for each in found],
        "starts": np.array([each.start for each in found], np.int64),
        "ends": np.array([each.end for each in found], np.int64),
        "strands": [each.strand for each in found],
        "intervals": [each.name for each in found],
    }
    return Sequences(intervals.source, names, texts, None, letters, notes=intervals.notes), places


def mutants(letters: str, site: int) -> tuple[str, str, str, str]:
    """A sequence with A, C, G and T at a site; one of them is the sequence itself."""
    a, c, g, t = (letters[:site] + base + letters[site + 1 :] for base in BASES)
    return a, c, g, t
