"""Sections of a run's TOML file that the code below the runs reads by themselves: masking, optimizer, mesh."""

import math
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PlainSerializer, model_validator
from pydantic.dataclasses import dataclass

from dnabert2_jax.config.model import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MaskingConfig:
    """Which tokens the model must predict.

    Attributes:
        rate: fraction of a row's tokens to predict.
        mask_share: of those, the fraction replaced by ``[MASK]``.
        random_share: of those, the fraction replaced by random pieces; the rest are unchanged.
        span_tokens: tokens that are masked together. None: k for overlapping k-mers, otherwise 1.
    """

    rate: float = Field(default=0.15, gt=0, lt=1)
    mask_share: float = Field(default=0.8, ge=0, le=1)
    random_share: float = Field(default=0.1, ge=0, le=1)
    span_tokens: int | None = Field(default=None, ge=1)

    def __post_init__(self) -> None:
        if self.mask_share + self.random_share > 1:
            raise ValueError(f"mask_share {self.mask_share} and random_share {self.random_share} add up to more than 1")

    def slots(self, tokens: int) -> int:
        """K, the maximum number masked in a row of ``tokens`` tokens, two of which are ``[CLS]`` and ``[SEP]``."""
        span = self.span_tokens or 1
        if span == 1:
            return max(1, round(self.rate * (tokens - 2)))
        most_spans = 1 + -(-(tokens - 3) // span)  # if the first one begins with its last token
        return min(tokens - 2, span * math.ceil(self.rate * most_spans))


def _steps_or_fraction(value: float) -> float:
    if value >= 1 and not value.is_integer():
        raise ValueError("give a whole number of steps, or a fraction of the run below 1")
    return int(value) if value.is_integer() else value


StepsOrFraction = Annotated[
    float,
    Field(ge=0),
    AfterValidator(_steps_or_fraction),
    PlainSerializer(lambda value: value),  # run.json says 50, not 50.0
]
"""A number of steps, or below 1, a fraction of the run."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OptimizerConfig:
    """AdamW (Loshchilov and Hutter 2019) and its schedule; the defaults are the paper's pretraining.

    Attributes:
        learning_rate: the peak, reached at the last step of the warm-up; then it decays linearly, to 0 after the last step.
        warmup_steps: steps of linear warm-up; below 1, a fraction of the run, so that it scales with the number of steps.
        weight_decay: decoupled; not on biases and LayerNorm. A step subtracts this fraction of a weight, times
            ``decay_scaling``.
        decay_scaling: ``learning_rate`` is the AdamW of PyTorch and Optax; ``schedule``, the learning rate over its peak, is
            Loshchilov and Hutter's own formula and Composer's DecoupledAdamW: there the decay does not depend on the peak.
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        epsilon: added to the root of the second moment.
        clip_norm: the gradient's global norm is clipped to this.
    """

    learning_rate: float = Field(default=5e-4, gt=0)
    warmup_steps: StepsOrFraction = 30_000
    weight_decay: float = Field(default=1e-5, ge=0)
    decay_scaling: Literal["learning_rate", "schedule"] = "learning_rate"
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.98, ge=0, lt=1)
    epsilon: float = Field(default=1e-6, gt=0)
    clip_norm: float = Field(default=1.0, gt=0)

    def warmup(self, total_steps: int) -> int:
        """Steps of warm-up in a run of ``total_steps``; a fraction is rounded, to one step or more."""
        if 0 < self.warmup_steps < 1:
            return max(1, round(self.warmup_steps * total_steps))
        return min(int(self.warmup_steps), total_steps)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MeshOptions:
    """How devices share the work. It affects results only by rounding: a run may resume with another mesh.

    Attributes:
        data: devices along the axis that shards rows; -1 takes all that the others leave.
        fsdp: devices along the axis that shards rows, weights and moments: less memory, more traffic.
        sequence: devices along the axis that shards the tokens of each row, for rows that are too long for one device; it
            must divide the tokens per row. Only without fsdp and tensor.
        tensor: devices along the axis that shards heads and inner channels; it must divide the number of heads.
        shard_optimizer: shard Adam's moments over ``data`` (ZeRO stage 1, Rajbhandari et al. 2020), and without fsdp and
            tensor the float32 weights, too: a step gathers them once, those of the blocks in compute precision.
        bfloat16_reduction: sum gradients over ``data`` in bfloat16, with half the traffic of float32. Only without fsdp and
            tensor: with them XLA sums each gradient where it arises, in compute precision.
    """

    data: int = Field(default=-1, ge=-1)
    fsdp: int = Field(default=1, ge=1)
    sequence: int = Field(default=1, ge=1)
    tensor: int = Field(default=1, ge=1)
    shard_optimizer: bool = False
    bfloat16_reduction: bool = False

    @model_validator(mode="after")
    def _makes_sense(self) -> "MeshOptions":
        if self.data == 0:
            raise ValueError("data must be a number of devices, or -1 for all that the others leave; found 0")
        if self.sequence > 1 and self.fsdp * self.tensor > 1:
            raise ValueError("sequence needs fsdp = 1 and tensor = 1; set it to 1, or both of them")
        if self.bfloat16_reduction and self.fsdp * self.tensor > 1:
            raise ValueError("bfloat16_reduction needs fsdp = 1 and tensor = 1; set it to false")
        return self
