"""A stack of equal blocks as one, scanned over: compile time does not grow with depth.

What trades memory and traffic for arithmetic belongs here: rematerialization, microbatches and unrolling.
"""

import math
from collections.abc import Callable
from operator import itemgetter
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from dnabert2_jax.modeling.compute import Compute
from dnabert2_jax.parallel.constraints import keep_rows_spread, row_shards

M = TypeVar("M", bound=nnx.Module)


def stack(build: Callable[[nnx.Rngs], M], count: int, rngs: nnx.Rngs) -> M:
    """``count`` independent modules as one whose parameters carry a leading layer axis, ready to be scanned over."""

    def initialize(key: jax.Array) -> Any:
        return nnx.to_pure_dict(nnx.state(build(nnx.Rngs(params=key))))

    graphdef = nnx.graphdef(nnx.eval_shape(lambda: build(nnx.Rngs(params=0))))
    return nnx.merge(graphdef, nnx.State(jax.vmap(initialize)(jax.random.split(rngs.params(), count))))


def scan_layers(
    apply: Callable[[jax.Array, Any, Any], jax.Array], x: jax.Array, rows: Any, layers: Any, compute: Compute
) -> jax.Array:
    """``x = apply(x, rows, layer)`` for each layer in turn.

    Args:
        apply: one layer.
        x: hidden states, [B, T, D].
        rows: what else belongs to the rows, a tree of [B, ...].
        layers: a tree of [N, ...].
        compute: how.
    """
    count = math.gcd(compute.microbatches, max(1, len(x) // row_shards()))
    hidden, others = zip(*_microbatches((x, rows), count), strict=True)

    def one_layer(hidden: Any, layer: Any) -> tuple[Any, None]:
        return tuple(keep_rows_spread(apply(x, rows, layer)) for x, rows in zip(hidden, others, strict=True)), None

    if compute.remat == "full":
        one_layer = jax.checkpoint(one_layer, prevent_cse=False)  # a scan's body needs no barrier against CSE
    hidden, _ = jax.lax.scan(one_layer, hidden, layers, unroll=compute.unroll)
    return keep_rows_spread(jnp.stack(hidden, axis=1).reshape(x.shape))


def _microbatches(rows: Any, count: int) -> list[Any]:
    """A tree of [B, ...] as ``count`` of [B / count, ...].

    Number i has the rows i, i + count, ...: if devices share the rows, each has as many in every microbatch, and none moves.
    """
    cut = jax.tree.map(lambda x: x.reshape(-1, count, *x.shape[1:]), rows)
    return [jax.tree.map(itemgetter((slice(None), index)), cut) for index in range(count)]
