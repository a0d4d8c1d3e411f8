"""Strict settings for every test: several CPU devices, no silent promotion, and one way to find the development data."""

# ruff: noqa: E402 - jax reads its environment when it is imported

import atexit
import gc
import os
import shutil
import sys
import tempfile
from importlib.metadata import version
from importlib.util import find_spec

os.environ["JAX_PLATFORMS"] = os.environ.get("DNABERT2_TEST_PLATFORM", "cpu")
# Tests compile much and compute little: with the quickest code generation that this jaxlib has, a training step compiles in
# half to a sixth of the time. XLA aborts on a flag it does not know. Subprocesses inherit the flags; those that are set
# already come last and win.
FLAGS = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11) and find_spec("libtpu") is None:  # libtpu reads them as well
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([*FLAGS, os.environ.get("XLA_FLAGS", "")])
# What one test has compiled, the others (in both workers, and in the commands that tests start) read. No session reads what
# another one left.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="dnabert2-compiled-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

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
LONG = ("recipes", "gue", "reports", "training", "cli", "modeling")
"""Directories whose files take longest."""

SHARED = Path(os.environ.get("DNABERT2_SHARED", Path(__file__).parents[2] / "shared"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start long files first: at the end, both workers have short ones left to share."""
    tests = Path(__file__).parent
    items.sort(key=lambda item: LONG.index(room) if (room := item.path.relative_to(tests).parts[0]) in LONG else len(LONG))


def pytest_collection_finish() -> None:
    """Once the modules are imported."""
    # They stay to the end: the garbage collector need not visit them again and again.
    gc.freeze()
    # Some tests limit the size of a file, and a Python that does not check what it wrote (3.11 does not) would leave
    # bytecode cut short, which no later process can import. Commands that tests start still write theirs.
    sys.dont_write_bytecode = True


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
