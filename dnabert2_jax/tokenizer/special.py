"""The five special tokens, and the templates that place them around sequences.

Ids and templates are those of the released DNABERT-2 tokenizer and are shared by all tokenizers here.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

UNK, CLS, SEP, PAD, MASK = range(5)
SPECIAL_TOKENS = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")
NUM_SPECIAL = len(SPECIAL_TOKENS)

Ids = Sequence[int] | NDArray[np.int32]


def with_template(ids_a: Ids, ids_b: Ids | None = None) -> NDArray[np.int32]:
    """``[CLS] A [SEP]``, or ``[CLS] A [SEP] B [SEP]`` for a pair.

    Args:
        ids_a: raw token ids of the (first) sequence, shape [tokens].
        ids_b: raw token ids of the second sequence of a pair.

    Returns:
        Shape [tokens of A + 2], or [tokens of A + tokens of B + 3].
    """
    pair = 0 if ids_b is None else len(ids_b) + 1
    row = np.empty(len(ids_a) + pair + 2, np.int32)
    row[0], row[-1] = CLS, SEP
    row[1 : len(ids_a) + 1] = ids_a
    if ids_b is not None:
        row[len(ids_a) + 1] = SEP
        row[len(ids_a) + 2 : -1] = ids_b
    return row
