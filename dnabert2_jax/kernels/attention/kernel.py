"""What an attention backend computes, and the code around every kernel: padding, the gradient, `vmap` and sharding."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from dnabert2_jax.kernels.attention.sharding import mappable, per_shard


class Inputs(NamedTuple):
    """Inputs of attention. A layout orders the axes b (rows), t (tokens), h (heads) and d (head width).

    Attributes:
        q: queries, in the backend's layout.
        k: keys, like q.
        v: values, like q.
        slopes: ALiBi slopes, float32 [H]; constants, without a gradient.
        segment_ids: 0 at padding, else the index of the sequence in its row, int32 [B, T].
    """

    q: jax.Array
    k: jax.Array
    v: jax.Array
    slopes: jax.Array
    segment_ids: jax.Array


class AttentionFunction(Protocol):
    """softmax(scale * q k^T - slope |i - j|) v over the tokens of each token's own segment."""

    def __call__(self, inputs: Inputs, *, scale: float, skip: bool) -> tuple[jax.Array, jax.Array]:
        """Compute attention.

        Args:
            inputs: the arrays.
            scale: factor of the dot products, positive.
            skip: skip keys that ALiBi makes irrelevant (:mod:`~dnabert2_jax.kernels.attention.skipping`).

        Returns:
            The output, in the layout and dtype of ``q``, zeros at padding; and the log-sum-exp of the scores, float32
            [B, H, T], undefined at padding.
        """
        ...


class Saved(NamedTuple):
    """What the forward pass saves for the backward pass.

    Attributes:
        output: the output, like q.
        log_sum_exp: log-sum-exp of the scores, in the kernel's own unit, float32 [B, H, P].
        bound: S of :mod:`~dnabert2_jax.kernels.attention.skipping`, float32 [B, H], if the kernel saves it.
    """

    output: jax.Array
    log_sum_exp: jax.Array
    bound: jax.Array | None = None


class Gradients(NamedTuple):
    """Gradients of q, k and v."""

    q: jax.Array
    k: jax.Array
    v: jax.Array


@dataclass(frozen=True)
class Kernel(ABC):
    """A forward and a backward pass with their static settings; equal settings share one compiled program.

    Attributes:
        scale: factor of the dot products.
        skip: skip keys that ALiBi makes irrelevant.
    """

    scale: float
    skip: bool

    @property
    @abstractmethod
    def layout(self) -> str:
        """Axis order of q, k, v and the output."""

    @property
    def saves_bound(self) -> bool:
        """Whether ``forward`` returns the bound S."""
        return False

    @property
    def nats(self) -> float:
        """Nats per unit of the kernel's own log-sum-exp."""
        return 1.0

    @property
    def single_device(self) -> bool:
        """Whether it cannot be sharded over devices."""
        return False

    @abstractmethod
    def pad(self, inputs: Inputs) -> Inputs:
        """Pad to whole blocks: segment ids [B, P], P at least T."""

    @abstractmethod
    def forward(self, inputs: Inputs) -> Saved:
        """The output and what else the backward pass needs, for one device's rows and heads."""

    @abstractmethod
    def backward(self, inputs: Inputs, saved: Saved, d_output: jax.Array, d_log_sum_exp: jax.Array | None) -> Gradients:
        """The gradients, for one device's rows and heads.

        Args:
            inputs: inputs of the forward pass.
            saved: its results.
            d_output: cotangent of the output.
            d_log_sum_exp: cotangent of the natural log-sum-exp, float32 [B, H, P]; None if nothing depends on it. The
                derivative of the log-sum-exp is the weights P, so this cotangent is subtracted from FlashAttention-2's D,
                the row sums of dO * O.
        """

    def __call__(self, inputs: Inputs) -> tuple[jax.Array, jax.Array]:
        """Output and natural log-sum-exp; see :class:`AttentionFunction`."""
        output, log_sum_exp = _attention(self, *self.pad(inputs))
        return output[tuple(map(slice, inputs.q.shape))], log_sum_exp[:, :, : inputs.segment_ids.shape[1]]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(kernel: Kernel, *inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    output, log_sum_exp, *_ = _forward(kernel)(*inputs)
    return output, log_sum_exp * kernel.nats


def _attention_fwd(kernel: Kernel, *primals: Any) -> tuple[tuple[jax.Array, jax.Array], Any]:
    inputs = tuple(primal.value for primal in primals)
    saved = _forward(kernel)(*inputs)
    return (saved[0], saved[1] * kernel.nats), (inputs, saved)


def _attention_bwd(kernel: Kernel, kept: Any, cotangents: tuple[jax.Array, jax.Array]) -> tuple[Any, ...]:
    inputs, saved = kept
    d_output, d_log_sum_exp = cotangents
    if isinstance(d_output, SymbolicZero):
        d_output = jnp.zeros_like(saved[0])
    asked = [] if isinstance(d_log_sum_exp, SymbolicZero) else [d_log_sum_exp]
    gradients = _backward(kernel, bool(asked))(*inputs, *saved, d_output, *asked)
    # Slopes are constants of the architecture and segment ids are integers: neither has a gradient.
    slopes, segment_ids = inputs[3:]
    return *gradients, jnp.zeros_like(slopes), np.zeros(segment_ids.shape, jax.dtypes.float0)


# Symbolic zeros: the log-sum-exp is rarely differentiated, so its cotangent need not be an array of zeros.
_attention.defvjp(_attention_fwd, _attention_bwd, symbolic_zeros=True)


@cache
def _forward(kernel: Kernel) -> Callable[..., tuple[jax.Array, ...]]:
    """The arrays of :class:`Inputs` -> those of :class:`Saved`, however they are sharded."""

    def run(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(x for x in kernel.forward(Inputs(*arrays)) if x is not None)

    return _on_devices(kernel, run, f"{_input_axes(kernel)}->{_saved_axes(kernel)}")


@cache
def _backward(kernel: Kernel, differentiates_log_sum_exp: bool) -> Callable[..., tuple[jax.Array, ...]]:
    """The arrays of :class:`Inputs` and of :class:`Saved`, d output, [d log-sum-exp] -> gradients, sharded in any way."""
    layout, cut = kernel.layout, 8 if kernel.saves_bound else 7

    def run(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        d_output, d_log_sum_exp = (*arrays[cut:], None)[:2]
        assert d_output is not None
        return tuple(kernel.backward(Inputs(*arrays[:5]), Saved(*arrays[5:cut]), d_output, d_log_sum_exp))

    cotangents = f"{layout},bhp" if differentiates_log_sum_exp else layout
    arguments = f"{_input_axes(kernel)},{_saved_axes(kernel)},{cotangents}"
    return _on_devices(kernel, run, f"{arguments}->{layout},{layout},{layout}")


def _on_devices(
    kernel: Kernel, run: Callable[..., tuple[jax.Array, ...]], axes: str
) -> Callable[..., tuple[jax.Array, ...]]:
    return mappable(run if kernel.single_device else per_shard(run, axes))


def _input_axes(kernel: Kernel) -> str:
    return f"{kernel.layout},{kernel.layout},{kernel.layout},h,bp"


def _saved_axes(kernel: Kernel) -> str:
    return f"{kernel.layout},bhp,bh" if kernel.saves_bound else f"{kernel.layout},bhp"
