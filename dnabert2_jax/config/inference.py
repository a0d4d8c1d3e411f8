"""Choices that commands and functions share; importing them loads nothing heavy."""

from typing import Literal

Pooling = Literal["mean", "cls", "max", "token", "base"]
"""What an embedding represents.

``mean`` and ``max`` are over the tokens of the sequence ([CLS], [SEP] and padding excluded), ``cls`` is the hidden state of
[CLS]; ``token`` gives one vector per token, ``base`` one per base, that of its token.
"""

PER_TOKEN: tuple[Pooling, ...] = ("token", "base")
"""Poolings that give many vectors per sequence."""

LongSequences = Literal["windows", "cut"]
"""What happens to a sequence with too many tokens: read in overlapping windows, or truncated."""
