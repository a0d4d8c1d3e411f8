"""What a masked language model says at the masks of rows."""

from collections.abc import Iterator

import jax
import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.data.batches import Batches, EncodedBatch
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.inference.predictor import run_batches
from dnabert2_jax.tokenizer.special import MASK

_LEAST_SLOTS = 8


def log_probabilities_at_masks(model: InferenceModel, batches: Batches) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Each input's number with the log-probabilities at its masks, [masks, V], in the order of the batches.

    Args:
        model: a masked language model.
        batches: the inputs, one a row.

    Raises:
        UserError: out of memory.
    """
    forward, params = model.predictor.forward, model.predictor.params

    def log_probabilities(batch: EncodedBatch) -> jax.Array:
        return forward.token_log_probabilities(params, batch.tokens, _mask_positions(batch.tokens.input_ids))

    for batch, values in run_batches(log_probabilities, batches, None):
        masks = np.count_nonzero(batch.tokens.input_ids == MASK, axis=1)
        for row, number in enumerate(batch.rows[:, 0].tolist()):
            if number >= 0:
                yield number, values[row, : masks[row]]


def _mask_positions(input_ids: NDArray[np.int32]) -> NDArray[np.int32]:
    """Where the masks of each row are, then zeros. [B, K]; K is one of few numbers."""
    masked = input_ids == MASK
    most = max(_LEAST_SLOTS, int(masked.sum(1).max()))
    order = np.argsort(~masked, axis=1, kind="stable")[:, : 1 << (most - 1).bit_length()]
    return np.where(np.take_along_axis(masked, order, 1), order, 0).astype(np.int32)
