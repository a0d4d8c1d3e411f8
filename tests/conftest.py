"""Strict settings for every test: several CPU devices, no silent promotion, and one way to find the development data."""

import os

os.environ["JAX_PLATFORMS"] = os.environ.get("DNABERT2_TEST_PLATFORM", "cpu")
# Tests compile much and compute little: without LLVM's optimizer they take a third less time. Subprocesses inherit it.
os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0 " + os.environ.get("XLA_FLAGS", "")

import itertools
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import jax
import pytest

from tests.emulators import SCHEMES, Store, free_port, point_at

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_num_cpu_devices", 8)  # of this process alone: commands that tests start have one

hypothesis.settings.register_profile("default", deadline=None, max_examples=50)
hypothesis.settings.load_profile("default")

_PORTS = {scheme: free_port() for scheme in SCHEMES}
point_at(_PORTS)  # from the start, because client libraries keep what they connected to

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


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Store]]:
    """An emulator of each store; the tests are skipped without them."""
    for library in ("gcsfs", "s3fs", "moto", "gcp_storage_emulator"):
        pytest.importorskip(library, reason="pip install 'dnabert2_jax[buckets]'")
    logs = tmp_path_factory.mktemp("emulators")
    started = {scheme: Store(scheme, port, logs / f"{scheme}.log") for scheme, port in _PORTS.items()}
    yield started
    for store in started.values():
        store.stop()


_NUMBERS = itertools.count()


@pytest.fixture(params=SCHEMES)
def store(request: pytest.FixtureRequest, stores: dict[str, Store]) -> Iterator[Store]:
    """One of the emulators; whatever a test has go wrong with it ends with the test."""
    chosen = stores[request.param]
    yield chosen
    chosen.fault = lambda method, path: None


@pytest.fixture
def bucket(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new bucket; local copies of what is in it belong to the test."""
    from dnabert2_jax.storage.paths import as_path, file_system

    monkeypatch.setenv("DNABERT2_BUCKET_CACHE", str(tmp_path / "bucket_cache"))
    name = f"bucket-{os.getpid()}-{next(_NUMBERS)}"
    file_system(store.scheme).mkdir(name)
    return as_path(f"{store.scheme}://{name}")
