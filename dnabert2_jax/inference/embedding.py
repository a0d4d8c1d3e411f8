"""Embeddings: the encoder's hidden states, for whole sequences, for tokens or for bases."""

from dataclasses import dataclass
from typing import get_args

import jax
import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.config.inference import Pooling
from dnabert2_jax.data.packing import PackedBatch, pack
from dnabert2_jax.data.sequences import Sequences
from dnabert2_jax.errors import UserError, nearest
from dnabert2_jax.inference.encoding import encode_rows
from dnabert2_jax.inference.model import InferenceModel, default_batch_tokens, run_batches
from dnabert2_jax.tokenizer.base import Tokenizer


@dataclass(frozen=True)
class Embeddings:
    """Embeddings in the order of the input, float32.

    Attributes:
        pooling: what a vector stands for.
        names: name of each sequence.
        token_ids: ids of each sequence's own tokens, without [CLS] and [SEP]. [tokens] each.
        vectors: [sequences, D] for ``mean``, ``cls`` and ``max``; for ``token`` and ``base`` the vectors of all sequences
            one after the other, [all tokens, D] or [all bases, D].
        offsets: where each sequence's vectors begin in ``vectors``, and at the end their number. [sequences + 1].
    """

    pooling: Pooling
    names: list[str]
    token_ids: list[NDArray[np.int32]]
    vectors: NDArray[np.float32]
    offsets: NDArray[np.int64]

    def split(self) -> list[NDArray[np.float32]]:
        """The vectors of each sequence, [vectors of the sequence, D] each."""
        return np.split(self.vectors, self.offsets[1:-1])


def embed(
    model: InferenceModel,
    sequences: Sequences,
    pooling: Pooling = "mean",
    *,
    batch_tokens: int | None = None,
    title: str | None = None,
) -> Embeddings:
    """Embed sequences; batches are made by length, results come in the order of the input.

    An embedding does not depend on the other sequences but for rounding: in float32 the same sequence in another batch
    differs by about 1e-6 where values are of order 1. Sequences of any length are embedded whole.

    Args:
        model: any model; its heads are not used.
        sequences: single sequences (no pairs).
        pooling: see :data:`~dnabert2_jax.config.inference.Pooling`.
        batch_tokens: tokens of a batch; by default 4,096 on a CPU, 65,536 elsewhere.
        title: shows progress.

    Raises:
        UserError: pairs, an unknown pooling, or not enough memory.
    """
    if pooling not in get_args(Pooling):
        accepted = get_args(Pooling)
        raise UserError(f"pooling {pooling!r} is unknown; accepted are {', '.join(accepted)}{nearest(pooling, accepted)}")
    if sequences.pairs is not None:
        raise UserError(
            f"{sequences.source} holds pairs, and an embedding is of one sequence; choose one of the two columns "
            "(--sequence-column sequence1)"
        )
    rows = encode_rows(model.tokenizer, sequences)
    batches = pack(rows, batch_tokens or default_batch_tokens())
    token_ids = [row.ids[1:-1] for row in rows]
    offsets = np.concatenate([[0], np.cumsum([_vectors_of(ids, pooling, model.tokenizer) for ids in token_ids])])
    vectors = np.empty((int(offsets[-1]), model.config.hidden_size), np.float32)
    if pooling == "token" or pooling == "base":

        def hidden(batch: PackedBatch) -> jax.Array:
            return model.hidden_states(model.params, batch.tokens)

        for batch, states in run_batches(hidden, batches, title):
            for row, slot in zip(*np.nonzero(batch.used), strict=True):
                sequence, first = batch.sequences[row, slot], batch.starts[row, slot] + 1
                ids = token_ids[sequence]
                own = states[row, first : first + len(ids)]
                if pooling == "base":
                    own = np.repeat(own, model.tokenizer.token_bases(ids), axis=0)
                vectors[offsets[sequence] : offsets[sequence + 1]] = own
    else:

        def pooled(batch: PackedBatch) -> jax.Array:
            return model.pooled_slots(model.params, batch.tokens, batch.starts, pooling=pooling)

        for batch, slots in run_batches(pooled, batches, title):
            vectors[batch.sequences[batch.used]] = slots[batch.used]
    return Embeddings(pooling, sequences.names, token_ids, vectors, offsets)


def _vectors_of(ids: NDArray[np.int32], pooling: Pooling, tokenizer: Tokenizer) -> int:
    """How many vectors a sequence gets."""
    if pooling == "token":
        return len(ids)
    return int(tokenizer.token_bases(ids).sum()) if pooling == "base" else 1
