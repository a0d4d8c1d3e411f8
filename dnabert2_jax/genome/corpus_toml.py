"""A corpus described in a TOML file: how to build it, and its species with their files, weights and held-out contigs."""

from pathlib import Path
from typing import Literal

from pydantic.dataclasses import dataclass

from dnabert2_jax.config.corpus import CorpusConfig
from dnabert2_jax.config.loading import parse_run, read_toml
from dnabert2_jax.config.model import STRICT
from dnabert2_jax.genome.build import SpeciesSource


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CorpusDescription:
    """The whole file: ``[build]``, and ``[[species]]`` entries whose files are relative to the current directory."""

    command: Literal["corpus build"] = "corpus build"
    build: CorpusConfig = CorpusConfig()
    species: list[SpeciesSource]


def load_description(file: Path) -> CorpusDescription:
    """Read a corpus's TOML file.

    Raises:
        UserError: the file cannot be read, or holds invalid keys or values (the message names all of them).
    """
    return parse_run(CorpusDescription, read_toml(file), str(file), overridden=None)
