"""Views of a row: readings of the same bases whose predictions are averaged.

The first is the row as it is, the second its reverse complement, and the others, on either strand in turn, are segmentations
into other tokens. Averaging over them takes away what depends on a strand or on where tokens happen to end.
"""

from collections.abc import Iterator

from dnabert2_jax.data.sequences import Sequences, other_strand
from dnabert2_jax.errors import UserError
from dnabert2_jax.tokenizer.base import Tokenizer
from dnabert2_jax.tokenizer.bpe import BpeTokenizer
from dnabert2_jax.tokenizer.dropout import BpeDropout

DROPOUT = 0.1
"""Share of merges that a segmentation leaves out, as Provilkov et al. (2020) recommend."""

_SEED = 0
_STRANDS = 2


def views_of(sequences: Sequences, tokenizer: Tokenizer, count: int) -> Iterator[tuple[Sequences, Tokenizer]]:
    """What to read, and what to read it with. A row has the same views in any company.

    Args:
        sequences: the rows.
        tokenizer: the model's.
        count: views of a row, at least 1.

    Raises:
        UserError: fewer than one, or more than two for a tokenizer that merges nothing.
    """
    if count < 1:
        raise UserError(f"views {count} is out of range; a row is read once or more")
    strands = (sequences, other_strand(sequences)) if count > 1 else (sequences,)
    for number in range(count):
        yield strands[number % _STRANDS], tokenizer if number < _STRANDS else other_segmentation(tokenizer, number)


def other_segmentation(tokenizer: Tokenizer, number: int) -> BpeDropout:
    """A tokenizer that reads the same bases as other tokens: merges are left out at random, as decided by the bases.

    Args:
        tokenizer: the model's.
        number: which of all segmentations.

    Raises:
        UserError: the tokenizer merges nothing.
    """
    if not isinstance(tokenizer, BpeTokenizer):
        raise UserError(
            "other segmentations leave out merges of byte pairs, and this model reads k-mers; use --views 2 at most"
        )
    return BpeDropout(tokenizer, DROPOUT, seed=_SEED, epoch=number, by_letters=True)
