"""Views of a row: the same bases read in different ways, to average predictions (test-time augmentation).

The first view is the row as given, the second its reverse complement; further views alternate between the strands and use
other tokenizations. Averaging removes effects of the strand and of token boundaries.
"""

from collections.abc import Iterator

from dnabert2_jax.data.sequences import Sequences, other_strand
from dnabert2_jax.errors import UserError
from dnabert2_jax.tokenizer.base import Tokenizer
from dnabert2_jax.tokenizer.bpe import BpeTokenizer
from dnabert2_jax.tokenizer.dropout import BpeDropout

DROPOUT = 0.1
"""Fraction of merges to drop, as Provilkov et al. (2020) recommend."""

_SEED = 0
_STRANDS = 2


def views_of(sequences: Sequences, tokenizer: Tokenizer, count: int) -> Iterator[tuple[Sequences, Tokenizer]]:
    """The sequences and tokenizer of each view; the views of a row do not depend on other rows.

    Args:
        sequences: the rows.
        tokenizer: the model's tokenizer.
        count: views per row, at least 1.

    Raises:
        UserError: fewer than one, or more than two for a tokenizer without merges.
    """
    if count < 1:
        raise UserError(f"views {count} is out of range; a row is read once or more")
    strands = (sequences, other_strand(sequences)) if count > 1 else (sequences,)
    for number in range(count):
        yield strands[number % _STRANDS], tokenizer if number < _STRANDS else other_segmentation(tokenizer, number)


def other_segmentation(tokenizer: Tokenizer, number: int) -> BpeDropout:
    """A tokenizer that segments bases differently: it drops random merges, as determined by the bases.

    Args:
        tokenizer: the model's tokenizer.
        number: the number of the segmentation.

    Raises:
        UserError: the tokenizer has no merges.
    """
    if not isinstance(tokenizer, BpeTokenizer):
        raise UserError(
            "other segmentations leave out merges of byte pairs, and this model reads k-mers; use --views 2 at most"
        )
    return BpeDropout(tokenizer, DROPOUT, seed=_SEED, epoch=number, by_letters=True)
