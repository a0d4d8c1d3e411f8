"""A corpus described in a TOML file: how to build it, and its species with their files, weights and held-out contigs."""

import tomllib
from dataclasses import field, fields
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from dnabert2_jax.config.corpus import CorpusConfig
from dnabert2_jax.config.model import STRICT
from dnabert2_jax.errors import UserError, nearest
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
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); give the path of a corpus's TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not TOML ({error}); mend that line (text stands in quotes)") from error
    try:
        return TypeAdapter(CorpusDescription).validate_python(content)
    except ValidationError as error:
        raise UserError(f"{file}: " + "; ".join(map(_explain, error.errors()))) from None


def _explain(problem: Any) -> str:
    path = [str(part) for part in problem["loc"]]
    name = ".".join(path)
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        section = {"build": CorpusConfig, "species": SpeciesEntry}.get(path[0], CorpusDescription)
        accepted = [key.name for key in fields(section if len(path) > 1 else CorpusDescription)]
        return f"unknown key {name}{nearest(path[-1], accepted)}; accepted are {', '.join(accepted)}"
    if problem["type"] in ("missing", "missing_keyword_only_argument"):
        return f"{name} is missing; add it to the file" + (" ([[species]] with name and files)" if name == "species" else "")
    return f"{name}: {problem['msg']}, found {problem['input']!r}"
