"""Log-probabilities of a masked language model at masked positions."""

from collections.abc import Iterator

import jax
import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.data.batches import Batches, EncodedBatch
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.inference.predictor import run_batches
from dnabert2_jax.tokenizer.special import MASK

_LEAST_SLOTS = 8
_WORTH_A_GROUP = 64


def log_probabilities_at_masks(model: InferenceModel, batches: Batches) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The index of each input and the log-probabilities at its masks, [masks, V], in the order of the batches.

    Args:
        model: a masked language model.
        batches: the inputs, one per row.

    Raises:
        UserError: out of memory.
    """
    for numbers, masks, values in _by_batch(model, batches):
        for number, count, own in zip(numbers.tolist(), masks, values, strict=True):
            yield number, own[:count]


def log_probabilities_of_groups(
    model: InferenceModel, batches: Batches
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.float32]]]:
    """As :func:`log_probabilities_at_masks`, for groups of inputs with equal numbers of masks.

    Yields:
        The indices of the inputs, [R], and the log-probabilities, [R, masks, V].
    """
    waiting: dict[int, list[tuple[NDArray[np.int32], NDArray[np.float32]]]] = {}

    def group(count: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        numbers, values = zip(*waiting.pop(count), strict=True)
        return np.concatenate(numbers), np.concatenate(values)

    for numbers, masks, values in _by_batch(model, batches):
        for count in np.unique(masks).tolist():
            parts = waiting.setdefault(count, [])
            parts.append((numbers[masks == count], values[masks == count, :count]))
            if sum(len(some) for some, _ in parts) >= _WORTH_A_GROUP:
                yield group(count)
    for count in list(waiting):
        yield group(count)


def _by_batch(
    model: InferenceModel, batches: Batches
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.float32]]]:
    """For each batch: indices of its inputs [R], their mask counts [R], log-probabilities at K positions [R, K, V]."""
    forward, params = model.predictor.forward, model.predictor.params

    def log_probabilities(batch: EncodedBatch) -> jax.Array:
        return forward.token_log_probabilities(params, batch.tokens, _mask_positions(batch.tokens.input_ids))

    for batch, values in run_batches(log_probabilities, batches, None):
        numbers = batch.rows[:, 0]
        masks = np.count_nonzero(batch.tokens.input_ids == MASK, axis=1)
        yield numbers[numbers >= 0], masks[numbers >= 0], values[numbers >= 0]


def _mask_positions(input_ids: NDArray[np.int32]) -> NDArray[np.int32]:
    """Positions of the masks of each row, padded with zeros to one of a few lengths K. [B, K]."""
    masked = input_ids == MASK
    most = max(_LEAST_SLOTS, int(masked.sum(1).max()))
    order = np.argsort(~masked, axis=1, kind="stable")[:, : 1 << (most - 1).bit_length()]
    return np.where(np.take_along_axis(masked, order, 1), order, 0).astype(np.int32)
