"""AdamW with linear warm-up and linear decay, as in the paper."""

from functools import lru_cache

import jax
import optax

from dnabert2_jax.config.sections import OptimizerConfig
from dnabert2_jax.progress import remark
from dnabert2_jax.types import Tree


def learning_rate_schedule(config: OptimizerConfig, total_steps: int) -> optax.Schedule:
    """Learning rate by step, from 0: rises over w warm-up steps (at most the whole run), then falls over the rest.

    Steps w - 1 and w have the peak rate (without warm-up, only step 0); the last of T = ``total_steps`` has 1 / (T - w) of
    it: the rate would reach 0 at step T, which is not taken.
    """
    warmup = config.warmup(total_steps)
    # Step 0 already updates the parameters: step s has the rate of step s + 1 in the usual formula.
    up = optax.linear_schedule(config.learning_rate / max(warmup, 1), config.learning_rate, max(warmup - 1, 1))
    down = optax.linear_schedule(config.learning_rate, 0.0, max(total_steps - warmup, 1))
    return optax.join_schedules([up, down], [warmup])


def warn_of_long_warmup(config: OptimizerConfig, total_steps: int) -> None:
    """Warn if the warm-up takes half of the run or more, which leaves too few steps to lower the learning rate."""
    warmup = config.warmup(total_steps)
    if 2 * warmup >= total_steps:
        end = "the run ends at its peak" if warmup == total_steps else "few steps are left to lower it"
        remark(
            f"warning: the learning rate rises over {warmup:,} of {total_steps:,} steps, and {end}; set "
            "optimizer.warmup_steps=0.1 for a tenth of the steps, or train longer"
        )


_UNDECAYED = {"bias", "scale"}


def decayed(params: Tree) -> Tree:
    """True where weight decay applies: everything but biases and LayerNorm scales, by the last part of the name."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in _UNDECAYED, params)


@lru_cache
def make_optimizer(config: OptimizerConfig, total_steps: int) -> optax.GradientTransformation:
    """Gradient clipping, then AdamW on the schedule."""
    by_peak = config.learning_rate if config.decay_scaling == "schedule" else 1.0
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            learning_rate_schedule(config, total_steps),
            b1=config.beta1,
            b2=config.beta2,
            eps=config.epsilon,
            weight_decay=config.weight_decay / by_peak,  # optax multiplies it by the rate
            mask=decayed,
        ),
    )
