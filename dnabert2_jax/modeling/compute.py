"""How to compute, as opposed to what."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp

from dnabert2_jax.config.model import PrecisionOption
from dnabert2_jax.config.runs import ModelOptions
from dnabert2_jax.kernels.attention import AUTO, choose_backend

Precision = Literal["float32", "tf32", "bfloat16"]
Remat = Literal["none", "attention", "full"]


@dataclass(frozen=True)
class Compute:
    """How to compute, as opposed to what: changing it changes no parameter.

    Attributes:
        precision: of activations and matrix products; weights, LayerNorm statistics and softmax stay float32. ``tf32`` has
            float32 activations and lets matrix units round the factors of products, to TF32's 11 bits on an NVIDIA GPU;
            ``float32`` does not, on any platform.
        attention: ``"auto"`` or the name of an attention backend; the [CLS]-only last block is always dense.
        remat: what the backward pass recomputes: nothing, the attention of a block with its two projections, or the block.
        unroll: blocks per iteration of the loop over them: more makes longer programs, and lets one block's traffic overlap
            with the next one's arithmetic.
        microbatches: per block, run one after the other: on a TPU what one of them leaves for its next layer stays in fast
            memory. Their number is lowered to one that divides a device's rows.
    """

    precision: Precision = "float32"
    attention: str = AUTO
    remat: Remat = "none"
    unroll: int = 1
    microbatches: int = 1

    @property
    def dtype(self) -> Any:
        """The dtype of activations."""
        return jnp.dtype("bfloat16" if self.precision == "bfloat16" else "float32")

    def products(self) -> AbstractContextManager[None]:
        """The context for tracing a model's products.

        By default, jax rounds the factors of float32 products: to TF32 on an Ampere GPU or later, to bfloat16 on a TPU.
        """
        if self.precision == "bfloat16":
            return nullcontext()
        return jax.default_matmul_precision("tensorfloat32" if self.precision == "tf32" else "highest")


def resolve_compute(precision: PrecisionOption, attention: str = AUTO) -> Compute:
    """``auto`` resolved by platform: bfloat16 on matrix units that support it, float32 on a CPU.

    Raises:
        UserError: unknown attention backend.
    """
    choose_backend(attention, 1)
    automatic: Precision = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return Compute(automatic if precision == "auto" else precision, attention)


def training_compute(options: ModelOptions) -> Compute:
    """How a run asks to compute, with ``auto`` resolved.

    Raises:
        UserError: unknown attention backend.
    """
    settled = resolve_compute(options.precision, options.attention)
    return replace(settled, remat=options.remat, unroll=options.unroll, microbatches=options.parts)
