"""BERT masking (Devlin et al. 2019) with a fixed number of slots per row and no random state.

Which tokens of a record are masked, and what replaces them, is determined by a hash of (seed, record, position). The fixed
count keeps shapes static, so that only the masked positions are projected to the vocabulary.

Where tokens overlap, a masked token is given away by its neighbors, so spans of tokens are masked, as in DNABERT (Ji et al.
2021). A row is divided into spans from a random offset, and all spans, and hence all tokens, are equally likely to be
chosen, regardless of position. One draw decides what replaces a whole span (as in SpanBERT, Joshi et al. 2020): a single
token left unchanged would again give the others away.
"""

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.config.sections import MaskingConfig
from dnabert2_jax.draws import Domain, hash64, record_seeds, uniform
from dnabert2_jax.tokenizer.special import MASK, NUM_SPECIAL
from dnabert2_jax.types import MlmBatch, TokenBatch


def mask_rows(
    tokens: TokenBatch, config: MaskingConfig, *, seed: int, records: NDArray[np.int64], vocab_size: int
) -> MlmBatch:
    """Mask a batch of rows.

    Special tokens and ``[UNK]`` are never chosen, because there is nothing to learn from predicting them. In a row with
    fewer eligible tokens than a full one, a fraction ``rate`` of them is masked (at least one, if there are any), and the
    remaining slots get weight 0. On average a fraction ``rate`` of the spans is chosen, but at least one; row ends and
    ``[UNK]`` shorten some of them.

    Args:
        tokens: numpy rows, [B, T] each.
        config: rates and span length.
        seed: the run's seed.
        records: global record index of each row, [B].
        vocab_size: V, for random replacements.
    """
    ids = np.asarray(tokens.input_ids)
    slots, span = config.slots(ids.shape[1]), config.span_tokens or 1
    eligible = ids >= NUM_SPECIAL
    offset = (hash64(seed, Domain.MASK_SPAN_OFFSET, records) % np.uint64(span)).astype(np.int64)
    spans = (np.arange(ids.shape[1])[None] + offset[:, None]) // span

    # The smallest hashes in a row are a uniform choice without replacement; ineligible tokens sort last, and the tokens of a
    # span have the same hash and stay together.
    order = hash64(seed, Domain.MASK_ORDER, records[:, None], spans)
    order = np.where(eligible, order >> np.uint64(1), np.iinfo(np.uint64).max)
    ranked = np.argsort(order, axis=1, kind="stable")
    order = np.take_along_axis(order, ranked, 1)
    eligible = np.take_along_axis(eligible, ranked, 1)
    rank = np.cumsum(np.diff(order, axis=1, prepend=order[:, :1]) != 0, axis=1)  # rank of each token's span
    available = np.where(eligible, rank + 1, 0).max(1)  # spans
    if span == 1:
        wanted = np.where(available >= ids.shape[1] - 2, slots, np.ceil(config.rate * available))
    else:
        wanted = np.maximum(1, np.floor(config.rate * available + uniform(seed, Domain.MASK_SPAN_COUNT, records)))
    positions = ranked[:, :slots]
    used = (eligible & (rank < wanted[:, None]))[:, :slots]
    positions = np.where(used, positions, 0)

    labels = np.take_along_axis(ids, positions, 1)
    draw = uniform(seed, Domain.MASK_REPLACEMENT, records[:, None], np.take_along_axis(spans, positions, 1))
    spread = np.uint64(vocab_size - NUM_SPECIAL)
    pieces = hash64(seed, Domain.MASK_RANDOM_PIECE, records[:, None], positions) % spread
    random_ids = pieces.astype(np.int32) + NUM_SPECIAL
    replacement = np.where(draw < config.mask_share, MASK, labels)
    random_piece = (draw >= config.mask_share) & (draw < config.mask_share + config.random_share)
    replacement = np.where(random_piece, random_ids, replacement).astype(np.int32)

    # Unused slots all point to position 0 and write what is already there.
    masked = ids.copy()
    np.put_along_axis(masked, positions, np.where(used, replacement, labels), 1)
    return MlmBatch(
        tokens._replace(input_ids=masked),
        positions.astype(np.int32),
        labels.astype(np.int32),
        used.astype(np.float32),
        record_seeds(seed, records),
    )
