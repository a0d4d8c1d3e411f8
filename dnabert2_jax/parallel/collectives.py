"""Gathers of parameters over ``data`` and sums over ``data`` and ``sequence``, inside a function that each device runs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

Groups = list[list[list[int]]]
"""For each stage of a collective, the groups of devices that exchange data."""


def stage_groups(sides: tuple[int, ...]) -> Groups:
    """Devices numbered row by row in a box of these sides, grouped by stage: those that differ in one coordinate."""
    numbers = np.arange(np.prod(sides)).reshape(sides)
    return [np.moveaxis(numbers, i, -1).reshape(-1, size).tolist() for i, size in enumerate(sides)]


def gather_parameter(shard: jax.Array, spec: P, dtype: Any, stages: Groups) -> jax.Array:
    """The whole of a parameter, in ``dtype``, from this device's shard; as it is if it is not spread over ``data``.

    The last stage, of the slowest network, is the first to run, when there is least to send.
    """
    if "data" not in spec:
        return shard

    def gather(shard: jax.Array, axis: int) -> jax.Array:
        for groups in reversed(stages):
            shard = jax.lax.all_gather(shard, "data", axis=axis, tiled=True, axis_index_groups=groups)
        return shard

    return _layer_by_layer(gather, shard.astype(dtype), list(spec).index("data"))


def sum_over_devices(tree: Any, axes: tuple[str, ...] = ("data", "sequence")) -> Any:
    """The sum of every array over ``axes``.

    One device has nothing to add. XLA does remove a sum over one device, but only after it has chosen what to fuse, so that
    the last bits of a step would not be those of a program without a mesh.
    """
    several = tuple(axis for axis in axes if jax.lax.axis_size(axis) > 1)
    return jax.lax.psum(tree, several) if several else tree  # type: ignore[no-untyped-call]


def reduce_gradient(gradient: jax.Array, spec: P, dtype: Any, stages: Groups) -> jax.Array:
    """The sum of a gradient over all devices, sent in ``dtype``, returned in float32 and spread like its moments."""
    sent = gradient.astype(dtype)
    if "data" not in spec:
        total: jax.Array = sum_over_devices(sent)
        return total.astype(jnp.float32)

    def scatter(whole: jax.Array, axis: int) -> jax.Array:
        for groups in stages:
            whole = jax.lax.psum_scatter(  # type: ignore[no-untyped-call]
                whole, "data", scatter_dimension=axis, tiled=True, axis_index_groups=groups
            )
        return whole

    share: jax.Array = sum_over_devices(_layer_by_layer(scatter, sent, list(spec).index("data")), ("sequence",))
    return share.astype(jnp.float32)


def _layer_by_layer(collective: Callable[[jax.Array, int], jax.Array], x: jax.Array, axis: int) -> jax.Array:
    """``collective(x, axis)``, one layer at a time unless ``axis`` is the layers' own.

    One layer's weights can then travel while another computes, and XLA does not join the gradients of all layers first.
    """
    if x.ndim < 3 or axis == 0:
        return collective(x, axis)
    return jnp.stack([collective(layer, axis - 1) for layer in x])
