"""The version, in one place (pyproject.toml reads it), and those of what the package uses."""

import platform
from importlib.metadata import PackageNotFoundError, version

__version__ = "0.2.0"

_PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "safetensors", "sentencepiece", "numba", "grain"),
    "scikit-learn",
)
_OPTIONAL_PACKAGES = (
    *("pyarrow", "h5py", "openpyxl", "pysam", "pybigtools", "huggingface_hub", "gcsfs", "s3fs", "pandas", "torch"),
    *("jax-cuda12-plugin", "jax-cuda13-plugin", "libtpu"),
)
"""What the extras bring, what makes JAX use an accelerator, and PyTorch, which may want the same memory."""


def installed_versions() -> dict[str, str]:
    """Versions of Python, this package and the packages it computes with, as far as they are installed."""
    return {"python": platform.python_version(), "dnabert2_jax": __version__, **_installed(_PACKAGES)}


def installed_optional_versions() -> dict[str, str]:
    """Versions of the optional packages that are installed."""
    return _installed(_OPTIONAL_PACKAGES)


def _installed(packages: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
