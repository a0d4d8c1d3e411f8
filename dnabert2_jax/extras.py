"""Optional packages, imported only where they are needed; without one, a line says how to install it."""

from importlib import import_module
from typing import Any

from dnabert2_jax.errors import UserError


def optional_package(name: str, needed_by: str, install: str, *, otherwise: str = "") -> Any:
    """An optional package.

    Args:
        name: of the module.
        needed_by: the beginning of the message: ``bigWig files need``.
        install: what to give to ``pip install``: an extra of this package as ``dnabert2_jax[genome]``, or another one.
        otherwise: an alternative to installing it.

    Raises:
        UserError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        remedy = f'run pip install "{install}"' if "[" in install else f"run pip install {install}"
        remedy += f", or {otherwise}" if otherwise else ""
        raise UserError(f"{needed_by} the package {name}, which is not installed; {remedy}") from error
