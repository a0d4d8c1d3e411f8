"""Which tokens a masked language model must predict."""

import math

from pydantic import Field
from pydantic.dataclasses import dataclass

from dnabert2_jax.config.model import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MaskingConfig:
    """Which tokens the model must predict.

    Attributes:
        rate: fraction of a row's tokens to predict.
        mask_share: of those, the fraction replaced by ``[MASK]``.
        random_share: of those, the fraction replaced by random pieces; the rest are unchanged.
        span_tokens: tokens that are masked together. None: k for overlapping k-mers, otherwise 1.
    """

    rate: float = Field(default=0.15, gt=0, lt=1)
    mask_share: float = Field(default=0.8, ge=0, le=1)
    random_share: float = Field(default=0.1, ge=0, le=1)
    span_tokens: int | None = Field(default=None, ge=1)

    def __post_init__(self) -> None:
        if self.mask_share + self.random_share > 1:
            raise ValueError(f"mask_share {self.mask_share} and random_share {self.random_share} add up to more than 1")

    def slots(self, tokens: int) -> int:
        """K, the maximum number masked in a row of ``tokens`` tokens, two of which are ``[CLS]`` and ``[SEP]``."""
        span = self.span_tokens or 1
        if span == 1:
            return max(1, round(self.rate * (tokens - 2)))
        most_spans = 1 + -(-(tokens - 3) // span)  # if the first one begins with its last token
        return min(tokens - 2, span * math.ceil(self.rate * most_spans))
