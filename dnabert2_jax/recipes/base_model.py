"""The encoder and tokenizer that a run starts from: those of a model, or a named size with random weights."""

from dnabert2_jax.artifacts.model import SavedModel
from dnabert2_jax.config.model import EncoderConfig, named_size
from dnabert2_jax.config.runs import ModelOptions
from dnabert2_jax.convert.opening import open_model
from dnabert2_jax.errors import UserError
from dnabert2_jax.tokenizer.loading import Tokenizer


def load_base(options: ModelOptions) -> tuple[EncoderConfig, Tokenizer, SavedModel | None]:
    """The encoder's sizes, the tokenizer, and the model to start from (None: random weights).

    Raises:
        UserError: the directory or the size does not exist.
    """
    if options.path is not None:
        base = open_model(options.path)
        return base.config, base.tokenizer, base
    if options.size is None or options.tokenizer is None:
        raise UserError("model: give either path, or size and tokenizer")
    tokenizer = Tokenizer.load(options.tokenizer)
    return named_size(options.size, tokenizer.vocab_size), tokenizer, None
