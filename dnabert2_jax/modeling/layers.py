"""The layers that the encoder and its heads are made of.

Every parameter is declared once, by :func:`parameter`: shape, initial value and the logical name of each axis (from which a
mesh's sharding follows). Weights are float32; each layer computes in the dtype of its input.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from dnabert2_jax.modeling.elementwise import add_bias, layer_norm
from dnabert2_jax.modeling.lora import LowRank
from dnabert2_jax.modeling.matmul import einsum, project_in_halves

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
        y = einsum("...i,io->...o", x, self.kernel[...].astype(x.dtype))
        if self.bias is not None:
            y = add_bias(y, self.bias[...].astype(x.dtype))
        return y if low_rank is None else y + low_rank(x)


class GatedDense(Dense):
    """A map to gate and value, the two halves of the output, without bias."""

    def halves(self, x: jax.Array, low_rank: LowRank | None) -> tuple[jax.Array, jax.Array]:
        """[B, T, in] -> gate and value, [B, T, out / 2] each."""
        gate, value = project_in_halves(x, self.kernel[...].astype(x.dtype))
        if low_rank is None:
            return gate, value
        to_gate, to_value = jnp.split(low_rank(x), 2, axis=-1)
        return gate + to_gate, value + to_value


_THIRDS = "qkv"  # of the columns of the fused projection


class DenseToHeads(Dense):
    """The fused projection to queries, keys and values, written straight into the layout that a kernel reads.

    A layout orders the letters b (rows), t (tokens), h (heads) and d (width of a head).
    """

    def heads(
        self, x: jax.Array, layout: str, num_heads: int, low_rank: LowRank | None, wanted: str = _THIRDS
    ) -> tuple[jax.Array, ...]:
        """[B, T, in] -> one array of ``num_heads`` heads in ``layout`` for each letter of ``wanted``."""
        assert self.bias is not None

        def cut(weight: jax.Array) -> jax.Array:
            return weight.reshape(*weight.shape[:-1], len(_THIRDS), num_heads, -1).astype(x.dtype)

        kernel, bias = cut(self.kernel[...]), cut(self.bias[...])
        # The bias [h, d] takes the layout's order and ones elsewhere, so that it broadcasts.
        order = [axis for axis in layout if axis in "hd"]
        spread = tuple(slice(None) if axis in "hd" else None for axis in layout)
        added = None if low_rank is None else (low_rank.reduce(x), cut(low_rank.b))
        outputs = []
        for third in map(_THIRDS.index, wanted):
            y = einsum(f"btc,chd->{layout}", x, kernel[:, third])
            if added is not None:
                reduced, b = added
                y = y + einsum(f"btr,rhd->{layout}", reduced, b[:, third])
            outputs.append(add_bias(y, jnp.einsum(f"hd->{''.join(order)}", bias[third])[spread]))
        return tuple(outputs)


class DenseFromHeads(Dense):
    """The projection of attention's output, read straight from the layout that a kernel writes."""

    def from_heads(self, x: jax.Array, layout: str, low_rank: LowRank | None) -> jax.Array:
        """Heads in ``layout`` -> [B, T, out]: the inverse arrangement of :meth:`DenseToHeads.heads`."""
        assert self.bias is not None
        kernel, num_heads = self.kernel[...].astype(x.dtype), x.shape[layout.index("h")]
        y = einsum(f"{layout},hdc->btc", x, kernel.reshape(num_heads, -1, kernel.shape[1]))
        y = add_bias(y, self.bias[...].astype(x.dtype))
        if low_rank is None:
            return y
        plain = jnp.einsum(f"{layout}->bthd", x)  # the term's dropout is by token and channel
        return y + low_rank(plain.reshape(*plain.shape[:2], -1))


class LayerNorm(nnx.Module):
    """LayerNorm over the last axis, computed in float32. Parameters: ``scale`` and ``bias`` [D]."""

    def __init__(self, rngs: nnx.Rngs, size: int, epsilon: float) -> None:
        self.scale = parameter(rngs, ones, (size,), ("hidden",))
        self.bias = parameter(rngs, zeros, (size,), ("hidden",))
        self.epsilon = epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] -> [..., D] in the dtype of ``x``."""
        return layer_norm(x, self.scale[...], self.bias[...], self.epsilon)
