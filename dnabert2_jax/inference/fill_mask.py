"""Predictions of a masked language model for masked tokens."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.data.packing import padded_width
from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.letters import clean_letters
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.tokenizer.base import Tokenizer
from dnabert2_jax.tokenizer.special import MASK, PAD, SPECIAL_TOKENS, with_template
from dnabert2_jax.types import TokenBatch

_MASK_TEXT = SPECIAL_TOKENS[MASK]


@dataclass(frozen=True)
class MaskedToken:
    """One masked token and the model's predictions for it.

    Attributes:
        start: its first base, from 0; a ``[MASK]`` in the text counts as no bases.
        end: one past its last base; equal to ``start`` for a ``[MASK]``, whose length is unknown.
        original: the piece that was masked; None for a ``[MASK]``.
        candidates: the most probable pieces and their probabilities, best first; special tokens by their names.
    """

    start: int
    end: int
    original: str | None
    candidates: list[tuple[str, float]]


def fill_mask(
    model: InferenceModel, sequence: str, ranges: Sequence[tuple[int, int]] = (), *, top_k: int = 5
) -> list[MaskedToken]:
    """Predict all masked tokens of a sequence in one pass, from the tokens that are not masked.

    Args:
        model: a masked language model.
        sequence: DNA; each ``[MASK]`` in it stands for one token of unknown length, and the text between two of them is
            tokenized on its own.
        ranges: or, for a sequence without ``[MASK]``, ranges of bases (start, end), from 0, end excluded. Every token that
            overlaps a range is masked whole.
        top_k: candidates per masked token.

    Returns:
        The masked tokens in the order of the sequence.

    Raises:
        UserError: not a masked language model, a letter that is not DNA, nothing to mask, both ``[MASK]`` and ranges, a
            range outside the sequence, or ``top_k`` out of range.
    """
    model.need("masked_lm", "filling masks", "use the model directory of `dnabert2 pretrain`")
    if not 1 <= top_k <= model.tokenizer.vocab_size:
        raise UserError(f"top_k {top_k} is out of range; accepted are 1 to {model.tokenizer.vocab_size}")
    raw = _with_masks(model.tokenizer, sequence)
    originals = raw.copy()
    if ranges:
        if MASK in raw:
            raise UserError(f"the sequence contains {_MASK_TEXT} and ranges were given, too; use one of the two")
        raw[_covered(model.tokenizer, raw, ranges)] = MASK
    masked = np.flatnonzero(raw == MASK)
    if not len(masked):
        raise UserError(f"nothing is masked; write {_MASK_TEXT} into the sequence, or give a range of bases (--mask 11-20)")
    best, probabilities = _candidates(model, with_template(raw), masked + 1, top_k)

    lengths = model.tokenizer.token_bases(originals)
    ends = np.cumsum(lengths)
    pieces = model.tokenizer.pieces
    return [
        MaskedToken(
            start=int(ends[at] - lengths[at]),
            end=int(ends[at]),
            original=pieces[originals[at]] if originals[at] != MASK else None,
            candidates=[(pieces[token], float(p)) for token, p in zip(tokens, values, strict=True)],
        )
        for at, tokens, values in zip(masked, best, probabilities, strict=True)
    ]


def _with_masks(tokenizer: Tokenizer, sequence: str) -> NDArray[np.int32]:
    """Raw ids of the text, including [MASK]."""
    if not sequence:
        raise UserError("the sequence is empty; give DNA")
    # Each mask is replaced by as many letters as it has characters, so that positions in error messages are correct.
    text = sequence.replace(_MASK_TEXT, "N" * len(_MASK_TEXT))
    clean = clean_letters(text, source="fill-mask", record="sequence")[0].tobytes().decode("ascii")
    ids: list[int] = []
    start = 0
    for part in sequence.split(_MASK_TEXT):
        if start:
            ids.append(MASK)
        ids += tokenizer.encode_raw(clean[start : start + len(part)]) if part else []
        start += len(part) + len(_MASK_TEXT)
    return np.array(ids, np.int32)


def _covered(tokenizer: Tokenizer, ids: NDArray[np.int32], ranges: Sequence[tuple[int, int]]) -> NDArray[np.bool_]:
    """Whether each token overlaps one of the ranges."""
    lengths = tokenizer.token_bases(ids)
    ends = np.cumsum(lengths)
    begins = ends - lengths
    covered = np.zeros(len(ids), bool)
    for start, end in ranges:
        if not 0 <= start < end <= ends[-1]:
            raise UserError(
                f"bases {start + 1}-{end} (counted from 1) are not a range of this sequence, which has {ends[-1]:,} bases"
            )
        covered |= (begins < end) & (ends > start)
    return covered


def _candidates(
    model: InferenceModel, row: NDArray[np.int32], positions: NDArray[np.int64], top_k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The best ids at each position and their probabilities, [positions, top_k] each."""
    width, count = padded_width(len(row)), 1 << (len(positions) - 1).bit_length()
    input_ids = np.pad(row, (0, width - len(row)), constant_values=PAD)[None]
    segments = (np.arange(width) < len(row)).astype(np.int32)[None]
    tokens = TokenBatch(input_ids, segments, np.zeros_like(segments))
    slots = np.pad(positions, (0, count - len(positions))).astype(np.int32)[None]
    values = model.predictor.token_probabilities(tokens, slots)[0, : len(positions)]
    best = np.argsort(-values, axis=-1, kind="stable")[:, :top_k]
    return best, np.take_along_axis(values, best, axis=-1)


def parse_range(text: str) -> tuple[int, int]:
    """Convert a range as users write it (``11-20`` or ``11``: from 1, both ends included) to Python's: (10, 20).

    Raises:
        UserError: not of this form.
    """
    match = re.fullmatch(r"\s*([0-9]+)\s*(?:-\s*([0-9]+)\s*)?", text)
    start, end = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= start <= end:
        raise UserError(f"{text!r} is not a range of bases; accepted are START-END and POSITION, from 1, as in 11-20")
    return start - 1, end
