"""AdamW with linear warm-up and linear decay, as the paper trains."""

from typing import Literal

import jax
import optax
from pydantic import Field
from pydantic.dataclasses import dataclass

from dnabert2_jax.config import STRICT
from dnabert2_jax.types import Tree


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OptimizerConfig:
    """AdamW (Loshchilov and Hutter 2019) and its schedule; the defaults are the paper's pretraining.

    Attributes:
        learning_rate: peak, which the last step of the warm-up has; then the rate falls linearly, to 0 after the last step.
        warmup_steps: steps of linear warm-up.
        weight_decay: decoupled; not on biases and LayerNorm. A step takes this share of a weight, times ``decay_scaling``.
        decay_scaling: ``learning_rate`` is the AdamW of PyTorch and Optax; ``schedule``, the learning rate over its peak, is
            Loshchilov and Hutter's own formula and Composer's DecoupledAdamW: there the peak does not change the decay.
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        epsilon: added to the root of the second moment.
        clip_norm: the gradient's global norm is clipped to this.
    """

    learning_rate: float = Field(default=5e-4, gt=0)
    warmup_steps: int = Field(default=30_000, ge=0)
    weight_decay: float = Field(default=1e-5, ge=0)
    decay_scaling: Literal["learning_rate", "schedule"] = "learning_rate"
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.98, ge=0, lt=1)
    epsilon: float = Field(default=1e-6, gt=0)
    clip_norm: float = Field(default=1.0, gt=0)

    def schedule(self, total_steps: int) -> optax.Schedule:
        """Learning rate by step, from 0 on: up over w = ``warmup_steps`` (at most the whole run), then down over the others.

        Steps w - 1 and w have the peak (without warm-up step 0 alone); the last of T = ``total_steps`` has 1 / (T - w) of
        it: the rate would be 0 at step T, which is not taken.
        """
        warmup = min(self.warmup_steps, total_steps)
        # Step 0 already moves: the rate of step s is that of s + 1 in the usual formula.
        up = optax.linear_schedule(self.learning_rate / max(warmup, 1), self.learning_rate, max(warmup - 1, 1))
        down = optax.linear_schedule(self.learning_rate, 0.0, max(total_steps - warmup, 1))
        return optax.join_schedules([up, down], [warmup])


_UNDECAYED = {"bias", "scale"}


def decayed(params: Tree) -> Tree:
    """True where weight decay applies: everything but biases and LayerNorm scales, by the last part of the name."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in _UNDECAYED, params)


def make_optimizer(config: OptimizerConfig, total_steps: int) -> optax.GradientTransformation:
    """Clipping, then AdamW on the schedule."""
    by_peak = config.learning_rate if config.decay_scaling == "schedule" else 1.0
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            config.schedule(total_steps),
            b1=config.beta1,
            b2=config.beta2,
            eps=config.epsilon,
            weight_decay=config.weight_decay / by_peak,  # optax multiplies it by the rate
            mask=decayed,
        ),
    )
