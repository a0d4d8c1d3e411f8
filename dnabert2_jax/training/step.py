"""One optimizer step, and one evaluation step, as jitted functions of plain trees."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

from dnabert2_jax.parallel.layout import Layout
from dnabert2_jax.training.objectives import Loss, Sums
from dnabert2_jax.types import Tree


class TrainState(NamedTuple):
    """What a step updates. Frozen parameters (the base of an adapter) are excluded: no gradient, no moments, no copy.

    Attributes:
        step: number of steps done, int32 scalar.
        trainable: the trainable parameters.
        optimizer: optax state.
    """

    step: jax.Array
    trainable: Tree
    optimizer: Any


class StepMetrics(NamedTuple):
    """Metrics of a step; scalars on the device.

    Attributes:
        sums: loss, correct predictions and weight over the batch.
        gradient_norm: global norm before clipping.
        update_norm: global norm of the parameter update; 0 if the step was skipped.
        skipped: 1 if the loss or the gradient was not finite and only the step number changed; else 0.
    """

    sums: Sums
    gradient_norm: jax.Array
    update_norm: jax.Array
    skipped: jax.Array


TrainStep = Callable[[TrainState, Tree, Any], tuple[TrainState, StepMetrics]]


def init_state(trainable: Tree, optimizer: optax.GradientTransformation, layout: Layout) -> TrainState:
    """State before the first step, on the devices of the layout, where ``trainable`` must already be."""
    shardings = state_shardings(trainable, optimizer, layout)
    step = jax.jit(lambda: jnp.zeros((), jnp.int32), out_shardings=shardings.step)()
    return TrainState(step, trainable, jax.jit(optimizer.init, out_shardings=shardings.optimizer)(trainable))


def state_shardings(trainable: Tree, optimizer: optax.GradientTransformation, layout: Layout) -> TrainState:
    """The sharding of every array of a state. ``trainable`` may be abstract."""
    whole: Any = PartitionSpec()  # type: ignore[no-untyped-call]
    return layout.shardings(TrainState(whole, layout.params, layout.optimizer_specs(optimizer, trainable)))


@lru_cache
def make_train_step(
    loss: Loss, optimizer: optax.GradientTransformation, layout: Layout, *, accumulate: int = 1
) -> TrainStep:
    """``step(state, frozen, batch) -> (state, metrics)``, jitted; the old state's buffers are reused.

    If the loss or the gradient is not finite, the parameters and the optimizer state (including the schedule) are left
    unchanged: one such update would turn everything into NaN. The same arguments give the same function, so that runs of one
    process that differ only in their data and seed compile it once.

    Args:
        loss: sums over a batch.
        optimizer: how gradients become updates.
        layout: how devices share the step; state and batch are on them.
        accumulate: number of microbatches per batch, computed one after another to save memory; the result is the same as
            for the whole batch.
    """

    def gradient_sums(trainable: Tree, frozen: Tree, batch: Any) -> tuple[Tree, Sums]:
        def objective(trainable: Tree, part: Any) -> tuple[jax.Array, Sums]:
            sums = loss(trainable, frozen, part, True)
            return sums.loss, sums

        gradient = jax.grad(objective, has_aux=True)
        if accumulate == 1:
            return gradient(trainable, batch)

        def add_part(total: tuple[Tree, Sums], part: Any) -> tuple[tuple[Tree, Sums], None]:
            return jax.tree.map(jnp.add, total, gradient(trainable, part)), None

        # Microbatch i has rows i, i + accumulate, ...: every device then has equally many rows of each, and none move.
        parts = jax.tree.map(lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1), batch)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), trainable), Sums(*[jnp.zeros(())] * 3)
        return jax.lax.scan(add_part, zeros, parts)[0]

    everywhere = layout.add_up(gradient_sums, gradients=True)

    def step(state: TrainState, frozen: Tree, batch: Any) -> tuple[TrainState, StepMetrics]:
        gradients, sums = everywhere(state.trainable, frozen, batch)
        gradients = jax.tree.map(lambda g: g / jnp.maximum(sums.weight, 1.0), gradients)
        updates, moments = optimizer.update(gradients, state.optimizer, state.trainable)
        gradient_norm = optax.tree.norm(gradients)
        finite = jnp.isfinite(sums.loss) & jnp.isfinite(gradient_norm)
        new = optax.apply_updates(state.trainable, updates), moments
        trainable, moments = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old), new, (state.trainable, state.optimizer)
        )
        update_norm = jnp.where(finite, optax.tree.norm(updates), 0.0)
        metrics = StepMetrics(sums, gradient_norm, update_norm, 1 - finite.astype(jnp.int32))
        new_state = TrainState(state.step + 1, trainable, moments)
        shardings = state_shardings(trainable, optimizer, layout)
        return jax.tree.map(jax.lax.with_sharding_constraint, new_state, shardings), metrics

    return jax.jit(step, donate_argnums=0)


def make_eval_step(loss: Loss, layout: Layout) -> Callable[[Tree, Tree, Any], Sums]:
    """``step(trainable, frozen, batch) -> sums``, jitted, dropout off."""

    def sums(trainable: Tree, frozen: Tree, batch: Any) -> Sums:
        return loss(trainable, frozen, batch, False)

    return jax.jit(layout.add_up(sums, gradients=False))
