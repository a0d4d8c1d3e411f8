"""Attention in rows whose tokens devices share: blocks of keys and values go from neighbor to neighbor.

As in Ring Attention (Liu et al. 2023), each device keeps its queries, visits the keys and values of other devices, and folds
them into the softmax of its own; the backward pass sends the gradients of a block back to where it came from. Two things
differ, because ALiBi is symmetric and decays. Blocks come from both sides. And they come nearest first, only as far as the
radius of the widest head (:mod:`~dnabert2_jax.kernels.attention.skipping`), which in long rows is a small part of what even
a neighbor has; the number of blocks is data, and the same on all devices.

A device's own tokens are the work of any :class:`~dnabert2_jax.kernels.attention.kernel.Kernel`; visitors are that of
:mod:`~dnabert2_jax.kernels.attention.shard`.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from dnabert2_jax.kernels.attention.kernel import Gradients, Inputs, Kernel, Saved
from dnabert2_jax.kernels.attention.shard import Shard, Visitor
from dnabert2_jax.kernels.attention.skipping import bound_of_norms, longest_norm, number_span, skip_radius
from dnabert2_jax.parallel.constraints import token_shards

BLOCK = 512
"""Maximum tokens that travel together, and queries that they meet at a time."""


def attend(kernel: Kernel, inputs: Inputs) -> tuple[jax.Array, jax.Array]:
    """The :class:`~dnabert2_jax.kernels.attention.kernel.AttentionFunction` of a kernel.

    Where devices share the tokens of a row, ``inputs`` and the results are of this device's tokens, and attention is over
    those of all.
    """
    return (kernel if token_shards() == 1 else Ring(kernel.scale, kernel.skip, kernel))(inputs)


@dataclass(frozen=True)
class Ring(Kernel):
    """A kernel for a device's own tokens, and visitors from other devices. The log-sum-exp is in nats, and 0 at padding.

    Attributes:
        own: the kernel.
        block: as :data:`BLOCK`.
    """

    own: Kernel
    block: int = BLOCK

    @property
    def layout(self) -> str:  # noqa: D102
        return self.own.layout

    @property
    def saves_bound(self) -> bool:  # noqa: D102
        return self.own.saves_bound

    def pad(self, inputs: Inputs) -> Inputs:
        """Nothing: positions go on from device to device. Each pads what it has."""
        return inputs

    def forward(self, inputs: Inputs) -> Saved:  # noqa: D102
        tokens = inputs.segment_ids.shape[1]
        own = self.own.forward(self.own.pad(inputs))
        log_sum_exp = jnp.where(inputs.segment_ids[:, None] > 0, own.log_sum_exp[:, :, :tokens] * self.own.nats, 0.0)
        state = self._flat(_cut(own.output, inputs.q)).astype(jnp.float32), self._flat_rows(log_sum_exp)
        output, rows = (shard := self._shard(inputs)).visit(shard.fold_in, state)
        return Saved(self._unflat(output, inputs.q), rows[:, :tokens].reshape(log_sum_exp.shape), own.bound)

    def backward(  # noqa: D102
        self, inputs: Inputs, saved: Saved, d_output: jax.Array, d_log_sum_exp: jax.Array | None
    ) -> Gradients:
        own = self._own_gradients(inputs, saved, d_output, d_log_sum_exp)
        do, output = self._flat(d_output), self._flat(saved.output)
        delta = (do.astype(jnp.float32) * output.astype(jnp.float32)).sum(1)
        if d_log_sum_exp is not None:
            delta = delta - self._flat_rows(d_log_sum_exp)
        rows = do, self._flat_rows(saved.log_sum_exp), delta
        shard = self._shard(inputs)

        def fold(visitor: Visitor, sums: Gradients) -> Gradients:
            dq, parts = shard.gradients(visitor, sums.q, rows)
            dk, dv = (
                jax.lax.dynamic_update_slice_in_dim(
                    x, jax.lax.dynamic_slice_in_dim(x, visitor.place, shard.block, 2) + part, visitor.place, 2
                )
                for x, part in zip(sums[1:], visitor.send_home(parts), strict=True)
            )
            return Gradients(dq, dk, dv)

        sums = shard.visit(fold, Gradients(*(self._flat(x).astype(jnp.float32) for x in own)))
        return Gradients(*(self._unflat(x, inputs.q) for x in sums))

    def _own_gradients(
        self, inputs: Inputs, saved: Saved, d_output: jax.Array, d_log_sum_exp: jax.Array | None
    ) -> Gradients:
        """The own kernel's backward pass with the log-sum-exp and the output of all tokens: its part of the gradients."""
        padded, results = self.own.pad(inputs), self.own.pad(inputs._replace(q=saved.output, k=d_output))
        missing = padded.segment_ids.shape[1] - inputs.segment_ids.shape[1]
        log_sum_exp, cotangent = (
            None if x is None else jnp.pad(x, ((0, 0), (0, 0), (0, missing)))
            for x in (saved.log_sum_exp / self.own.nats, d_log_sum_exp)
        )
        assert log_sum_exp is not None
        gradients = self.own.backward(padded, Saved(results.q, log_sum_exp, saved.bound), results.k, cotangent)
        return Gradients(*(_cut(x, inputs.q) for x in gradients))

    def _shard(self, inputs: Inputs) -> Shard:
        q, k, v, slopes, segment_ids = inputs
        (rows, tokens), heads = segment_ids.shape, len(slopes)
        whole = token_shards() * tokens
        radius = jnp.full((rows, heads), whole, jnp.int32)
        if self.skip:
            longest = jnp.stack([longest_norm(x, segment_ids, self.layout) for x in (q, k)])
            longest_q, longest_k = jax.lax.pmax(longest, "sequence")  # type: ignore[no-untyped-call]
            radius = skip_radius(bound_of_norms(longest_q, longest_k, self.scale), slopes, whole)
        segments = self._flat_rows(jnp.broadcast_to(segment_ids[:, None], (rows, heads, tokens)))
        return Shard(
            q=self._flat(q),
            k=self._flat(k),
            v=self._flat(v),
            segment_ids=segments,
            slopes=jnp.broadcast_to(slopes, (rows, heads)).reshape(-1),
            radius=radius.reshape(-1),
            spans=number_span(segments, self._length(tokens)),
            scale=self.scale,
            tokens=tokens,
            block=self._length(tokens),
        )

    def _length(self, tokens: int) -> int:
        """Tokens per block in a share of so many."""
        return min(self.block, -(-tokens // 8) * 8)

    def _flat(self, x: jax.Array) -> jax.Array:
        """An array in the kernel's layout as [n, d, P]."""
        x = jnp.einsum(f"{self.layout}->bhdt", x)
        return self._padded(x.reshape(-1, *x.shape[2:]))

    def _flat_rows(self, x: jax.Array) -> jax.Array:
        """[B, H, T] as [n, P]."""
        return self._padded(x.reshape(-1, x.shape[2]))

    def _padded(self, x: jax.Array) -> jax.Array:
        """[..., T] with zeros up to whole blocks, [..., P]."""
        missing = -x.shape[-1] % self._length(x.shape[-1])
        return jnp.pad(x, (*((0, 0) for _ in x.shape[1:]), (0, missing)))

    def _unflat(self, x: jax.Array, like: jax.Array) -> jax.Array:
        """[n, d, P] in the kernel's layout, and of the shape and dtype of ``like``."""
        size = dict(zip(self.layout, like.shape, strict=True))
        whole = x[:, :, : size["t"]].reshape([size[axis] for axis in "bhdt"])
        return jnp.einsum(f"bhdt->{self.layout}", whole).astype(like.dtype)


def _cut(x: jax.Array, like: jax.Array) -> jax.Array:
    """``x`` without a kernel's padding."""
    return x[tuple(map(slice, like.shape))]
