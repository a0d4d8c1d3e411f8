"""A corpus described in a TOML file: how to build it, and its species with their files, weights and held-out contigs."""

from dataclasses import field
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from dnabert2_jax.config.corpus import CorpusConfig
from dnabert2_jax.config.loading import parse_run, read_toml
from dnabert2_jax.config.model import STRICT
from dnabert2_jax.genome.build import SpeciesSource


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SpeciesEntry:
    """One ``[[species]]``; see :class:`~dnabert2_jax.genome.build.SpeciesSource`.

    Attributes:
        name: of the species.
        files: its FASTA files, relative to the directory the command is called in.
        weight: share of the training windows; for all species or none.
        held_out: contigs that are for validation as a whole.
    """

    name: str
    files: list[Path]
    weight: float | None = Field(default=None, gt=0)
    held_out: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CorpusDescription:
    """The whole file."""

    command: Literal["corpus build"] = "corpus build"
    build: CorpusConfig = CorpusConfig()
    species: list[SpeciesEntry]

    def sources(self) -> list[SpeciesSource]:
        """The species, for ``build_corpus``."""
        return [SpeciesSource(entry.name, entry.files, entry.weight, entry.held_out) for entry in self.species]


def load_description(file: Path) -> CorpusDescription:
    """Read a corpus's TOML file.

    Raises:
        UserError: the file cannot be read, or names every key or value that is not accepted.
    """
    return parse_run(CorpusDescription, read_toml(file), str(file), overridden=None)
