"""The TPU kernel for rows of one register (128 tokens), the shape of pretraining; several heads share a grid step.

A row is a single tile here: no running sums, no skipping, and the bias is added rather than contracted. What is left is a
chain of dependent steps, so the heads of a group run each step together and fill each other's stalls. The kernel is
memory-bound: on v5e, four arrays of 16 KiB per head take 120 cycles, the computation of the forward pass 82.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from dnabert2_jax.kernels.attention.kernel import Inputs
from dnabert2_jax.kernels.attention.tpu import tile
from dnabert2_jax.kernels.attention.tpu.tile import FLOOR, LANES

_GROUP = 12  # heads per grid step in the forward pass
_BACKWARD_GROUP = 4


def _group(heads: int, largest: int) -> int:
    return max(n for n in range(1, largest + 1) if heads % n == 0)


def _biased_scores(
    slopes_ref: Any, q_ref: Any, k_ref: Any, query_segments_ref: Any, key_segments_ref: Any, *, scale: float, dot: Any
) -> list[jax.Array]:
    """Scores before the softmax scale, [keys, queries], for each head of the group."""
    key = jax.lax.broadcasted_iota(jnp.int32, (LANES, LANES), 0)
    query = jax.lax.broadcasted_iota(jnp.int32, (LANES, LANES), 1)
    distance = jnp.abs(key - query).astype(jnp.float32)
    group = q_ref.shape[1]
    scores = []
    for head in range(group):
        keys = jnp.concatenate([k_ref[0, head], key_segments_ref[0]], axis=0).T
        queries = jnp.concatenate([q_ref[0, head], query_segments_ref[0]], axis=0)
        slope = slopes_ref[pl.program_id(1) * group + head] / scale
        scores.append(dot(keys, queries, 1, 0) - slope * distance)
    return scores


def _forward_kernel(
    slopes_ref: Any,
    q_ref: Any,
    k_ref: Any,
    v_ref: Any,
    query_segments_ref: Any,
    key_segments_ref: Any,
    output_ref: Any,
    log_sum_exp_ref: Any,
    *,
    scale: float,
    interpret: bool,
) -> None:
    dot = functools.partial(tile.dot, interpret=interpret)
    to_exponent = tile.exponent_scale(scale)
    scores = _biased_scores(slopes_ref, q_ref, k_ref, query_segments_ref, key_segments_ref, scale=scale, dot=dot)
    # The floor is above masked scores: rows with no visible key (padding) get zero weights, output and sum.
    references = [jnp.maximum(jnp.max(s, axis=0, keepdims=True), FLOOR) for s in scores]
    weights = [jnp.exp2((s - m) * to_exponent) for s, m in zip(scores, references, strict=True)]
    sums = [jnp.sum(w, axis=0, keepdims=True) for w in weights]
    outputs = [dot(v_ref[0, head], w.astype(v_ref.dtype), 1, 0) for head, w in enumerate(weights)]
    for head, (reference, total, output) in enumerate(zip(references, sums, outputs, strict=True)):
        total = jnp.where(total > 0, total, 1.0)
        output_ref[0, head] = (output * (1.0 / total)).astype(output_ref.dtype)
        log_sum_exp_ref[0, head] = reference + jnp.log2(total) / to_exponent


def _backward_kernel(
    slopes_ref: Any,
    q_ref: Any,
    k_ref: Any,
    v_ref: Any,
    query_segments_ref: Any,
    key_segments_ref: Any,
    output_ref: Any,
    d_output_ref: Any,
    rows_ref: Any,
    dq_ref: Any,
    dk_ref: Any,
    dv_ref: Any,
    *,
    scale: float,
    interpret: bool,
) -> None:
    dot = functools.partial(tile.dot, interpret=interpret)
    to_exponent = tile.exponent_scale(scale)
    dtype = q_ref.dtype
    heads = range(q_ref.shape[1])
    scores = _biased_scores(slopes_ref, q_ref, k_ref, query_segments_ref, key_segments_ref, scale=scale, dot=dot)
    weights = [jnp.exp2((scores[h] - rows_ref[0, h, 0:1]) * to_exponent) for h in heads]
    d_weights = [dot(v_ref[0, h].T, d_output_ref[0, h], 1, 0) for h in heads]
    d_scores = []
    for h in heads:
        products = d_output_ref[0, h].astype(jnp.float32) * output_ref[0, h].astype(jnp.float32)
        delta = jnp.sum(products, axis=0, keepdims=True)
        if rows_ref.shape[2] == 2:
            delta = delta - rows_ref[0, h, 1:2]
        d_scores.append((weights[h] * (d_weights[h] - delta)).astype(dtype))
    for h in heads:
        dv_ref[0, h] = dot(d_output_ref[0, h], weights[h].astype(dtype), 1, 1).astype(dtype)
        dk_ref[0, h] = (dot(q_ref[0, h], d_scores[h], 1, 1) * scale).astype(dtype)
        dq_ref[0, h] = (dot(k_ref[0, h], d_scores[h], 1, 0) * scale).astype(dtype)


def _call(
    kernel: Callable[..., None],
    name: str,
    max_group: int,
    inputs: Inputs,
    more: list[jax.Array],
    results: list[Any],
    *,
    scale: float,
    interpret: Any,
) -> Any:
    """Run a kernel over all rows and groups of heads.

    Args:
        kernel: its refs are slopes, q, k, v, segments of queries and of keys, ``more`` and the results, in this order.
        name: name of the call.
        max_group: maximum number of heads in a group.
        inputs: the arrays.
        more: additional arrays, [B, H, n, 128].
        results: shapes and dtypes, [B, H, n, 128].
        scale: factor of the dot products.
        interpret: for `pallas_call`.
    """
    q, k, v, slopes, segment_ids = inputs
    blocked = [q, k, v, *tile.segment_features(segment_ids, q.dtype), *more]
    batch, heads = results[0].shape[:2]
    group = _group(heads, max_group)

    def spec(x: Any) -> pl.BlockSpec:
        if x.ndim == 3:
            return pl.BlockSpec((1, *x.shape[1:]), lambda b, h, *_: (b, 0, 0))
        return pl.BlockSpec((1, group, *x.shape[2:]), lambda b, h, *_: (b, h, 0, 0))

    return pl.pallas_call(
        functools.partial(kernel, scale=scale, interpret=bool(interpret)),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(batch, heads // group),
            in_specs=[spec(x) for x in blocked],
            out_specs=[spec(x) for x in results],
        ),
        out_shape=results,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel")),
        interpret=interpret,
        name=name,
    )(slopes, *blocked)


def short_forward(inputs: Inputs, *, scale: float, interpret: Any) -> tuple[jax.Array, jax.Array]:
    """Attention output [B, H, d, 128] and log-sum-exp divided by the scale, float32 [B, H, 1, 128]."""
    q = inputs.q
    results = [tile.result(q.shape, q.dtype), tile.result((*q.shape[:2], 1, LANES), jnp.float32)]
    return _call(
        _forward_kernel, "alibi_attention_short_forward", _GROUP, inputs, [], results, scale=scale, interpret=interpret
    )


def short_backward(
    inputs: Inputs, output: jax.Array, d_output: jax.Array, rows: jax.Array, *, scale: float, interpret: Any
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients of q, k and v, [B, H, d, 128] each.

    Args:
        inputs: inputs of the forward pass.
        output: output of the forward pass, [B, H, d, 128].
        d_output: its cotangent.
        rows: log-sum-exp divided by the scale and, if it has one, its cotangent, [B, H, 1 or 2, 128].
        scale: factor of the dot products.
        interpret: for `pallas_call`.
    """
    name, more = "alibi_attention_short_backward", [output, d_output, rows]
    results = [tile.result(inputs.q.shape, inputs.q.dtype)] * 3
    return _call(_backward_kernel, name, _BACKWARD_GROUP, inputs, more, results, scale=scale, interpret=interpret)
