"""What is installed, which devices there are, and whether a model directory is sound and works on this machine."""

import os
import platform
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.artifacts.adapter import merged
from dnabert2_jax.artifacts.directory import is_adapter_directory
from dnabert2_jax.artifacts.model import SavedModel
from dnabert2_jax.convert.hugging_face import describe_released, is_hugging_face_directory
from dnabert2_jax.convert.opening import local_path, open_adapter, open_model
from dnabert2_jax.draws import hash64
from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.letters import BASES
from dnabert2_jax.inference.predictor import Forward
from dnabert2_jax.kernels.attention import BACKENDS, explain_choice
from dnabert2_jax.modeling.compute import Compute
from dnabert2_jax.modeling.models import count_parameters
from dnabert2_jax.tokenizer.special import with_template
from dnabert2_jax.types import TokenBatch, Tree
from dnabert2_jax.version import installed_optional_versions, installed_versions

TOKENS_ASKED = (128, 512, 8192)

_SETTINGS = (
    *("JAX_PLATFORMS", "JAX_ENABLE_X64", "JAX_DEFAULT_MATMUL_PRECISION", "XLA_FLAGS", "XLA_PYTHON_CLIENT_PREALLOCATE"),
    *("XLA_PYTHON_CLIENT_MEM_FRACTION", "LIBTPU_INIT_ARGS", "GLIBC_TUNABLES", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"),
)
"""Environment variables that change what runs or how fast; none of them holds a secret or a name."""

_SEQUENCE_BASES, _MOST_TOKENS = 3000, 600  # spans more than two blocks of the blocked backend
_LARGEST_DIFFERENCE = 1e-3


def machine() -> Iterator[tuple[str, str]]:
    """(subject, finding): versions, operating system, settings, devices, and the attention backend that ``auto`` selects."""
    yield "versions", "  ".join(f"{name} {number}" for name, number in installed_versions().items())
    yield "optional", "  ".join(f"{name} {number}" for name, number in installed_optional_versions().items()) or "none"
    yield "system", f"{platform.platform()}, {os.cpu_count()} cores"
    yield "settings", "  ".join(f"{name}={os.environ[name].strip()}" for name in _SETTINGS if name in os.environ) or "none"
    for device in jax.devices():
        stats = device.memory_stats() or {}
        memory = f", {stats['bytes_limit'] / 2**30:.1f} GiB" if "bytes_limit" in stats else ""
        yield "device", f"{device.id}: {device.device_kind} ({device.platform}){memory}"
    choices = {tokens: explain_choice(tokens) for tokens in TOKENS_ASKED}
    for tokens, choice in choices.items():
        yield "attention", f"{tokens:>5,} tokens: {choice.backend.name}"
    for name, reason in {n: r for choice in choices.values() for n, r in choice.refusals.items()}.items():
        yield "attention", f"not {name}: {reason}"


def check_model(path: Path, base: Path | None = None) -> Iterator[tuple[str, str]]:
    """Check a model or adapter directory, or one in Hugging Face's format; yields (check, finding) as they are done.

    Args:
        path: the directory.
        base: an adapter's base, if it is not where the adapter says.

    Raises:
        UserError: a file is damaged, a weight is not finite, or an attention backend disagrees with the reference.
    """
    path = local_path(path)
    if is_adapter_directory(path):
        adapter = open_adapter(path, base)
        yield "manifest, base and finite weights", f"ok, an adapter on {adapter.base.path}; checked merged into it"
        model = merged(adapter)
    elif is_hugging_face_directory(path):
        yield "released weights", describe_released(path)
        model = open_model(path)
        yield "tensors and finite weights", f"ok, none is missing, unknown or of the wrong shape; a {model.kind}"
    else:
        model = open_model(path)
        yield "manifest and finite weights", f"ok, every file matches its hash; a {model.kind}"
    yield "parameters", f"{count_parameters(model.params):,}"
    batch = _fixed_row(model)
    tokens = batch.input_ids.shape[1]
    params = jax.device_put(model.params)
    reference = _hidden_states(model, params, batch, "reference")
    yield "reference attention", f"ok, {tokens} tokens, hidden states up to {np.abs(reference).max():.2f}"
    for name in BACKENDS:
        if name == "reference":
            continue
        try:
            found = _hidden_states(model, params, batch, name)
        except UserError as error:
            yield f"{name} attention", f"not tried: {error}"
            continue
        difference = float(np.abs(found - reference).max())
        if not difference <= _LARGEST_DIFFERENCE:
            raise UserError(
                f"{path}: {name} attention differs from the reference by {difference:.2g}, accepted is "
                f"{_LARGEST_DIFFERENCE:g}; use another backend (model.attention) and report this machine's `dnabert2 doctor`"
            )
        yield f"{name} attention", f"ok, largest difference from the reference {difference:.1e}"


def _fixed_row(model: SavedModel) -> TokenBatch:
    """The same DNA on every machine, as one row."""
    letters = (hash64(0, np.arange(_SEQUENCE_BASES)) >> np.uint64(62)).astype(np.int64)
    ids = model.tokenizer.encode_raw("".join(BASES[letter] for letter in letters))[: _MOST_TOKENS - 2]
    row = with_template(ids)[None]
    return TokenBatch(row, np.ones_like(row), np.zeros_like(row))


def _hidden_states(model: SavedModel, params: Tree, batch: TokenBatch, attention: str) -> NDArray[np.float32]:
    return np.asarray(Forward(model.config, Compute("float32", attention)).hidden_states(params, batch))
