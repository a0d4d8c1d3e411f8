"""How a corpus is built from FASTA files."""

from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from dnabert2_jax.config.model import STRICT

Ambiguous = Literal["unk", "split"]
"""What happens to N and the other IUPAC codes of a genome: kept as ``[UNK]``, or windows end there."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CorpusConfig:
    """Options of a corpus: of the command, of the section ``[build]`` of its TOML file, and of its manifest.

    Attributes:
        ambiguous: keep N and IUPAC codes inside windows (``unk``), or split the contigs there (``split``).
        validation_fraction: fraction of the bases of each species held out, in blocks; 0 for none. A species of two blocks
            or more gives at least one.
        validation_block: minimum bases of a held-out block; less, down to min_contig, in a species so small that one such
            block is more than the fraction.
        min_contig: contigs shorter than this are skipped, and so are pieces of contigs between IUPAC codes.
    """

    ambiguous: Ambiguous = "split"
    validation_fraction: float = Field(default=0.02, ge=0, lt=1)
    validation_block: int = Field(default=10_000, ge=1)
    min_contig: int = Field(default=100, ge=1)
