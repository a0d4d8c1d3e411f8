"""How to compute, as opposed to what."""

from dataclasses import dataclass, replace
from typing import Literal

import jax

from dnabert2_jax.config.model import PrecisionOption
from dnabert2_jax.config.runs import ModelOptions
from dnabert2_jax.kernels.attention import AUTO, choose_backend

Precision = Literal["float32", "bfloat16"]
Remat = Literal["none", "attention", "full"]


@dataclass(frozen=True)
class Compute:
    """How to compute, as opposed to what: changing it changes no parameter.

    Attributes:
        precision: dtype of activations and matrix products; weights, LayerNorm statistics and softmax stay float32.
        attention: ``"auto"`` or the name of an attention backend; a few queries of the last block (``at``) are always dense.
        remat: what the backward pass computes again instead of keeping it: nothing, the attention of a block with its two
            projections, or the whole block.
        unroll: blocks in one turn of the loop over them: more makes longer programs, and lets one block's traffic run beside
            the next one's arithmetic.
        parts: the rows of a batch go through each block in so many parts, one after the other: on a TPU what one part leaves
            for its next layer stays in fast memory. As many as divide a device's rows, where these do not.
    """

    precision: Precision = "float32"
    attention: str = AUTO
    remat: Remat = "none"
    unroll: int = 1
    parts: int = 1


def resolve_compute(precision: PrecisionOption, attention: str = AUTO) -> Compute:
    """Settle ``auto`` by the platform: bfloat16 where matrix units have it, float32 on a CPU.

    Raises:
        UserError: no such attention backend.
    """
    choose_backend(attention, 1)
    automatic: Precision = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return Compute(automatic if precision == "auto" else precision, attention)


def training_compute(options: ModelOptions) -> Compute:
    """How a run says to compute, with ``auto`` settled.

    Raises:
        UserError: no such attention backend.
    """
    settled = resolve_compute(options.precision, options.attention)
    return replace(settled, remat=options.remat, unroll=options.unroll, parts=options.parts)
