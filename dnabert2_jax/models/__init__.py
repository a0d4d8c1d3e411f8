"""Pretrained models that ship with the package: one directory each, with its card in README.md."""

import os
from importlib.resources import files
from pathlib import Path

SHIPPED = ("small", "small_5mer")
"""Their names, which every command and function accepts in place of a model's path: byte pairs, and overlapping 5-mers."""

_HERE = Path(str(files(__name__)))


def shipped_model(path: str | os.PathLike[str]) -> Path | None:
    """The directory of a shipped model; None if ``path`` is not the name of one, or if something exists under that name."""
    name = os.fspath(path)
    return _HERE / name if name in SHIPPED and not Path(name).exists() else None
