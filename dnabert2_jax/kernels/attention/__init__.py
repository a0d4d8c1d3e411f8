"""Attention with ALiBi: one function, several backends."""

from dnabert2_jax.kernels.attention.alibi import alibi_slopes
from dnabert2_jax.kernels.attention.api import AUTO, BACKENDS, attention, choose_backend, projected_attention

__all__ = ["AUTO", "BACKENDS", "alibi_slopes", "attention", "choose_backend", "projected_attention"]
