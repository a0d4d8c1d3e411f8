"""A tiny encoder, random rows for it, and a walk through traced programs."""

import jax
import numpy as np

from dnabert2_jax.config.model import EncoderConfig
from dnabert2_jax.types import TokenBatch

TINY = EncoderConfig(vocab_size=50, hidden_size=48, num_hidden_layers=2, num_attention_heads=6, intermediate_size=64)


def random_tokens(rows=3, length=20, seed=0, real=None):
    rng = np.random.default_rng(seed)
    ids = rng.integers(5, TINY.vocab_size, (rows, length)).astype(np.int32)
    segments = np.ones((rows, length), np.int32)
    if real is not None:
        segments[:, real:], ids[:, real:] = 0, 3
    return TokenBatch(ids, segments, np.zeros((rows, length), np.int32))


def equations(jaxpr, primitive):
    """Every ``primitive`` in a jaxpr, scans and calls included."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == primitive:
            yield equation
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from equations(inner, primitive)
