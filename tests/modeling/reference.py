"""Models with what PyTorch makes of them, and how far ours are from that; for the tests and for benchmarks/parity.py."""

import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.config.model import EncoderConfig
from dnabert2_jax.convert.names import from_theirs, to_theirs
from dnabert2_jax.convert.weights import open_safetensors
from dnabert2_jax.modeling.compute import Compute
from dnabert2_jax.modeling.models import masked_lm, sequence_classifier
from dnabert2_jax.platform import tracing_for
from dnabert2_jax.training.objectives import mlm_loss
from dnabert2_jax.types import MlmBatch, TokenBatch, Tree
from tests import parity
from tests.convert.helpers import InMemory

COMMITTED = ("heads8", "heads12")
ORIGINAL = ("original-heads8", "original-heads12")
"""Outputs of the original's own code, development data: with pair segments, and without the labels it ignores."""

INTERPRETED = {"pallas_tpu": ("tpu", "v5e"), "pallas_gpu": ("gpu", "9.0")}
"""Platform and generation that a kernel is for; where it is not at hand, the kernel runs in Pallas' interpreter."""

# Compiling takes most of the time; LLVM's optimisation changes how fast these programs are, not what they compute.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


class Batch(NamedTuple):
    """Inputs, and outputs by name at ``positions`` of the row: ``hidden``, ``mlm_logits``, ``pooled``, ``class_logits``."""

    tokens: TokenBatch
    expected: dict[str, NDArray[np.float32]]
    positions: slice | list[int] = slice(None)

    def real(self, output: NDArray[Any]) -> NDArray[Any]:
        """An output at tokens alone: what stands at padding has no meaning."""
        return output[self.tokens.segment_ids[:, self.positions] > 0] if output.ndim == 3 else output


@dataclass
class Case:
    """A model in both kinds, batches by name, and a loss (labels of -100 do not count) with its gradients."""

    config: EncoderConfig
    num_labels: int
    params: dict[str, Tree]
    batches: dict[str, Batch]
    masked: TokenBatch
    labels: NDArray[np.int32]
    loss: float
    gradients: dict[str, NDArray[np.float32]]

    def output_errors(self, backend: str, precision: Any) -> Iterator[tuple[str, str, float]]:
        """(batch, output, largest error relative to the largest magnitude)."""
        compute = Compute(precision, backend)
        networks = masked_lm(self.config, compute), sequence_classifier(self.config, self.num_labels, compute)

        @jit
        def outputs(params: Tree, tokens: TokenBatch) -> dict[str, jax.Array]:
            language, classifier = networks[0].bind(params["masked_lm"]), networks[1].bind(params["classifier"])
            hidden = language.hidden_states(tokens)
            found = {
                "hidden": hidden,
                "mlm_logits": language.mlm(hidden, language.encoder.embeddings.word[...]),
                "pooled": classifier.features(tokens)[:, 0],
                "class_logits": classifier.logits(tokens),
            }
            return {name: array.astype(np.float32) for name, array in found.items()}

        for name, batch in self.batches.items():
            if (precision, name) == ("bfloat16", "long"):
                continue  # what bfloat16 costs does not depend on the length
            with serving(backend):
                found = outputs(self.params, batch.tokens)
            for output, wanted in batch.expected.items():
                got = np.asarray(found[output])
                got = got[:, batch.positions] if got.ndim == 3 else got
                yield name, output, worst(batch.real(got), batch.real(wanted))

    def gradient_errors(self, backend: str) -> tuple[float, dict[str, float]]:
        """Relative error of the loss, and each gradient's largest error relative to its largest magnitude."""
        objective, batch = mlm_loss(masked_lm(self.config, Compute("float32", backend))), self._mlm_batch()

        def mean(params: Tree) -> jax.Array:
            sums = objective(params, {}, batch, False)
            return sums.loss / sums.weight

        with serving(backend):
            value, gradients = jit(jax.value_and_grad(mean))(self.params["masked_lm"])
        found = to_theirs(gradients, "masked_lm")
        return abs(float(value) / self.loss - 1), {name: worst(found[name], self.gradients[name]) for name in self.gradients}

    def _mlm_batch(self) -> MlmBatch:
        rows, positions = np.nonzero(self.labels != -100)
        counts = np.bincount(rows, minlength=len(self.labels))
        slots = np.concatenate([np.arange(count) for count in counts])
        shape = (len(counts), int(counts.max()))
        where, labels, weights = np.zeros(shape, np.int32), np.zeros(shape, np.int32), np.zeros(shape, np.float32)
        where[rows, slots], labels[rows, slots], weights[rows, slots] = positions, self.labels[rows, positions], 1
        return MlmBatch(self.masked, where, labels, weights, np.zeros(shape[0], np.uint32))


