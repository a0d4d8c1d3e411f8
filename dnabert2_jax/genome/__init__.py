"""From FASTA to windows: a memory-mapped corpus of genomes, and the windows that pretraining reads from it."""

from dnabert2_jax.genome.build import SpeciesSource, build_corpus
from dnabert2_jax.genome.corpus import Corpus, Split
from dnabert2_jax.genome.fasta import FastaRecord, read_fasta
from dnabert2_jax.genome.windows import Window, Windows

__all__ = ["Corpus", "FastaRecord", "SpeciesSource", "Split", "Window", "Windows", "build_corpus", "read_fasta"]
