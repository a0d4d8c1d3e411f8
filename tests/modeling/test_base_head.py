"""The head that labels every base: its definition written out, and what it must not depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf, expit, softmax

from dnabert2_jax.config.model import HeadConfig
from dnabert2_jax.data.base_windows import encode_bases
from dnabert2_jax.data.by_length import choose_lengths, evaluation_batches
from dnabert2_jax.modeling.heads import BASE_CHANNELS, BaseHead, head_outputs
from dnabert2_jax.modeling.models import Network, base_classifier, class_logits, classifier_of
from dnabert2_jax.types import RowBases
from tests.genome.helpers import random_dna
from tests.helpers import tiny_config, tiny_tokenizer

SEQUENCES = [random_dna(40, 1), random_dna(18, 2) + "NNR" + random_dna(9, 3), random_dna(64, 4)]


@pytest.fixture(scope="module")
def model():
    config = tiny_config(initializer_range=0.3)
    network = base_classifier(config, 3)
    params = jax.tree.map(np.asarray, network.init(0))
    rng = np.random.default_rng(5)  # biases that are not zero
    params["bases"] = {
        name: {**p, "bias": rng.normal(size=BASE_CHANNELS).astype(np.float32)} for name, p in params["bases"].items()
    }
    run = jax.jit(lambda params, batch: class_logits(network, params, batch, None))
    return network, params, run


def batch_of(sequences, width=64, rows=None):
    encoded = encode_bases(sequences, tiny_tokenizer(), width)
    [batch] = evaluation_batches(encoded, rows or len(sequences), choose_lengths(encoded.lengths, 1))
    return batch


def convolution(x, kernel, bias):
    """Nine bases wide, zeros beyond the ends. [L, in] -> [L, out]."""
    padded = np.pad(x, ((4, 4), (0, 0)))
    return np.stack([np.einsum("ti,ito->o", padded[at : at + 9], kernel) for at in range(len(x))]) + bias


def gelu(x):
    return x * 0.5 * (1 + erf(x / np.sqrt(2)))


def test_the_definition(model):
    network, params, run = model
    batch = batch_of(SEQUENCES)
    hidden = np.asarray(jax.jit(lambda p, t: network.bind(p).hidden_states(t))(params, batch.tokens), np.float64)
    logits, head = np.asarray(run(params, batch)), params["bases"]
    for slot, row in enumerate(batch.rows):
        sequence = SEQUENCES[row]
        places = [(t, o) for t, n in enumerate(tiny_tokenizer().token_bases(batch.tokens.input_ids[slot])) for o in range(n)]
        states = np.stack([hidden[slot, token] for token, _ in places])
        given = np.zeros((len(sequence), 20))
        for at, (letter, (_, offset)) in enumerate(zip(sequence, places, strict=True)):
            if letter in "ACGT":
                given[at, "ACGT".index(letter)] = 1
            given[at, 4 + offset] = 1
        first = convolution(states, head["states"]["kernel"], head["states"]["bias"])
        first = gelu(first + convolution(given, head["letters"]["kernel"], head["letters"]["bias"]))
        second = gelu(convolution(first, head["second"]["kernel"], head["second"]["bias"]))
        expected = second @ params["classifier"]["kernel"] + params["classifier"]["bias"]
        np.testing.assert_allclose(logits[slot, : len(sequence)], expected, atol=2e-4)


def test_neither_padding_nor_other_rows_change_anything(model):
    _, params, run = model
    alone = np.asarray(run(params, batch_of(SEQUENCES[:1], width=40)))[0]
    together = batch_of(SEQUENCES, rows=5)
    slot = together.rows.tolist().index(0)
    np.testing.assert_allclose(np.asarray(run(params, together))[slot, :40], alone, atol=1e-5)


def test_tokens_longer_than_the_places_told_apart_share_the_last():
    network = Network(lambda rngs: BaseHead(tiny_config(), rngs))
    params = network.init(0)
    hidden = jnp.zeros((1, 3, 32))
    letters = jnp.zeros((1, 30), jnp.int32)

    def features(offsets):
        bases = RowBases(letters, jnp.ones((1, 30), jnp.int32), jnp.asarray(offsets, jnp.int32)[None])
        return np.asarray(network.bind(params)(hidden, bases))

    np.testing.assert_array_equal(features(np.arange(30)), features(np.minimum(np.arange(30), 15)))
    assert (features(np.arange(30)) != features(np.minimum(np.arange(30), 14))).any()


def test_outputs_are_probabilities_of_one_class_or_of_each_label():
    logits = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    one, several = (HeadConfig(task="per_base", window=64, several=several) for several in (False, True))
    np.testing.assert_allclose(head_outputs(logits, one), softmax(logits, axis=-1), rtol=1e-5)
    np.testing.assert_allclose(head_outputs(logits, several), expit(logits), rtol=1e-5)


def test_a_head_says_which_model_it_is_part_of():
    config = tiny_config()
    of_bases = classifier_of(config, 2, HeadConfig(task="per_base", window=64)).abstract()
    assert set(of_bases) == {"encoder", "bases", "classifier"}
    assert set(classifier_of(config, 2, HeadConfig()).abstract()) == {"encoder", "pooler", "classifier"}
    assert set(classifier_of(config, 2, HeadConfig(pooling="mean")).abstract()) == {"encoder", "classifier"}


def test_a_batch_of_sequences_is_refused(model):
    network, params, _ = model
    batch = batch_of(SEQUENCES)._replace(bases=None)
    with pytest.raises(ValueError, match="needs a batch with bases"):
        class_logits(network, params, batch, None)