def serving(backend: str) -> AbstractContextManager[None]:
    """Where a backend runs at all."""
    return tracing_for(*INTERPRETED[backend], interpret=True) if backend in INTERPRETED else nullcontext()


def worst(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Largest error relative to the largest magnitude."""
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@cache
def load_case(name: str, shared: Path) -> Case:
    """One of :data:`COMMITTED`, or of :data:`ORIGINAL` from the folder with development data."""
    if name in COMMITTED:
        return _committed(int(name.removeprefix("heads")))
    return _original(shared / "fixtures" / name.removeprefix("original-"))


def _params(settings: dict[str, Any], num_labels: int, readers: Mapping[Any, Any]) -> tuple[EncoderConfig, dict[str, Tree]]:
    config = EncoderConfig(**{key: settings[key] for key in EncoderConfig.__dataclass_fields__ if key in settings})
    return config, {kind: from_theirs(reader, config, kind, num_labels, Path("weights")) for kind, reader in readers.items()}


def _committed(heads: int) -> Case:
    settings, golden = parity.settings(heads), np.load(parity.CASES / f"heads{heads}.npz")
    weights = parity.weights(settings, heads)
    readers = {kind: InMemory(parity.of_kind(weights, kind)) for kind in ("masked_lm", "classifier")}
    config, params = _params(settings, len(parity.LABELS), readers)
    batches = {}
    for name, inputs in parity.inputs(heads).items():
        tokens = TokenBatch(inputs["input_ids"], inputs["attention_mask"], np.zeros_like(inputs["input_ids"]))
        expected = {key.removeprefix(f"{name}/"): golden[key] for key in golden if key.startswith(f"{name}/")}
        batches[name] = Batch(tokens, expected, list(parity.LONG_POSITIONS) if name == "long" else slice(None))
    return Case(
        config=config,
        num_labels=len(parity.LABELS),
        params=params,
        batches=batches,
        masked=batches["rows"].tokens,
        labels=parity.inputs(heads)["rows"]["labels"],
        loss=float(golden["loss"]),
        gradients={key.removeprefix("gradient/"): golden[key] for key in golden if key.startswith("gradient/")},
    )


def _original(directory: Path) -> Case:
    settings, golden = json.loads((directory / "config.json").read_text()), np.load(directory / "golden.npz")
    files = {"masked_lm": "model", "classifier": "classifier"}
    readers = {kind: open_safetensors(directory / f"{name}.safetensors") for kind, name in files.items()}
    config, params = _params(settings, settings["num_labels"], readers)
    ids, mask, types = (golden[key] for key in ("input_ids", "attention_mask", "token_type_ids"))
    names = {"last_hidden": "hidden", "mlm_logits": "mlm_logits", "pooled": "pooled", "class_logits": "class_logits"}
    batches = {}
    for suffix, type_ids in (("", np.zeros_like(ids)), ("_pair", types)):
        expected = {ours: golden[f"{name}{suffix}"] for name, ours in names.items() if f"{name}{suffix}" in golden}
        batches[f"single{suffix}"] = Batch(TokenBatch(ids, mask, type_ids), expected)
    labels = golden["mlm_labels"]
    return Case(
        config=config,
        num_labels=settings["num_labels"],
        params=params,
        batches=batches,
        masked=TokenBatch(golden["mlm_input_ids"], mask, np.zeros_like(ids)),
        # The original ignores labels <= 0, so it never learns [UNK]; what it ignored is left out here, too.
        labels=np.where(labels > 0, labels, -100),
        loss=float(golden["mlm_loss"]),
        gradients={key.removeprefix("grad:"): golden[key] for key in golden if key.startswith("grad:")},
    )
