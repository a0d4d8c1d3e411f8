"""The version, in one place (pyproject.toml reads it), and those of what the package computes with."""

import platform
from importlib.metadata import PackageNotFoundError, version

__version__ = "0.1.0"

_PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "safetensors", "sentencepiece", "grain"),
    "scikit-learn",
)


def installed_versions() -> dict[str, str]:
    """Versions of Python, this package and the packages it computes with, as far as they are installed."""
    found = {"python": platform.python_version(), "dnabert2_jax": __version__}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # pragma: no cover - a trimmed installation
            continue
    return found
