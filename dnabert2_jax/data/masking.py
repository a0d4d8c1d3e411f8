"""BERT's masking (Devlin et al. 2019) with a fixed number of slots a row and no random state.

Which tokens of a record are masked, and what replaces them, is a hash of (seed, record, position). A fixed count keeps
shapes static, so only the masked positions need to meet the vocabulary projection.
"""

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from dnabert2_jax.config import STRICT
from dnabert2_jax.hashing import hash64, record_seeds, uniform
from dnabert2_jax.tokenizer.special import MASK, NUM_SPECIAL
from dnabert2_jax.types import MlmBatch, TokenBatch


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MaskingConfig:
    """Which tokens a model has to guess.

    Attributes:
        rate: share of a row's tokens to predict.
        mask_share: of those, share replaced by ``[MASK]``.
        random_share: of those, share replaced by a random piece; the rest stay as they are.
    """

    rate: float = Field(default=0.15, gt=0, lt=1)
    mask_share: float = Field(default=0.8, ge=0, le=1)
    random_share: float = Field(default=0.1, ge=0, le=1)

    def __post_init__(self) -> None:
        if self.mask_share + self.random_share > 1:
            raise ValueError(f"mask_share {self.mask_share} and random_share {self.random_share} add up to more than 1")

    def slots(self, tokens: int) -> int:
        """K, the masked positions of a row of ``tokens`` tokens of which two are ``[CLS]`` and ``[SEP]``."""
        return max(1, round(self.rate * (tokens - 2)))


def mask_rows(
    tokens: TokenBatch, config: MaskingConfig, *, seed: int, records: NDArray[np.int64], vocab_size: int
) -> MlmBatch:
    """Mask a batch of rows.

    Special tokens and ``[UNK]`` are never chosen: there is nothing to learn from guessing them. A row with fewer eligible
    tokens than a full one gets ``rate`` of what it has (at least one, if any), and weight 0 in the slots left over.

    Args:
        tokens: numpy rows, [B, T] each.
        config: rates.
        seed: the run's seed.
        records: global record index of each row, [B].
        vocab_size: V, for random replacements.
    """
    ids = np.asarray(tokens.input_ids)
    slots = config.slots(ids.shape[1])
    eligible = ids >= NUM_SPECIAL
    index = np.arange(ids.shape[1])[None]

    # The K smallest hashes of a row are a uniform choice without replacement; ineligible tokens sort last.
    order = hash64(seed, 1, records[:, None], index)
    order = np.where(eligible, order >> np.uint64(1), np.iinfo(np.uint64).max)
    positions = np.argpartition(order, slots - 1, axis=1)[:, :slots]
    positions = np.take_along_axis(positions, np.argsort(np.take_along_axis(order, positions, 1), axis=1), 1)
    available = eligible.sum(1)
    wanted = np.where(available >= ids.shape[1] - 2, slots, np.ceil(config.rate * available)).astype(np.int64)
    used = np.arange(slots)[None] < wanted[:, None]
    positions = np.where(used, positions, 0)

    labels = np.take_along_axis(ids, positions, 1)
    draw = uniform(seed, 2, records[:, None], positions)
    spread = np.uint64(vocab_size - NUM_SPECIAL)
    random_ids = (hash64(seed, 3, records[:, None], positions) % spread).astype(np.int32) + NUM_SPECIAL
    replacement = np.where(draw < config.mask_share, MASK, labels)
    random_piece = (draw >= config.mask_share) & (draw < config.mask_share + config.random_share)
    replacement = np.where(random_piece, random_ids, replacement).astype(np.int32)

    # Unused slots all name position 0: each writes what stands there already.
    masked = ids.copy()
    np.put_along_axis(masked, positions, np.where(used, replacement, labels), 1)
    return MlmBatch(
        tokens._replace(input_ids=masked),
        positions.astype(np.int32),
        labels.astype(np.int32),
        used.astype(np.float32),
        record_seeds(seed, records),
    )
