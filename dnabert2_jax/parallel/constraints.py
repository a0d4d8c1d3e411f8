"""Sharding constraints on what a step computes, in effect only while tracing a step that XLA divides among devices.

And, for a step that is a function of each device, which tokens of a row it has.
"""

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from dnabert2_jax.parallel.mesh import AXES, ROWS, WHOLE


def keep_rows_spread(x: jax.Array) -> jax.Array:
    """Activations [B, ...] with rows over ``data`` and ``fsdp`` and everything else whole.

    Left to itself, XLA lets the sharding of a weight spill into activations, and moves those instead of the weight.
    """
    return _constrain(x, ROWS)


def keep_whole(x: jax.Array) -> jax.Array:
    """A weight replicated on every device, for lookups: XLA partitions gathers poorly."""
    return _constrain(x, WHOLE)


def keep_columns_spread(kernel: jax.Array) -> jax.Array:
    """A weight [in, n, out / n], the columns of each of the n blocks over ``tensor``."""
    return _constrain(kernel, P("fsdp", None, "tensor"))  # type: ignore[no-untyped-call]


def is_divided() -> bool:
    """Whether this is traced for a step that XLA divides among devices."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.axis_names == AXES and set(mesh.axis_types) == {AxisType.Auto}


def row_shards() -> int:
    """Number of devices that the rows of a traced array are spread over; 1 inside a function of each device."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.shape["data"] * mesh.shape["fsdp"] if is_divided() else 1


def token_shards() -> int:
    """Number of devices that share the tokens of each row, inside a function of each device; 1 elsewhere."""
    return int(jax.sharding.get_abstract_mesh().shape.get("sequence", 1))


def positions_here(tokens: int) -> jax.Array:
    """The position in its row of each of the ``tokens`` of a row that this device has, int32 [T]."""
    positions = jnp.arange(tokens)
    return positions if token_shards() == 1 else positions + tokens * jax.lax.axis_index("sequence")


def _constrain(x: jax.Array, spec: P) -> jax.Array:
    return jax.lax.with_sharding_constraint(x, spec) if is_divided() else x  # type: ignore[no-untyped-call]
