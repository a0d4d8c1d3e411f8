"""The choices that commands and functions share; importing them loads nothing heavy."""

from typing import Literal

Pooling = Literal["mean", "cls", "max", "token", "base"]
"""What an embedding stands for.

``mean`` and ``max`` run over the tokens of the sequence ([CLS], [SEP] and padding left out), ``cls`` is the hidden state of
[CLS]; ``token`` gives one vector a token, ``base`` one a base, that of its token.
"""

LongSequences = Literal["windows", "cut"]
"""What happens to a sequence of too many tokens: read in overlapping windows, or cut at the end."""
