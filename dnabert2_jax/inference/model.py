"""A trained model loaded for inference, from a model directory, the Hugging Face layout, or an adapter and its base."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from dnabert2_jax.artifacts.adapter import SavedAdapter
from dnabert2_jax.artifacts.model import ModelKind, SavedModel, classifier_kind
from dnabert2_jax.config.model import EncoderConfig, HeadConfig
from dnabert2_jax.convert.opening import open_any, pinned_path
from dnabert2_jax.errors import UserError
from dnabert2_jax.inference.predictor import Forward, Predictor
from dnabert2_jax.modeling.compute import Compute
from dnabert2_jax.modeling.lora import merge_adapter
from dnabert2_jax.tokenizer.base import Tokenizer


@dataclass(frozen=True)
class InferenceModel:
    """A trained model, ready to use.

    Attributes:
        path: its directory; for a model on the Hub, its name and commit.
        kind: ``masked_lm``, ``classifier`` or ``base_classifier``.
        tokenizer: its tokenizer.
        labels: class names by class number; for a regression, the measurement's name; empty for a masked language model.
        predictor: the network, with its parameters on the devices.
        provenance: how it was made.
    """

    path: Path
    kind: ModelKind
    tokenizer: Tokenizer
    labels: tuple[str, ...]
    predictor: Predictor
    provenance: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path, compute: Compute, base: Path | None = None) -> "InferenceModel":
        """Read a model, or an adapter, which is merged into its base.

        Args:
            path: a model or adapter directory, or one in the Hugging Face layout, local or on the Hub (``hf:OWNER/NAME``).
            compute: precision and attention backend.
            base: the adapter's base, if it is not where the adapter says.

        Raises:
            UserError: none of these, damaged, or not the adapter's base.
        """
        opened = open_any(path, base)
        if isinstance(opened, SavedAdapter):
            return cls.of_adapter(path, opened, compute)
        return cls.of_saved(pinned_path(path, opened), opened, compute)

    @classmethod
    def of_adapter(cls, path: Path, adapter: SavedAdapter, compute: Compute) -> "InferenceModel":
        """A model from an adapter that has been read, merged into its base."""
        parts = jax.device_put({**adapter.params, "encoder": adapter.base.params["encoder"]})
        parts["encoder"] = merge_adapter(parts["encoder"], parts.pop("adapter"), adapter.lora)
        forward = Forward(adapter.base.config, compute, len(adapter.labels), adapter.head)
        predictor = Predictor.on_local_devices(forward, parts)
        return cls(
            path, classifier_kind(adapter.head), adapter.base.tokenizer, adapter.labels, predictor, adapter.provenance
        )

    @classmethod
    def of_saved(cls, path: Path, model: SavedModel, compute: Compute) -> "InferenceModel":
        """A model from the contents of its directory."""
        forward = Forward(model.config, compute, len(model.labels), model.head)
        predictor = Predictor.on_local_devices(forward, model.params)
        return cls(path, model.kind, model.tokenizer, model.labels, predictor, model.provenance)

    def saved(self) -> SavedModel:
        """The model with its parameters on the host, to be saved; an adapter stays merged."""
        return SavedModel(
            kind=self.kind,
            config=self.config,
            params=jax.device_get(self.predictor.params),
            tokenizer=self.tokenizer,
            labels=self.labels,
            head=self.head,
            provenance=self.provenance,
        )

    @property
    def config(self) -> EncoderConfig:
        """Sizes of the encoder."""
        return self.predictor.forward.config

    @property
    def head(self) -> HeadConfig:
        """How a classifier reads a sequence, and what its outputs mean."""
        return self.predictor.forward.head

    def need(self, kind: ModelKind, task: str, remedy: str) -> None:
        """Check that this is a model for ``task``.

        Raises:
            UserError: it is of another kind.
        """
        if self.kind != kind:
            hint = ", or `dnabert2 track` for the labels of every base" if self.kind == "base_classifier" else ""
            raise UserError(f"{self.path} is a {self.kind}; {task} needs a {kind}: {remedy}{hint}")
