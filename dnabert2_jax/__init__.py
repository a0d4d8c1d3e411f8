"""DNABERT-2 in JAX: pretrain, fine-tune and use a DNA language model."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dnabert2_jax.version import __version__ as __version__

if TYPE_CHECKING:
    from dnabert2_jax.api import DNABERT2 as DNABERT2
    from dnabert2_jax.config.loading import load_run as load_run
    from dnabert2_jax.config.per_base import PerBaseRun as PerBaseRun
    from dnabert2_jax.config.runs import FinetuneRun as FinetuneRun
    from dnabert2_jax.config.runs import PretrainRun as PretrainRun
    from dnabert2_jax.errors import UserError as UserError
    from dnabert2_jax.recipes.finetuning import finetune as finetune
    from dnabert2_jax.recipes.pretraining import pretrain as pretrain
    from dnabert2_jax.tokenizer.loading import Tokenizer as Tokenizer
    from dnabert2_jax.variants.splice import SpliceLabels as SpliceLabels

# Loaded on first use: importing the package alone must not import jax, which takes a second or more.
_HOMES = {
    "DNABERT2": "dnabert2_jax.api",
    "FinetuneRun": "dnabert2_jax.config.runs",
    "PerBaseRun": "dnabert2_jax.config.per_base",
    "PretrainRun": "dnabert2_jax.config.runs",
    "SpliceLabels": "dnabert2_jax.variants.splice",
    "Tokenizer": "dnabert2_jax.tokenizer.loading",
    "UserError": "dnabert2_jax.errors",
    "finetune": "dnabert2_jax.recipes.finetuning",
    "load_run": "dnabert2_jax.config.loading",
    "pretrain": "dnabert2_jax.recipes.pretraining",
}

__all__ = [
    "DNABERT2",
    "FinetuneRun",
    "PerBaseRun",
    "PretrainRun",
    "SpliceLabels",
    "Tokenizer",
    "UserError",
    "__version__",
    "finetune",
    "load_run",
    "pretrain",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
