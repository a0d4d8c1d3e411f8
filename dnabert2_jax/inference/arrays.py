"""A model's outputs for token ids that somebody else made: arrays in, arrays out, with the original's conventions."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray

from dnabert2_jax.errors import UserError
from dnabert2_jax.inference.model import InferenceModel, memory_explained
from dnabert2_jax.modeling.models import masked_lm
from dnabert2_jax.types import TokenBatch, Tree


@dataclass(frozen=True)
class ArrayOutputs:
    """Jitted functions of whole batches: rows are computed together, and each new shape is compiled.

    Attributes:
        model: the model.
    """

    model: InferenceModel

    def hidden_states(self, tokens: TokenBatch) -> NDArray[np.float32]:
        """Hidden states of the last block, [B, T, D]; zeros at padding, as the original has them."""
        return self._run(self._hidden_states, tokens)

    def mlm_logits(self, tokens: TokenBatch) -> NDArray[np.float32]:
        """Logits of every position, [B, T, V].

        Raises:
            UserError: not a masked language model.
        """
        self.model.need("masked_lm", "an MLM head", "load a pretrained model")
        return self._run(self._mlm_logits, tokens)

    def pooled(self, tokens: TokenBatch) -> NDArray[np.float32]:
        """What the classification head reads: the pooler's tanh(dense(hidden state of [CLS])), or means, [B, D].

        Raises:
            UserError: not a classifier.
        """
        self.model.need("classifier", "a pooler", "train one with `dnabert2 finetune`")
        return self._run(self._pooled, tokens)

    def class_logits(self, tokens: TokenBatch) -> NDArray[np.float32]:
        """Logits of the classes, [B, C].

        Raises:
            UserError: not a classifier.
        """
        self.model.need("classifier", "a classification head", "train one with `dnabert2 finetune`")
        return self._run(self._class_logits, tokens)

    def check(self, input_ids: ArrayLike, attention_mask: ArrayLike | None, token_type_ids: ArrayLike | None) -> TokenBatch:
        """A batch of the three arrays that the original takes.

        Args:
            input_ids: token ids, [B, T].
            attention_mask: 1 at tokens, 0 at padding, [B, T]; no padding where left out.
            token_type_ids: 0 for the first sequence of a pair, 1 for the second, [B, T]; zeros where left out.

        Raises:
            UserError: not integers, of another shape, or out of range.
        """
        config = self.model.config
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

    def _run(self, function: Any, tokens: TokenBatch) -> NDArray[np.float32]:
        with memory_explained():
            return np.asarray(function(self.model.params, tokens))

    @cached_property
    def _hidden_states(self) -> Any:
        def hidden_states(params: Tree, tokens: TokenBatch) -> jax.Array:
            return _without_padding(self.model.hidden_states(params, tokens), tokens)

        return jax.jit(hidden_states)

    @cached_property
    def _mlm_logits(self) -> Any:
        network = masked_lm(self.model.config, self.model.compute)

        def mlm_logits(params: Tree, tokens: TokenBatch) -> jax.Array:
            model = network.bind(params)
            hidden = _without_padding(model.encoder(tokens), tokens)
            return model.mlm(hidden, model.encoder.embeddings.word[...])

        return jax.jit(mlm_logits)

    @cached_property
    def _pooled(self) -> Any:
        network = self.model.classifier

        def pooled(params: Tree, tokens: TokenBatch) -> jax.Array:
            return network.bind(params).features(tokens)[:, 0]

        return jax.jit(pooled)

    @cached_property
    def _class_logits(self) -> Any:
        network = self.model.classifier
        return jax.jit(lambda params, tokens: network.bind(params).logits(tokens))


def _without_padding(hidden: jax.Array, tokens: TokenBatch) -> jax.Array:
    return jnp.where(tokens.segment_ids[:, :, None] > 0, hidden, jnp.zeros((), hidden.dtype))


def _integers(name: str, values: ArrayLike, below: int) -> NDArray[np.int32]:
    array = np.asarray(values)
    if array.dtype == bool:
        array = array.astype(np.int32)
    if not np.issubdtype(array.dtype, np.integer):
        raise UserError(f"{name} holds {array.dtype}; accepted are integers from 0 to {below - 1}")
    outside = array[(array < 0) | (array >= below)]
    if outside.size:
        raise UserError(f"{name} holds {outside[0]}; accepted are integers from 0 to {below - 1}")
    return array.astype(np.int32)
