"""The models, and their functional form, which everything else uses.

A model is defined by nnx modules and used through :class:`Network`: parameters are a plain nested dict, and a module exists
only inside a jitted function, for as long as it takes to trace it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Generic, Protocol, TypeVar, Unpack

import chex
import jax
import jax.numpy as jnp
from flax import nnx

from dnabert2_jax.config.model import EncoderConfig, HeadConfig, HeadPooling, LoraConfig
from dnabert2_jax.modeling.compute import Compute
from dnabert2_jax.modeling.dropout import SITE_POOLED, dropout
from dnabert2_jax.modeling.encoder import Encoder, EncoderOptions
from dnabert2_jax.modeling.gather import states_in_row
from dnabert2_jax.modeling.heads import BASE_CHANNELS, BaseHead, MlmHead, Pooler, slot_means
from dnabert2_jax.modeling.layers import Dense
from dnabert2_jax.parallel.constraints import keep_rows_spread, keep_whole
from dnabert2_jax.types import HostOrDevice, RowBases, TokenBatch, Tree


class MaskedLM(nnx.Module):
    """Encoder and MLM head: 117,074,176 parameters at the released size."""

    def __init__(self, config: EncoderConfig, rngs: nnx.Rngs, compute: Compute) -> None:
        self.encoder = Encoder(config, rngs, compute)
        self.mlm = MlmHead(config, rngs)

    def hidden_states(self, tokens: TokenBatch) -> jax.Array:
        """Hidden states of the last block, [B, T, D]."""
        return self.encoder(tokens)

    def logits(self, tokens: TokenBatch, positions: jax.Array, *, dropout_seeds: jax.Array | None = None) -> jax.Array:
        """Vocabulary logits at chosen positions only: the projection to V is the most expensive layer of a small model.

        Args:
            tokens: the masked rows, [B, T].
            positions: [B, K].
            dropout_seeds: one per row, [B]; None in evaluation.

        Returns:
            float32, [B, K, V].
        """
        chex.assert_shape(positions, (len(tokens.input_ids), None))
        chosen = states_in_row(self.encoder(tokens, dropout_seeds=dropout_seeds), positions)
        with self.encoder.compute.products():
            logits = self.mlm(keep_rows_spread(chosen), keep_whole(self.encoder.embeddings.word[...]))
        return keep_rows_spread(logits)


class SequenceClassifier(nnx.Module):
    """Encoder, pooler, dropout and a linear classifier, as in the original; or means over tokens in place of the pooler."""

    def __init__(
        self, config: EncoderConfig, num_labels: int, rngs: nnx.Rngs, compute: Compute, pooling: HeadPooling
    ) -> None:
        self.encoder = Encoder(config, rngs, compute)
        self.pooler = nnx.data(Pooler(config, rngs) if pooling == "cls" else None)
        self.classifier = Dense(rngs, (config.hidden_size, num_labels), ("hidden", "classes"), config.initializer_range)
        self.rate = config.hidden_dropout_prob

    def hidden_states(self, tokens: TokenBatch) -> jax.Array:
        """Hidden states of the last block, [B, T, D]."""
        return self.encoder(tokens)

    def logits(self, tokens: TokenBatch, starts: jax.Array | None = None, **options: Unpack[EncoderOptions]) -> jax.Array:
        """Class logits in float32.

        Args:
            tokens: ids, segments and token types, [B, T] each.
            starts: position of each [CLS] in a row of several sequences, [B, P]; None if a row is one sequence.
            **options: dropout and adapter, see :class:`~dnabert2_jax.modeling.encoder.EncoderOptions`.

        Returns:
            [B, C]; with ``starts`` [B, P, C].
        """
        features = self.features(tokens, starts, **options)
        dropped = dropout(features, self.rate, options.get("dropout_seeds"), SITE_POOLED)
        # Full precision whatever the rest has: measurements need more than bfloat16's three digits, and the bias of a probe
        # subtracts large means of its features, which would leave nothing but rounding.
        with jax.default_matmul_precision("highest"):
            logits = self.classifier(dropped)
        return logits[:, 0] if starts is None else logits

    def features(self, tokens: TokenBatch, starts: jax.Array | None = None, **options: Unpack[EncoderOptions]) -> jax.Array:
        """The linear layer's input, float32 [B, P, D], P is 1 without ``starts``; the arguments are :meth:`logits`'s."""
        at = jnp.zeros((len(tokens.input_ids), 1), jnp.int32) if starts is None else starts
        if self.pooler is None:
            return slot_means(self.encoder(tokens, **options), tokens, at.shape[1])
        cls = self.encoder(tokens, at, **options).astype(jnp.float32)
        with jax.default_matmul_precision("highest"):  # a few rows, like those of the classifier; not the encoder's products
            return self.pooler(cls)


class BaseClassifier(nnx.Module):
    """Encoder, dropout, convolutions over bases, and a linear classifier at every base."""

    def __init__(self, config: EncoderConfig, num_labels: int, rngs: nnx.Rngs, compute: Compute) -> None:
        self.encoder = Encoder(config, rngs, compute)
        self.bases = BaseHead(config, rngs)
        self.classifier = Dense(rngs, (BASE_CHANNELS, num_labels), ("channels", "classes"), config.initializer_range)
        self.rate = config.hidden_dropout_prob

    def hidden_states(self, tokens: TokenBatch) -> jax.Array:
        """Hidden states of the last block, [B, T, D]."""
        return self.encoder(tokens)

    def logits(self, tokens: TokenBatch, bases: RowBases, **options: Unpack[EncoderOptions]) -> jax.Array:
        """Class logits of every base in float32, [B, L, C]; they have no meaning where there is no base.

        Args:
            tokens: ids, segments and token types, [B, T] each; a row is one sequence.
            bases: the bases of each row, [B, L] each.
            **options: dropout and adapter, see :class:`~dnabert2_jax.modeling.encoder.EncoderOptions`.
        """
        chex.assert_shape(list(bases), (len(tokens.input_ids), None))
        hidden = self.encoder(tokens, **options).astype(jnp.float32)
        dropped = dropout(hidden, self.rate, options.get("dropout_seeds"), SITE_POOLED)
        with jax.default_matmul_precision("highest"):  # as for the classifier of sequences
            return self.classifier(self.bases(dropped, bases))


M = TypeVar("M", bound=nnx.Module)


@dataclass(frozen=True)
class Network(Generic[M]):
    """A model as functions of a parameter tree.

    Attributes:
        build: makes the module from random number streams.
    """

    build: Callable[[nnx.Rngs], M]

    @cached_property
    def _split(self) -> tuple[Any, Any]:
        return nnx.split(nnx.eval_shape(lambda: self.build(nnx.Rngs(params=0))))

    @cached_property
    def _make(self) -> Callable[[jax.Array], Tree]:
        return jax.jit(lambda key: nnx.to_pure_dict(nnx.state(self.build(nnx.Rngs(params=key)))))

    def init(self, seed: int) -> Tree:
        """Initial float32 parameters, made in one jitted call."""
        return self._make(jax.random.key(seed))

    def abstract(self) -> Tree:
        """Shapes and dtypes of the parameters, without making them."""
        return nnx.to_pure_dict(self._split[1])

    def axes(self) -> Tree:
        """The logical axis names of every parameter, in the same nesting; scanned layers have ``"layers"`` first."""

        def names(path: tuple[Any, ...], variable: Any) -> tuple[str, ...]:
            return (
                ("layers", *variable.axes) if any(getattr(key, "key", None) == "layers" for key in path) else variable.axes
            )

        is_variable = lambda x: isinstance(x, nnx.Variable)  # noqa: E731
        return nnx.to_pure_dict(jax.tree_util.tree_map_with_path(names, self._split[1], is_leaf=is_variable))

    def bind(self, params: Tree) -> M:
        """The module with these parameters; call it inside jit."""
        return nnx.merge(self._split[0], nnx.State(params))


# Equal settings give the same network, so that one run of a process traces and compiles for the others, too.
@lru_cache
def masked_lm(config: EncoderConfig, compute: Compute | None = None) -> Network[MaskedLM]:
    """The pretraining model. Parameter tree: ``{"encoder", "mlm"}``."""
    return Network(lambda rngs: MaskedLM(config, rngs, compute or Compute()))


@lru_cache
def sequence_classifier(
    config: EncoderConfig, num_labels: int, compute: Compute | None = None, pooling: HeadPooling = "cls"
) -> Network[SequenceClassifier]:
    """The classification model. Parameter tree: ``{"encoder", "pooler", "classifier"}``, without a pooler for ``mean``."""
    return Network(lambda rngs: SequenceClassifier(config, num_labels, rngs, compute or Compute(), pooling))


@lru_cache
def base_classifier(config: EncoderConfig, num_labels: int, compute: Compute | None = None) -> Network[BaseClassifier]:
    """The model that labels every base. Parameter tree: ``{"encoder", "bases", "classifier"}``."""
    return Network(lambda rngs: BaseClassifier(config, num_labels, rngs, compute or Compute()))


Classifier = Network[SequenceClassifier] | Network[BaseClassifier]
"""The models of fine-tuning."""


def classifier_of(config: EncoderConfig, num_labels: int, head: HeadConfig, compute: Compute | None = None) -> Classifier:
    """The model that a head is part of."""
    if head.task == "per_base":
        return base_classifier(config, num_labels, compute)
    return sequence_classifier(config, num_labels, compute, head.pooling)


class ClassifierInputs(Protocol):
    """The inputs of a classifier from a batch: one of sequences with ``starts`` or of bases."""

    @property
    def tokens(self) -> TokenBatch:
        """The rows."""
        ...

    @property
    def starts(self) -> HostOrDevice:
        """Position of each slot's [CLS], or None."""
        ...

    @property
    def bases(self) -> RowBases | None:
        """The bases of each row, if every base has a label."""
        ...


def class_logits(
    network: Classifier,
    params: Tree,
    batch: ClassifierInputs,
    lora: LoraConfig | None,
    dropout_seeds: jax.Array | None = None,
) -> jax.Array:
    """Class logits, [B, C], of slots [B, P, C], or of bases [B, L, C].

    Args:
        network: the model.
        params: its parameters; may hold an ``"adapter"`` beside the model's own parts.
        batch: the rows.
        lora: settings of the adapter, if there is one.
        dropout_seeds: one per row, [B]; None in evaluation.
    """
    model = network.bind({name: part for name, part in params.items() if name != "adapter"})
    options = EncoderOptions(dropout_seeds=dropout_seeds, adapter=params.get("adapter"), lora=lora)
    if isinstance(model, BaseClassifier):
        if batch.bases is None:
            raise ValueError("a model that labels bases needs a batch with bases")
        return model.logits(batch.tokens, batch.bases, **options)
    return model.logits(batch.tokens, batch.starts, **options)


def count_parameters(tree: Tree) -> int:
    """Number of scalars in a tree of arrays (the tied decoder is the word embedding and counts once)."""
    return sum(int(leaf.size) for leaf in jax.tree.leaves(tree))
