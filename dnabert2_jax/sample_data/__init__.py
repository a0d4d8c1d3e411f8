"""A small real data set that ships with the package: chromosome I of three yeasts and a 3-class table (see README.md)."""

from importlib.resources import files
from pathlib import Path
from typing import Literal

_HERE = Path(str(files(__name__)))

SPECIES = ("saccharomyces_cerevisiae", "saccharomyces_kudriavzevii", "saccharomyces_mikatae")


def fasta_files() -> dict[str, Path]:
    """Gzip FASTA files by species, one record of 0.22-0.25 Mb each; repeats are soft-masked (lower case)."""
    return {species: _HERE / f"{species}.fa.gz" for species in SPECIES}


def table(split: Literal["train", "dev", "test"]) -> Path:
    """A gzip CSV file ``sequence,label``: 150-base windows labeled ``coding+``, ``coding-`` or ``intergenic``.

    Train and dev come from disjoint blocks of *S. kudriavzevii* and *S. mikatae*, test from *S. cerevisiae*.
    """
    return _HERE / f"{split}.csv.gz"
