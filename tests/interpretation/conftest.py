import pytest

from dnabert2_jax.data.sequences import Sequences, given_sequences
from dnabert2_jax.inference.model import InferenceModel
from tests.genome.helpers import random_dna
from tests.interpretation.helpers import additive_model
from tests.variants.helpers import random_classifier, random_mlm


@pytest.fixture(scope="session")
def mlm() -> InferenceModel:
    return random_mlm()


@pytest.fixture(scope="session")
def classifier() -> InferenceModel:
    return random_classifier()


@pytest.fixture(scope="session")
def additive(classifier) -> InferenceModel:
    return additive_model(classifier)


@pytest.fixture(scope="session")
def sequences() -> Sequences:
    """Three sequences whose rows are padded to one width; one of them with unknown bases."""
    return given_sequences({"first": random_dna(24, 1), "second": random_dna(22, 2), "unknown": "ACGTNNRACGTTGCAATG"})
