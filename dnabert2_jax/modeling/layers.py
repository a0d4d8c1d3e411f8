"""The layers that the encoder and its heads are made of.

Every parameter is declared once, by :func:`parameter`: shape, initial value and the logical name of each axis (from which a
mesh's sharding follows). Weights are float32; each layer computes in the dtype of its input.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from dnabert2_jax.modeling.elementwise import add_bias, dropout, layer_norm
from dnabert2_jax.modeling.products import product
from dnabert2_jax.parallel.constraints import is_divided, keep_columns_spread
from dnabert2_jax.platform import current_target

Initializer = Callable[[jax.Array, tuple[int, ...]], jax.Array]


def parameter(rngs: nnx.Rngs, init: Initializer, shape: tuple[int, ...], axes: tuple[str, ...]) -> nnx.Param[jax.Array]:
    """One float32 parameter with the logical names of its axes as metadata ``axes``."""
    if len(shape) != len(axes):
        raise ValueError(f"a parameter of shape {shape} needs as many axis names, found {axes}")
    return nnx.Param(init(rngs.params(), shape), axes=axes)


def normal(stddev: float) -> Initializer:
    """Normal initial values, as BERT's ``initializer_range``."""
    return lambda key, shape: stddev * jax.random.normal(key, shape, jnp.float32)


def zeros(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Zero initial values."""
    return jnp.zeros(shape, jnp.float32)


def ones(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Initial values of one."""
    return jnp.ones(shape, jnp.float32)


class LowRank(NamedTuple):
    """A LoRA term of one layer's projection: scale * (drop(x) A) B is added to x W.

    Attributes:
        a: [in, r].
        b: [r, out].
        scale: alpha / r.
        dropout: rate on the input of the term.
        seeds: one a row, [B]; None outside training.
        site: number of the dropout site.
        positions: where in its row each token of x stands, [B, T]; None: x is whole rows.
    """

    a: jax.Array
    b: jax.Array
    scale: float
    dropout: float
    seeds: jax.Array | None
    site: int | jax.Array
    positions: jax.Array | None = None

    def reduce(self, x: jax.Array) -> jax.Array:
        """The inner activations scale * drop(x) A, [B, T, r]."""
        dropped = dropout(x, self.dropout, self.seeds, self.site, self.positions)
        return product("btc,cr->btr", dropped, self.a.astype(x.dtype)) * self.scale

    def add_to(self, y: jax.Array, x: jax.Array) -> jax.Array:
        """``y`` [B, T, out] and the term for ``x`` [B, T, in]."""
        return y + product("btr,ro->bto", self.reduce(x), self.b.astype(x.dtype))


_PARTS = "qkv"  # the thirds of the columns of Wqkv


class Dense(nnx.Module):
    """An affine map of the last axis.

    Parameters: ``kernel`` [in, out] and, unless ``use_bias`` is False, ``bias`` [out].
    """

    def __init__(
        self, rngs: nnx.Rngs, shape: tuple[int, int], axes: tuple[str, str], stddev: float, *, use_bias: bool = True
    ) -> None:
        self.kernel = parameter(rngs, normal(stddev), shape, axes)
        self.bias = nnx.data(parameter(rngs, zeros, shape[1:], axes[1:]) if use_bias else None)

    def __call__(self, x: jax.Array, low_rank: LowRank | None = None) -> jax.Array:
        """[..., in] -> [..., out]; with ``low_rank``, x must be [B, T, in]."""
        y = product("...i,io->...o", x, self.kernel[...].astype(x.dtype))
        if self.bias is not None:
            y = add_bias(y, self.bias[...].astype(x.dtype))
        if low_rank is not None:
            y = low_rank.add_to(y, x)
        return y

    def halves(self, x: jax.Array, low_rank: LowRank | None) -> tuple[jax.Array, jax.Array]:
        """Project [B, T, in] to the two halves of the output, [B, T, out / 2] each."""
        if low_rank is None and (is_divided() or current_target().platform == "tpu"):
            # The joint weight, divided along its columns, leaves one half on some devices and the other on others; and on a
            # TPU, joining the gradients of the halves is fused into every tile of the backward product. Halves of the weight
            # are cheaper to move than halves of activations. Elsewhere one large product is faster than two.
            joint = self.kernel[...].astype(x.dtype)
            kernel = keep_columns_spread(joint.reshape(len(joint), 2, -1))
            return product("bti,io->bto", x, kernel[:, 0]), product("bti,io->bto", x, kernel[:, 1])
        first, second = jnp.split(self(x, low_rank), 2, axis=-1)
        return first, second

    def heads(
        self, x: jax.Array, layout: str, parts: str, num_heads: int, low_rank: LowRank | None
    ) -> tuple[jax.Array, ...]:
        """Project [B, T, in] to arrays of ``num_heads`` heads, each written straight into ``layout``.

        Args:
            x: the input.
            layout: order of the letters b (rows), t (tokens), h (heads) and d (width of a head).
            parts: which of q, k and v, the thirds of the columns, as letters.
            num_heads: heads of each.
            low_rank: a term to add.
        """
        assert self.bias is not None

        def cut(weight: jax.Array) -> jax.Array:
            return weight.reshape(*weight.shape[:-1], len(_PARTS), num_heads, -1).astype(x.dtype)

        kernel, bias = cut(self.kernel[...]), cut(self.bias[...])
        # The bias [h, d] takes the layout's order and ones elsewhere, so that it broadcasts.
        order = [axis for axis in layout if axis in "hd"]
        spread = tuple(slice(None) if axis in "hd" else None for axis in layout)
        added = None if low_rank is None else (low_rank.reduce(x), cut(low_rank.b))
        outputs = []
        for part in map(_PARTS.index, parts):
            y = product(f"btc,chd->{layout}", x, kernel[:, part])
            if added is not None:
                reduced, b = added
                y = y + product(f"btr,rhd->{layout}", reduced, b[:, part])
            outputs.append(add_bias(y, jnp.einsum(f"hd->{''.join(order)}", bias[part])[spread]))
        return tuple(outputs)

    def from_heads(self, x: jax.Array, layout: str, num_heads: int, low_rank: LowRank | None) -> jax.Array:
        """Project heads in ``layout`` to [B, T, out]: the inverse arrangement of :meth:`heads`."""
        assert self.bias is not None
        kernel = self.kernel[...].astype(x.dtype)
        y = product(f"{layout},hdc->btc", x, kernel.reshape(num_heads, -1, kernel.shape[1]))
        y = add_bias(y, self.bias[...].astype(x.dtype))
        if low_rank is not None:  # its dropout is by token and channel, which wants the plain layout
            plain = jnp.einsum(f"{layout}->bthd", x)
            y = low_rank.add_to(y, plain.reshape(*plain.shape[:2], -1))
        return y


class LayerNorm(nnx.Module):
    """LayerNorm over the last axis, computed in float32. Parameters: ``scale`` and ``bias`` [D]."""

    def __init__(self, rngs: nnx.Rngs, size: int, epsilon: float) -> None:
        self.scale = parameter(rngs, ones, (size,), ("hidden",))
        self.bias = parameter(rngs, zeros, (size,), ("hidden",))
        self.epsilon = epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] -> [..., D] in the dtype of ``x``."""
        return layer_norm(x, self.scale[...], self.bias[...], self.epsilon)
