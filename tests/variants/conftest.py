import pytest

from dnabert2_jax.inference.model import InferenceModel
from tests.genome.helpers import random_dna
from tests.variants.helpers import random_classifier, random_mlm


@pytest.fixture(scope="session")
def mlm() -> InferenceModel:
    return random_mlm()


@pytest.fixture(scope="session")
def classifier() -> InferenceModel:
    return random_classifier()


@pytest.fixture(scope="session")
def genome() -> str:
    """Random bases with runs and a repeat, where indels can be shifted."""
    return random_dna(100, 1) + "C" + "A" * 9 + "G" + random_dna(60, 2) + "TGA" * 5 + "CC" + random_dna(100, 3)
