"""One optimizer step, and one evaluation step, as jitted functions of plain trees."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dnabert2_jax.training.objectives import Loss, Sums
from dnabert2_jax.types import Tree


class TrainState(NamedTuple):
    """What a step changes. Frozen parameters (the base under an adapter) are not in it: no gradient, no moments, no copy.

    Attributes:
        step: steps done, int32 scalar.
        trainable: the parameters that learn.
        optimizer: optax state.
    """

    step: jax.Array
    trainable: Tree
    optimizer: Any


class StepMetrics(NamedTuple):
    """What a step reports; scalars on the device.

    Attributes:
        sums: loss, right predictions and weight over the batch.
        gradient_norm: global norm before clipping.
    """

    sums: Sums
    gradient_norm: jax.Array


TrainStep = Callable[[TrainState, Tree, Any], tuple[TrainState, StepMetrics]]


def init_state(trainable: Tree, optimizer: optax.GradientTransformation) -> TrainState:
    """State before the first step."""
    return TrainState(jnp.zeros((), jnp.int32), trainable, optimizer.init(trainable))


def make_train_step(loss: Loss, optimizer: optax.GradientTransformation, *, accumulate: int = 1) -> TrainStep:
    """``step(state, frozen, batch) -> (state, metrics)``, jitted; the old state's buffers are reused.

    Args:
        loss: sums over a batch.
        optimizer: how gradients become updates.
        accumulate: the batch is cut into this many parts, one after the other, for memory; the result is that of the whole.
    """

    def step(state: TrainState, frozen: Tree, batch: Any) -> tuple[TrainState, StepMetrics]:
        def objective(trainable: Tree, part: Any) -> tuple[jax.Array, Sums]:
            sums = loss(trainable, frozen, part, True)
            return sums.loss, sums

        gradient = jax.grad(objective, has_aux=True)
        if accumulate == 1:
            gradients, sums = gradient(state.trainable, batch)
        else:
            parts = jax.tree.map(lambda x: x.reshape(accumulate, x.shape[0] // accumulate, *x.shape[1:]), batch)

            def add_part(total: tuple[Tree, Sums], part: Any) -> tuple[tuple[Tree, Sums], None]:
                return jax.tree.map(jnp.add, total, gradient(state.trainable, part)), None

            zeros = jax.tree.map(jnp.zeros_like, state.trainable), Sums(*[jnp.zeros(())] * 3)
            (gradients, sums), _ = jax.lax.scan(add_part, zeros, parts)

        gradients = jax.tree.map(lambda g: g / jnp.maximum(sums.weight, 1.0), gradients)
        updates, moments = optimizer.update(gradients, state.optimizer, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        metrics = StepMetrics(sums, optax.tree.norm(gradients))
        return TrainState(state.step + 1, trainable, moments), metrics

    return jax.jit(step, donate_argnums=0)


def make_eval_step(loss: Loss) -> Callable[[Tree, Tree, Any], Sums]:
    """``step(trainable, frozen, batch) -> sums``, jitted, dropout off."""
    return jax.jit(lambda trainable, frozen, batch: loss(trainable, frozen, batch, False))
