"""What pretraining and fine-tuning share before their first step."""

from dataclasses import replace

import jax

from dnabert2_jax.config import EncoderConfig, PrecisionOption, named_size
from dnabert2_jax.errors import UserError
from dnabert2_jax.kernels.attention import AUTO, choose_backend
from dnabert2_jax.model_directory import SavedModel, load_model
from dnabert2_jax.modeling.encoder import Compute, Precision
from dnabert2_jax.runs import ModelOptions
from dnabert2_jax.tokenizer.base import Tokenizer


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


def starting_point(options: ModelOptions) -> tuple[EncoderConfig, Tokenizer, SavedModel | None]:
    """The encoder's sizes, the tokenizer, and the model to start from (None: random weights).

    Raises:
        UserError: the directory or the size does not exist.
    """
    if options.path is not None:
        base = load_model(options.path)
        return base.config, base.tokenizer, base
    if options.size is None or options.tokenizer is None:
        raise UserError("model: give either path, or size and tokenizer")
    tokenizer = Tokenizer.load(options.tokenizer)
    return named_size(options.size, tokenizer.vocab_size), tokenizer, None
