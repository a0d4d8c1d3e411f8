"""What a model is: the sizes of its encoder, how its head reads it, and the settings of an adapter."""

from dataclasses import asdict, replace
from typing import Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from dnabert2_jax.errors import UserError, nearest

PrecisionOption = Literal["auto", "float32", "tf32", "bfloat16"]
"""Compute precision as users name it; ``auto`` is bfloat16 on GPU and TPU, float32 on a CPU.

``float32`` is float32 in every product; ``tf32`` lets matrix units round the factors, which makes it many times faster on a
GPU or TPU and changes nothing on a CPU.
"""

DEFAULT_MAX_TOKENS = 512
"""Longest row of a classifier, special tokens included, in a run and in every command that uses its model."""

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
"""Pydantic settings of every configuration: an unknown key is an error."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EncoderConfig:
    """The architecture of DNABERT-2 (Zhou et al. 2024); the defaults are the released 117M model.

    Attributes:
        vocab_size: token ids, special ones included.
        hidden_size: width of the residual stream.
        num_hidden_layers: transformer blocks.
        num_attention_heads: heads; each of width hidden_size / num_attention_heads.
        intermediate_size: width of the GEGLU feed-forward layer, after gating.
        type_vocab_size: token types (2: first and second sequence of a pair).
        hidden_dropout_prob: dropout on embeddings, attention output and feed-forward output, in [0, 1).
        layer_norm_eps: epsilon of every LayerNorm.
        initializer_range: standard deviation of the initial weights.
    """

    vocab_size: int = Field(default=4096, ge=9)
    hidden_size: int = Field(default=768, ge=1)
    num_hidden_layers: int = Field(default=12, ge=1)
    num_attention_heads: int = Field(default=12, ge=1)
    intermediate_size: int = Field(default=3072, ge=1)
    type_vocab_size: int = Field(default=2, ge=1)
    hidden_dropout_prob: float = Field(default=0.1, ge=0, lt=1)
    layer_norm_eps: float = Field(default=1e-12, gt=0)
    initializer_range: float = Field(default=0.02, gt=0)

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "EncoderConfig":
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        return self

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    def to_dict(self) -> dict[str, int | float]:
        """A JSON-ready dict; ``EncoderConfig(**d)`` reads it back."""
        return asdict(self)


NAMED_SIZES: dict[str, EncoderConfig] = {
    "1b": EncoderConfig(hidden_size=2048, num_hidden_layers=16, num_attention_heads=16, intermediate_size=8192),
    "117m": EncoderConfig(),
    "25m": EncoderConfig(hidden_size=512, num_hidden_layers=6, num_attention_heads=8, intermediate_size=2048),
    "3m": EncoderConfig(hidden_size=192, num_hidden_layers=6, num_attention_heads=6, intermediate_size=512),
    "1m": EncoderConfig(hidden_size=128, num_hidden_layers=3, num_attention_heads=4, intermediate_size=352),
}
"""Encoders by name, by approximate parameters at a vocabulary of 4096; ``vocab_size`` follows the tokenizer."""


def named_size(name: str, vocab_size: int) -> EncoderConfig:
    """The encoder called ``name`` for a tokenizer of ``vocab_size`` pieces.

    Raises:
        UserError: no such name.
    """
    if name not in NAMED_SIZES:
        raise UserError(f"model size {name!r} is unknown; accepted are {', '.join(NAMED_SIZES)}{nearest(name, NAMED_SIZES)}")
    return replace(NAMED_SIZES[name], vocab_size=vocab_size)


HeadPooling = Literal["cls", "mean"]

TableTask = Literal["single_label", "multi_label", "regression"]
"""What is predicted for a sequence: its class, any number of labels, or a measurement."""

TaskKind = Literal["single_label", "multi_label", "regression", "per_base"]
"""All that heads predict: something for a sequence, or labels at every base."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class HeadConfig:
    """How a classifier reads its encoder, and what its outputs mean; a regression model counts as one.

    Attributes:
        pooling: what the linear layer reads: ``cls``, the pooler's tanh(dense(hidden state of [CLS])), as in the original;
            or ``mean``, the mean of the hidden states of a sequence's own tokens, without a pooler.
        token_types: the second sequence of a pair has token type 1; otherwise 0, like the first.
        max_tokens: maximum length of a row in training, special tokens included.
        task: what the outputs mean.
        mean: of the measurements that a regression was trained on, in their unit.
        deviation: their standard deviation; an output o of the network means ``mean + deviation * o``.
        several: of labels at every base: a base may have any number of them, rather than one class.
        window: of labels at every base: bases of a row in training; 0 for other tasks.
    """

    pooling: HeadPooling = "cls"
    token_types: bool = True
    max_tokens: int = Field(default=DEFAULT_MAX_TOKENS, ge=8)
    task: TaskKind = "single_label"
    mean: float = 0.0
    deviation: float = Field(default=1.0, gt=0)
    several: bool = False
    window: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _only_measurements_have_a_unit(self) -> "HeadConfig":
        if self.task != "regression" and (self.mean, self.deviation) != (0.0, 1.0):
            raise ValueError(f"mean and deviation are for regression, not for {self.task}")
        return self

    @model_validator(mode="after")
    def _only_bases_have_windows(self) -> "HeadConfig":
        if (self.task == "per_base") != (self.window > 0) or (self.several and self.task != "per_base"):
            raise ValueError(f"window and several are for per_base, which needs a window, not for {self.task}")
        return self

    @property
    def independent(self) -> bool:
        """Whether outputs are independent probabilities, rather than a distribution that sums to 1."""
        return self.task == "multi_label" or self.several

    def to_dict(self) -> dict[str, object]:
        """A JSON-ready dict of what differs from the original's head; ``HeadConfig(**d)`` reads it back."""
        return {name: value for name, value in asdict(self).items() if value != getattr(ORIGINAL_HEAD, name)}


ORIGINAL_HEAD = HeadConfig()
"""The head of the original."""


LoraTarget = Literal["Wqkv", "out", "gated_layers", "wo"]
"""The projections of a block, by their names in the original."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LoraConfig:
    """A LoRA adapter (Hu et al. 2021).

    Attributes:
        rank: r, the inner width of the two matrices.
        alpha: numerator of the scale alpha / r.
        dropout: on the input of the low-rank term, in [0, 1).
        targets: the projections that get one.
    """

    rank: int = Field(default=8, ge=1)
    alpha: float = Field(default=16.0, gt=0)
    dropout: float = Field(default=0.05, ge=0, lt=1)
    targets: tuple[LoraTarget, ...] = Field(default=("Wqkv", "out", "gated_layers", "wo"), min_length=1)

    @model_validator(mode="after")
    def _targets_are_distinct(self) -> "LoraConfig":
        if len(set(self.targets)) != len(self.targets):
            raise ValueError(f"targets {self.targets} name a projection twice")
        return self

    @property
    def scale(self) -> float:
        """The factor alpha / r of the low-rank term."""
        return self.alpha / self.rank

    def to_dict(self) -> dict[str, object]:
        """A JSON-ready dict; ``LoraConfig(**d)`` reads it back."""
        return asdict(self)
