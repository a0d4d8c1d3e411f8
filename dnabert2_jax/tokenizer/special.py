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
    parts = [[CLS], ids_a, [SEP]] if ids_b is None else [[CLS], ids_a, [SEP], ids_b, [SEP]]
    return np.concatenate([np.asarray(part, np.int32) for part in parts])
