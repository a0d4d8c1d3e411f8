"""AdamW and its schedule."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PlainSerializer
from pydantic.dataclasses import dataclass

from dnabert2_jax.config.model import STRICT


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
