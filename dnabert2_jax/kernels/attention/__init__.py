"""Attention with ALiBi: one function, several backends."""

from dnabert2_jax.kernels.attention.alibi import alibi_slopes
from dnabert2_jax.kernels.attention.api import (
    AUTO,
    BACKENDS,
    attention,
    choose_backend,
    explain_choice,
    projected_attention,
)
from dnabert2_jax.kernels.attention.kernel import Inputs
from dnabert2_jax.kernels.attention.reference import attention_at, attention_weights
from dnabert2_jax.platform import tracing_for

__all__ = [
    "AUTO",
    "BACKENDS",
    "Inputs",
    "alibi_slopes",
    "attention",
    "attention_at",
    "attention_weights",
    "choose_backend",
    "explain_choice",
    "projected_attention",
    "tracing_for",
]
