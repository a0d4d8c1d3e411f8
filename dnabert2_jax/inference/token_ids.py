"""A model's outputs for given token ids: arrays in, arrays out, in the conventions of the original model."""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray

from dnabert2_jax.config.model import EncoderConfig
from dnabert2_jax.errors import UserError
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.inference.predictor import Forward, memory_explained
from dnabert2_jax.modeling.models import masked_lm
from dnabert2_jax.types import TokenBatch, Tree

Output = Literal["hidden_states", "mlm_logits", "pooled", "class_logits"]
"""Hidden states of the last block [B, T, D], zero at padding as in the original; MLM logits at every position [B, T, V]; the
input of the classification head [B, D]; class logits [B, C]."""

_NEEDS: dict[Output, tuple[Literal["masked_lm", "classifier"], str, str]] = {
    "mlm_logits": ("masked_lm", "an MLM head", "load a pretrained model"),
    "pooled": ("classifier", "a pooler", "train one with `dnabert2 finetune`"),
    "class_logits": ("classifier", "a classification head", "train one with `dnabert2 finetune`"),
}


class TokenIdOutputs:
    """Outputs for whole batches: rows are computed together, and each new shape is compiled.

    Args:
        model: the model.
    """

    def __init__(self, model: InferenceModel) -> None:
        self._model = model
        forward = model.predictor.forward

        def compute(output: Output, params: Tree, tokens: TokenBatch) -> jax.Array:
            return forward.divided(partial(_compute, forward, output))(params, tokens)

        self._jitted = jax.jit(compute, static_argnums=0)

    def __call__(self, output: Output, tokens: TokenBatch) -> NDArray[np.float32]:
        """One of the outputs for a batch from :func:`token_batch`.

        Raises:
            UserError: the model lacks the head for it, or out of memory.
        """
        if output in _NEEDS:
            self._model.need(*_NEEDS[output])
        with memory_explained():
            return np.asarray(self._jitted(output, self._model.predictor.params, tokens))


def _compute(forward: Forward, output: Output, params: Tree, tokens: TokenBatch) -> jax.Array:
    if output == "pooled":
        return forward.classifier.bind(params).features(tokens)[:, 0]
    if output == "class_logits":
        return forward.classifier.bind(params).logits(tokens)
    if output == "hidden_states":
        return _without_padding(forward.encoder.bind(params["encoder"])(tokens).astype(jnp.float32), tokens)
    model = masked_lm(forward.config, forward.compute).bind(params)
    return model.mlm(_without_padding(model.encoder(tokens), tokens), model.encoder.embeddings.word[...])


def _without_padding(hidden: jax.Array, tokens: TokenBatch) -> jax.Array:
    return jnp.where(tokens.segment_ids[:, :, None] > 0, hidden, jnp.zeros((), hidden.dtype))


def token_batch(
    config: EncoderConfig, input_ids: ArrayLike, attention_mask: ArrayLike | None, token_type_ids: ArrayLike | None
) -> TokenBatch:
    """A batch from the three input arrays of the original model.

    Args:
        config: sizes of the encoder.
        input_ids: token ids, [B, T].
        attention_mask: 1 at tokens, 0 at padding, [B, T]; no padding if omitted.
        token_type_ids: 0 for the first sequence of a pair, 1 for the second, [B, T]; zeros if omitted.

    Raises:
        UserError: an array is not of integers, has a different shape, or is out of range.
    """
    ids = _integers("input_ids", input_ids, config.vocab_size)
    if ids.ndim != 2 or not ids.size:
        raise UserError(f"input_ids has the shape {ids.shape}; accepted is [batch, tokens], with one or more of each")
    mask = np.ones_like(ids) if attention_mask is None else _integers("attention_mask", attention_mask, 2)
    types = np.zeros_like(ids)
    if token_type_ids is not None:
        types = _integers("token_type_ids", token_type_ids, config.type_vocab_size)
    for name, array in (("attention_mask", mask), ("token_type_ids", types)):
        if array.shape != ids.shape:
            raise UserError(f"{name} has the shape {array.shape}, input_ids {ids.shape}; they must be the same")
    return TokenBatch(ids, mask, types)


def _integers(name: str, values: ArrayLike, below: int) -> NDArray[np.int32]:
    array: NDArray[Any] = np.asarray(values)
    if array.dtype == bool:
        array = array.astype(np.int32)
    if not np.issubdtype(array.dtype, np.integer):
        raise UserError(f"{name} holds {array.dtype}; accepted are integers from 0 to {below - 1}")
    outside = array[(array < 0) | (array >= below)]
    if outside.size:
        raise UserError(f"{name} holds {outside[0]}; accepted are integers from 0 to {below - 1}")
    return array.astype(np.int32)
