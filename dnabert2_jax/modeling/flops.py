"""Floating-point operations of the encoder, counted from its sizes.

A matrix product of [m, k] and [k, n] is 2 m k n operations. Everything else (LayerNorm, softmax, GELU, biases) is left out,
as is usual.
"""

from dnabert2_jax.config.model import EncoderConfig


def projection_flops(hidden_size: int, intermediate_size: int, *, gated: bool = True) -> int:
    """Operations of one block's projections for one token: 2 (4 D^2 + 3 D F), without a gate 2 (4 D^2 + 2 D F).

    Args:
        hidden_size: D.
        intermediate_size: F.
        gated: whether the feed-forward layer has a gate, D -> 2F.
    """
    return 2 * (4 * hidden_size**2 + (3 if gated else 2) * hidden_size * intermediate_size)


def attention_flops(tokens: int, hidden_size: int) -> int:
    """Operations of one block's scores and weighted sums for one token of a row of ``tokens``: 4 T D."""
    return 4 * tokens * hidden_size


def training_flops_per_token(config: EncoderConfig, tokens_per_row: int, masked_per_row: int) -> float:
    """Operations that a pretraining step needs per token, forward and backward, without credit for recomputation.

    The backward pass of a product costs two of the same size. Only masked tokens meet the head and the vocabulary. For 12
    layers that is 72 (4 D^2 + 3 D F) + 144 T D, and 6 (D^2 + D V) per masked token.

    Args:
        config: sizes of the encoder.
        tokens_per_row: T.
        masked_per_row: K.
    """
    d = config.hidden_size
    block = projection_flops(d, config.intermediate_size) + attention_flops(tokens_per_row, d)
    head = 2 * (d * d + d * config.vocab_size) * masked_per_row / tokens_per_row
    return 3 * (config.num_hidden_layers * block + head)
