"""Encoded tables made of nothing but lengths."""

import numpy as np
from hypothesis import strategies as st

from dnabert2_jax.data.encoding import EncodedTable
from dnabert2_jax.tokenizer.special import CLS, SEP

row_lengths = st.lists(st.integers(3, 70), min_size=1, max_size=90)


def encoded_table(rows, labels, first_tokens=None) -> EncodedTable:
    """A table of whole rows; by default all tokens are of type 0."""
    sizes = np.array([len(row) for row in rows], np.int32)
    first = sizes if first_tokens is None else first_tokens
    ones, zeros = np.ones(len(rows), np.int64), np.zeros(len(rows), np.int64)
    return EncodedTable(rows, first, ones, sizes, zeros, int(sizes.max()), labels)


def rows_of(lengths: list[int]) -> EncodedTable:
    """Rows of the given numbers of tokens; the first id after CLS is the row's number, so a row can be told from others."""
    ids = [np.array([CLS, 9 + row, *[5] * (n - 3), SEP], np.int32) for row, n in enumerate(lengths)]
    return encoded_table(ids, np.arange(len(lengths), dtype=np.int32) % 2)
