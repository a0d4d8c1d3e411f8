"""The three GPU kernels for Hopper, lowered by Pallas through Mosaic: forward, gradient of queries, of keys and values.

They are run by the warpgroups of :mod:`~.warpgroups`, and are bitwise reproducible: no two programs write the same output.
"""

from typing import Any

import jax
import jax.numpy as jnp

from dnabert2_jax.kernels.attention.block_sizes import GpuBlocks
from dnabert2_jax.kernels.attention.gpu.tile import (
    BITS,
    FLOOR,
    KEYS_BEFORE,
    KEYS_BEHIND,
    GpuInputs,
    GradientRows,
    along,
)
from dnabert2_jax.kernels.attention.gpu.warpgroups import ROWS, Fold, Program, Task, launch


def _forward(task: Task, fold: Fold) -> tuple[jax.Array, ...]:
    queries, own_numbers = task.own
    keys, values, numbers = task.ring

    def tile(kind: int, first: Any, slot: Any, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        maximum, total, weighted = state
        products = task.product(queries, keys.at[slot], transposed=True)
        both = lambda: (own_numbers[...], numbers[slot])  # noqa: E731
        scores, shift = task.head.scores(kind, products, task.first, first, both, key_axis=1)
        new_maximum = jnp.maximum(maximum, scores.max(axis=1) - shift)
        weights = jnp.exp2(scores - along(new_maximum + shift, scores.shape, 0))
        shrink = jnp.exp2(maximum - new_maximum)
        weighted = weighted * along(shrink, weighted.shape, 0)
        weighted = task.product(weights.astype(values.dtype), values.at[slot], total=weighted)
        return new_maximum, total * shrink + weights.sum(axis=1), weighted

    zeros = jnp.zeros(ROWS, jnp.float32)
    maximum, total, weighted = fold(tile, (zeros + FLOOR, zeros, jnp.zeros(queries.shape, jnp.float32)))
    # Rows with no visible key (padding) have total 0: they get output 0 and a finite log-sum-exp.
    total = jnp.where(total > 0, total, 1.0)
    return weighted / along(total, weighted.shape, 0), maximum + jnp.log(total) * BITS


def _query_gradient(task: Task, fold: Fold) -> tuple[jax.Array, ...]:
    queries, d_rows, reference, row_delta, own_numbers = task.own
    keys, values, numbers = task.ring

    def tile(kind: int, first: Any, slot: Any, gradient: jax.Array) -> jax.Array:
        products = task.product(queries, keys.at[slot], transposed=True)
        both = lambda: (own_numbers[...], numbers[slot])  # noqa: E731
        scores, shift = task.head.scores(kind, products, task.first, first, both, key_axis=1)
        weights = jnp.exp2(scores - along(reference[...] + shift, scores.shape, 0))
        d_weights = task.product(d_rows, values.at[slot], transposed=True)
        d_scores = weights * (d_weights - along(row_delta[...], scores.shape, 0))
        return task.product(d_scores.astype(keys.dtype), keys.at[slot], total=gradient)

    return (fold(tile, jnp.zeros(queries.shape, jnp.float32)) * task.head.scale,)


def _key_gradient(task: Task, fold: Fold) -> tuple[jax.Array, ...]:
    keys, values, own_numbers = task.own
    queries, d_rows, references, row_deltas, numbers = task.ring

    def tile(kind: int, first: Any, slot: Any, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        d_keys, d_values = state
        # Keys first: the weights are then the left operand of both products without a transpose.
        products = task.product(keys, queries.at[slot], transposed=True)
        both = lambda: (numbers[slot], own_numbers[...])  # noqa: E731
        scores, shift = task.head.scores(kind, products, first, task.first, both, key_axis=0)
        weights = jnp.exp2(scores - along(references[slot] + shift, scores.shape, 1))
        d_values = task.product(weights.astype(d_rows.dtype), d_rows.at[slot], total=d_values)
        d_weights = task.product(values, d_rows.at[slot], transposed=True)
        d_scores = weights * (d_weights - along(row_deltas[slot], scores.shape, 1))
        return task.product(d_scores.astype(queries.dtype), queries.at[slot], total=d_keys), d_values

    zeros = jnp.zeros(keys.shape, jnp.float32)
    d_keys, d_values = fold(tile, (zeros, zeros))
    return d_keys * task.head.scale, d_values


def forward(inputs: GpuInputs, rows: None, *, scale: float, blocks: GpuBlocks, interpret: Any) -> tuple[jax.Array, ...]:
    """-> output, like q, and the log-sum-exp in bits, float32 [B, H, P]."""
    q, k, v, slopes, numbers, bounds = inputs
    shape = (q.shape[0], q.shape[2], q.shape[1])
    log_sum_exp = jax.ShapeDtypeStruct(shape, jnp.float32)  # type: ignore[no-untyped-call]
    program = Program(_forward, KEYS_BEFORE, scale, blocks, interpret)
    return launch(program, "alibi_attention_forward", slopes, bounds, (q, numbers), (k, v, numbers), (q, log_sum_exp))


def query_gradient(
    inputs: GpuInputs, rows: GradientRows, *, scale: float, blocks: GpuBlocks, interpret: Any
) -> tuple[jax.Array, ...]:
    """Reads dO, the log-sum-exp in bits and delta -> dq."""
    q, k, v, slopes, numbers, bounds = inputs
    program = Program(_query_gradient, KEYS_BEFORE, scale, blocks, interpret)
    own = (q, *rows, numbers)
    return launch(program, "alibi_attention_query_gradient", slopes, bounds, own, (k, v, numbers), (q,))


def key_gradient(
    inputs: GpuInputs, rows: GradientRows, *, scale: float, blocks: GpuBlocks, interpret: Any
) -> tuple[jax.Array, ...]:
    """Reads dO, the log-sum-exp in bits and delta -> dk and dv."""
    q, k, v, slopes, numbers, bounds = inputs
    program = Program(_key_gradient, KEYS_BEHIND, scale, blocks, interpret)
    return launch(program, "alibi_attention_key_gradient", slopes, bounds, (k, v, numbers), (q, *rows, numbers), (k, v))
