"""Strict settings for every test: several CPU devices, no silent promotion, and one way to find the development data."""

import os

os.environ["JAX_PLATFORMS"] = os.environ.get("DNABERT2_TEST_PLATFORM", "cpu")
# Tests compile much and compute little: without LLVM's optimizer they take a third less time. Subprocesses inherit it.
os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0 " + os.environ.get("XLA_FLAGS", "")

from pathlib import Path

import hypothesis
import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_num_cpu_devices", 8)  # of this process alone: commands that tests start have one

hypothesis.settings.register_profile("default", deadline=None, max_examples=50)
hypothesis.settings.load_profile("default")

SHARED = Path(os.environ.get("DNABERT2_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture
def shared_dir() -> Path:
    """The folder with development data and fixtures; the test is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"development data not here ({SHARED}); set DNABERT2_SHARED to its folder")
    return SHARED


@pytest.fixture
def torch_python() -> str:
    """An interpreter with torch, multimolecule, peft and safetensors, for comparisons; the test is skipped without it."""
    if python := os.environ.get("DNABERT2_TORCH_PYTHON"):
        return python
    pytest.skip("no PyTorch to compare with; set DNABERT2_TORCH_PYTHON to an interpreter that has multimolecule and peft")
