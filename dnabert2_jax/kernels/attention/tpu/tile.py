"""What the TPU kernels share: how ALiBi and segments get into a tile of scores, and the layout of the tile.

Layout. q, k, v are token-minor, [head_dim, tokens], and a tile of scores is [keys, queries]. With head_dim 64 no register is
then half empty, both products of the forward pass run without transposing the weights, and reductions over keys are sums of
registers rather than of lanes.

Bias. The matrix unit contracts 128 numbers at the cost of 64, so a tile's bias comes for free as FEATURES extra rows of q
and k:

* ALiBi. Off the diagonal, ``-slope |i - j|`` is a term per query plus a term per key. The key's term is counted from the
  key nearest to the block of queries, so that it is small where the weights are large, and is split into three bfloat16
  numbers that add up to the float32. The query's term is subtracted with the softmax reference, which costs nothing.
  Blocks on the diagonal get their bias from a table of all differences instead (:func:`fill_distance_table`).
* Segments. Each bit of the sequence index has two rows, the bit and its complement, which multiply a large negative number
  where the query's bit differs and an exact zero where it does not. Padding has a row of its own.

Scores and biases stay in units of the products q.k, before the softmax scale, until the reference is subtracted: scores
that matter are close to it, so the difference is exact however large they are. Then a single factor,
:func:`exponent_scale`, turns differences into exponents of 2, which is what the hardware computes.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

LANES = 128

_BIAS_ROWS = 16  # one bfloat16 register: 8 rows for keys before the queries, 8 for keys after; 3 of each are used
SEGMENT_ROWS = 48
FEATURES = _BIAS_ROWS + SEGMENT_ROWS
"""Rows that a tile's bias occupies in the contraction."""

SEGMENT_BITS = 23
"""Sequence indices in a row are below 2^23: two rows per bit and one for padding, in SEGMENT_ROWS."""

_HIDDEN = 2.0**120
"""Subtracted from a score for each differing bit: 2^-x is then 0, and the sum over all bits is still finite in float32."""

FLOOR = -(2.0**100)
"""Initial value of a running maximum: below every real score and above every masked one."""

BEFORE, BEHIND, DIAGONAL = 0, 1, 2
"""Where the keys of a tile lie relative to its queries."""


class Tiling(NamedTuple):
    """How a kernel for long rows is launched.

    Attributes:
        scale: factor of the dot products.
        queries: tokens per block of queries.
        keys: tokens per block of keys.
        resident: keep a whole row on the chip; otherwise copy each block when it is visited.
        vmem: bytes of on-chip memory to use.
        interpret: for `pallas_call`.
    """

    scale: float
    queries: int
    keys: int
    resident: bool
    vmem: int
    interpret: Any

    @property
    def compiler_params(self) -> pltpu.CompilerParams:
        """For a grid of heads, rows and blocks: rows of a head share its table, blocks of a row share scratch."""
        return pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary", "arbitrary"), vmem_limit_bytes=self.vmem)


