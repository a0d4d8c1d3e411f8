"""Embeddings of sequences, tokens or bases: the encoder's hidden states."""

from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.config.inference import PER_TOKEN, Pooling
from dnabert2_jax.data.encoding import encode_sequences
from dnabert2_jax.data.packing import pack
from dnabert2_jax.data.sequences import Sequences
from dnabert2_jax.errors import UserError, counted, nearest
from dnabert2_jax.extras import optional_package
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.inference.predictor import default_batch_tokens
from dnabert2_jax.tokenizer.base import Tokenizer


@dataclass(frozen=True, repr=False)
class Embeddings:
    """Embeddings in input order, float32.

    Attributes:
        pooling: what each vector represents.
        names: name of each sequence.
        token_ids: ids of each sequence's own tokens, without [CLS] and [SEP]. [tokens] each.
        vectors: [sequences, D] for ``mean``, ``cls`` and ``max``; for ``token`` and ``base``, the vectors of all sequences
            concatenated, [all tokens, D] or [all bases, D].
        offsets: index of each sequence's first vector in ``vectors``, then the number of all vectors. [sequences + 1].
    """

    pooling: Pooling
    names: list[str]
    token_ids: list[NDArray[np.int32]]
    vectors: NDArray[np.float32]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        """Number of sequences."""
        return len(self.names)

    def __repr__(self) -> str:
        count, width = self.vectors.shape
        return f"Embeddings({counted(len(self), 'sequence')}, {counted(count, 'vector')} of {width}, {self.pooling})"

    def to_pandas(self) -> Any:
        """A DataFrame with one row per vector, whose numbers are the columns ``e0``, ``e1``, ...

        Raises:
            UserError: pandas is not installed.
        """
        columns = self.columns()
        numbers = {f"e{n}": column for n, column in enumerate(columns.pop("embedding").T)}
        return optional_package("pandas", "to_pandas needs", "pandas").DataFrame({**columns, **numbers}).set_index("name")

    def split(self) -> list[NDArray[np.float32]]:
        """The vectors of each sequence, [vectors of the sequence, D] each."""
        return np.split(self.vectors, self.offsets[1:-1])

    def columns(self) -> dict[str, Any]:
        """A table with one row per vector: name, index within the sequence (for ``token`` and ``base``), embedding."""
        if self.pooling not in PER_TOKEN:
            return {"name": self.names, "embedding": self.vectors}
        each = np.diff(self.offsets)
        names = [name for name, count in zip(self.names, each, strict=True) for _ in range(count)]
        index = np.arange(len(self.vectors)) - np.repeat(self.offsets[:-1], each)
        return {"name": names, "index": index, "embedding": self.vectors}

    def arrays(self, tokenizer: Tokenizer) -> dict[str, Any]:
        """The same without repeated names: names and vector counts of the sequences, all vectors, and all tokens.

        Args:
            tokenizer: the model's, for the bases of each token.
        """
        if self.pooling not in PER_TOKEN:
            return self.columns()
        bases = [tokenizer.token_bases(ids) for ids in self.token_ids]
        return {
            **{"name": self.names, "embedding": self.vectors, "count": np.diff(self.offsets)},
            **{"token_ids": np.concatenate(self.token_ids), "token_bases": np.concatenate(bases)},
        }


def embed(
    model: InferenceModel,
    sequences: Sequences,
    pooling: Pooling = "mean",
    *,
    batch_tokens: int | None = None,
    few_shapes: bool = False,
    title: str | None = None,
) -> Embeddings:
    """Embed sequences, batched by length; results are in input order.

    An embedding depends on the other sequences only through rounding: in float32 the same sequence in another batch
    differs by about 1e-6 where values are of order 1. Sequences of any length are embedded whole.

    Args:
        model: any model; its heads are not used.
        sequences: single sequences (no pairs).
        pooling: see :data:`~dnabert2_jax.config.inference.Pooling`.
        batch_tokens: tokens per batch; by default 4,096 on a CPU, 65,536 per device elsewhere.
        few_shapes: for chunks of a long job, see :func:`~dnabert2_jax.data.packing.pack`.
        title: title of a progress bar; None shows none.

    Raises:
        UserError: pairs, an unknown pooling, or out of memory.
    """
    if pooling not in get_args(Pooling):
        accepted = get_args(Pooling)
        raise UserError(f"pooling {pooling!r} is unknown; accepted are {', '.join(accepted)}{nearest(pooling, accepted)}")
    if sequences.pairs is not None:
        raise UserError(
            f"{sequences.source} holds pairs, but an embedding is for one sequence; choose one of the two columns "
            "(--sequence-column sequence1)"
        )
    rows = encode_sequences(sequences, model.tokenizer)
    batches = pack(rows, batch_tokens or default_batch_tokens(), few_shapes=few_shapes)
    token_ids = [ids[1:-1] for ids in rows.input_ids]
    offsets = np.concatenate([[0], np.cumsum([_vectors_of(ids, pooling, model.tokenizer) for ids in token_ids])])
    if pooling == "token" or pooling == "base":
        vectors = np.empty((int(offsets[-1]), model.config.hidden_size), np.float32)
        for batch, states in model.predictor.hidden_states(batches, title):
            for (row, slot), sequence in np.ndenumerate(batch.rows):
                if sequence < 0:
                    continue
                ids, first = token_ids[sequence], batch.starts[row, slot] + 1
                own = states[row, first : first + len(ids)]
                if pooling == "base":
                    own = np.repeat(own, model.tokenizer.token_bases(ids), axis=0)
                vectors[offsets[sequence] : offsets[sequence + 1]] = own
    else:
        vectors = model.predictor.pooled(batches, pooling, title)
    return Embeddings(pooling, sequences.names, token_ids, vectors, offsets)


def expected_vectors(model: InferenceModel, sequences: int, bases: int, pooling: Pooling) -> int:
    """The number of vectors that sequences will have; an estimate for ``token``.

    Args:
        model: the model.
        sequences: number of sequences.
        bases: their total bases.
        pooling: what each vector represents.
    """
    if pooling == "token":
        lengths = model.tokenizer.piece_lengths
        return int(bases / max(1.0, float(lengths[lengths > 0].mean())))
    return bases if pooling == "base" else sequences


def _vectors_of(ids: NDArray[np.int32], pooling: Pooling, tokenizer: Tokenizer) -> int:
    """Number of vectors of a sequence."""
    if pooling == "token":
        return len(ids)
    return int(tokenizer.token_bases(ids).sum()) if pooling == "base" else 1
