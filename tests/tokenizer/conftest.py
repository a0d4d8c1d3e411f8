import dnaio
import pytest

from dnabert2_jax import sample_data
from dnabert2_jax.tokenizer.base import Tokenizer
from dnabert2_jax.tokenizer.training import train_bpe


@pytest.fixture(scope="session")
def chromosomes() -> list[str]:
    """Chromosome I of three yeasts, soft-masked, as the sample data has them."""
    sequences = []
    for path in sample_data.fasta_files().values():
        with dnaio.open(path) as reader:
            sequences += [record.sequence for record in reader]
    return sequences


@pytest.fixture(scope="session")
def tokenizer(chromosomes: list[str]) -> Tokenizer:
    return train_bpe(chromosomes, vocab_size=1024)