def result(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    """A result of `pallas_call`."""
    return jax.ShapeDtypeStruct(shape, dtype)  # type: ignore[no-untyped-call]


def dot(a: jax.Array, b: jax.Array, axis_a: int, axis_b: int, *, interpret: bool) -> jax.Array:
    """Matrix product over ``axis_a`` of a and ``axis_b`` of b, accumulated in float32; float32 inputs are not rounded."""
    if interpret:  # XLA for CPUs lacks this product in bfloat16; the same values in float32 give an equally exact result
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    dimensions = (((axis_a,), (axis_b,)), ((), ()))
    return jax.lax.dot_general(a, b, dimensions, precision=precision, preferred_element_type=jnp.float32)


def exponent_scale(scale: float) -> float:
    """2^(this * x) = e^(scale * x)."""
    return scale * math.log2(math.e)


def segment_features(segment_ids: jax.Array, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
    """Rows for queries and for keys whose products are 0 within a sequence and very negative elsewhere.

    Args:
        segment_ids: 0 at padding, else the index of the sequence in its row, below 2^23, [B, T].
        dtype: dtype of q and k.

    Returns:
        [B, 48, T] for the queries and for the keys.
    """
    bits = (segment_ids[:, None, :] >> jnp.arange(SEGMENT_BITS, dtype=segment_ids.dtype)[None, :, None]) & 1
    padding = (segment_ids <= 0)[:, None, :].astype(bits.dtype)
    key = jnp.concatenate([padding, bits, 1 - bits, jnp.zeros_like(padding)], axis=1)
    query = jnp.concatenate([jnp.ones_like(padding), 1 - bits, bits, jnp.zeros_like(padding)], axis=1)
    return query.astype(dtype) * jnp.asarray(-_HIDDEN, dtype), key.astype(dtype)


def key_bias(slopes: jax.Array, scale: float, block: int, dtype: jnp.dtype) -> jax.Array:
    """The keys' term of ALiBi within a block of keys, before the scores are scaled: [H, 16, block]."""
    offset = jnp.arange(block, dtype=jnp.float32)
    slope = slopes[:, None] / scale
    before, behind = _split(slope * (offset - (block - 1))), _split(slope * -offset)
    return jnp.concatenate([before, behind], axis=1).astype(dtype)


def _split(x: jax.Array) -> jax.Array:
    """[H, n] float32 as three bfloat16 numbers that add up to it, followed by zeros, [H, 8, n]."""
    pieces = []
    for _ in range(3):
        piece = jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
        pieces.append(piece)
        x = x - piece
    return jnp.pad(jnp.stack(pieces, axis=1), ((0, 0), (0, _BIAS_ROWS // 2 - 3), (0, 0)))


def query_bias(side: jax.Array | int, block: int, dtype: jnp.dtype) -> jax.Array:
    """Rows for queries that select the keys' term for one side, [16, block]."""
    row = jax.lax.broadcasted_iota(jnp.int32, (_BIAS_ROWS, block), 0)
    return ((row >> 3) == side).astype(jnp.float32).astype(dtype)


def query_shift(side: jax.Array, first_query: jax.Array, first_key: jax.Array, keys: int, queries: int) -> jax.Array:
    """Distance in tokens from each query to the nearest key of an off-diagonal block, float32 [1, queries].

    Together with the keys' term it makes up the whole distance.
    """
    lane = jax.lax.broadcasted_iota(jnp.int32, (1, queries), 1)
    before = first_query + lane - (first_key + (keys - 1))
    behind = first_key - (first_query + lane)
    return jnp.where(side == BEFORE, before, behind).astype(jnp.float32)


def distance_table_shape(queries: int, keys: int) -> tuple[int, int]:
    """Shape of the table of :func:`fill_distance_table` for blocks of these sizes.

    The bias depends only on key - query, so one register's width of queries is enough: a wider block reads further rows.
    """
    return 2 * max(queries, keys) - LANES, LANES


def fill_distance_table(table: jax.Array, slope: jax.Array) -> None:
    """Write ``-slope |difference|`` for every difference of positions in a block on the diagonal.

    Args:
        table: the table, of shape :func:`distance_table_shape`.
        slope: ALiBi slope divided by the softmax scale.
    """
    rows, lanes = table.shape
    row = jax.lax.broadcasted_iota(jnp.int32, (rows, lanes), 0)
    lane = jax.lax.broadcasted_iota(jnp.int32, (rows, lanes), 1)
    table[...] = -slope * jnp.abs((row - lane - _table_origin(rows)).astype(jnp.float32))


def _table_origin(rows: int) -> int:
    """The row of the table in which key and query of lane 0 are at the same position."""
    return (rows + LANES) // 2 - LANES


def distance_bias(table: jax.Array, first_query: jax.Array, first_key: jax.Array, queries: int, keys: int) -> jax.Array:
    """The bias of a tile on the diagonal from the table, [keys, queries]."""
    origin = _table_origin(table.shape[0]) + first_key - first_query
    columns = [table[pl.ds(pl.multiple_of(origin - start, LANES), keys), :] for start in range(0, queries, LANES)]
    return jnp.concatenate(columns, axis=1)
