"""Attention under `vmap` and on sharded arrays, for code that XLA cannot batch or partition well by itself.

Attention never mixes rows or heads, so the rows that `vmap` adds are ordinary rows, and each device computes its own rows
and heads without communication. How a device gets them depends on the mesh:

* With a mesh set by `jax.set_mesh`, the call is wrapped in a `shard_map` over it. This is the only way for a TPU kernel:
  libtpu has no custom partitioning.
* Without one, `custom_partitioning` asks XLA how the arrays are sharded. CPU and GPU only.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from dnabert2_jax.platform import current_target

ROW_AXES = ("data", "fsdp")
"""Mesh axes over which rows are sharded when the axes are Auto: a traced array does not reveal its sharding."""

HEAD_AXES = ("tensor",)
"""Mesh axes over which heads are sharded when the axes are Auto."""

_Run = Callable[..., tuple[jax.Array, ...]]


def mappable(run: _Run) -> _Run:
    """``run`` under `vmap` as a single call with more rows, where XLA would loop over calls.

    Args:
        run: a function of arrays with leading rows, and of slopes [H], the one argument with a single axis.
    """
    folded = custom_vmap(run)

    @folded.def_vmap
    def _(size: int, batched: list[bool], *arrays: jax.Array) -> tuple[Any, Any]:
        slopes = next(i for i, (x, is_batched) in enumerate(zip(arrays, batched, strict=True)) if x.ndim == 1 + is_batched)
        if batched[slopes]:
            raise NotImplementedError("attention cannot be mapped over slopes")

        def fold(index: int) -> jax.Array:
            x = arrays[index]
            if index == slopes:
                return x
            x = x if batched[index] else jnp.broadcast_to(x, (size, *x.shape))
            return x.reshape(-1, *x.shape[2:])

        results = jax.tree.map(lambda x: x.reshape(size, -1, *x.shape[1:]), run(*map(fold, range(len(arrays)))))
        return results, jax.tree.map(lambda _: True, results)

    return folded


def per_shard(run: _Run, equation: str) -> _Run:
    """``run`` on each device's own rows and heads; any other axis is gathered first if it is sharded.

    Args:
        run: a function from arrays to several arrays; the first argument has both axes, b and h.
        equation: axes of its arguments and results, as in an einsum: b rows, h heads; all other axes stay unsharded.
    """
    arguments, results = (side.split(",") for side in equation.split("->"))
    partitioned = _partitioned(run, arguments, results)

    def sharded(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        mesh = jax.sharding.get_abstract_mesh()
        free = {name for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind != AxisType.Manual}
        if mesh.empty and current_target().platform != "tpu":
            return partitioned(*arrays)
        if math.prod(mesh.shape[name] for name in free) == 1:
            return run(*arrays)
        axes = _axes(mesh, arrays[0], arguments[0])
        if AxisType.Explicit in mesh.axis_types:
            arrays = tuple(map(jax.sharding.reshard, arrays, _specs(arguments, axes)))
        return jax.shard_map(
            run, in_specs=_specs(arguments, axes), out_specs=_specs(results, axes), axis_names=free, check_vma=False
        )(*arrays)

    return sharded


def _specs(side: list[str], axes: dict[str, Any]) -> tuple[PartitionSpec, ...]:
    return tuple(PartitionSpec(*map(axes.get, letters)) for letters in side)  # type: ignore[no-untyped-call]


def _axes(mesh: Any, array: jax.Array, letters: str) -> dict[str, Any]:
    """Mesh axes of rows (b) and heads (h) in the current mesh."""
    if AxisType.Explicit in mesh.axis_types:
        spec = (*jax.typeof(array).sharding.spec, *[None] * len(letters))
        return {letter: spec[letters.index(letter)] for letter in "bh"}
    chosen: dict[str, Any] = {}
    for letter, names in (("b", ROW_AXES), ("h", HEAD_AXES)):
        taken: list[str] = []
        for name in names:  # if an axis does not divide the rows, all of its devices compute the same rows
            devices = math.prod(mesh.shape[n] for n in [*taken, name] if n in mesh.shape)
            if name in mesh.shape and array.shape[letters.index(letter)] % devices == 0:
                taken.append(name)
        chosen[letter] = tuple(taken) or None
    return chosen


def _partitioned(run: _Run, arguments: list[str], results: list[str]) -> _Run:
    def partition(mesh: Any, shapes: Any, _: Any) -> tuple[Any, ...]:
        spec = (*shapes[0].sharding.spec, *[None] * len(arguments[0]))
        axes = {letter: spec[arguments[0].index(letter)] for letter in "bh"}

        def shardings(side: list[str]) -> tuple[NamedSharding, ...]:
            return tuple(NamedSharding(mesh, spec) for spec in _specs(side, axes))

        return mesh, run, shardings(results), shardings(arguments)

    sharded = custom_partitioning(run)  # type: ignore[no-untyped-call]
    rule = " -> ".join(", ".join(" ".join(letters) for letters in side) for side in (arguments, results))
    whole = tuple(x for x in dict.fromkeys("".join(arguments)) if x not in "bh")  # the verifier needs the rule's own order
    sharded.def_partition(partition=partition, sharding_rule=rule, need_replication_factors=whole)  # type: ignore[no-untyped-call]
    return sharded
