"""Attention matrices: rows that sum to 1, weights that reproduce the layers, bases, choices and refusals."""

from operator import itemgetter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dnabert2_jax import DNABERT2
from dnabert2_jax.data.sequences import given_sequences
from dnabert2_jax.errors import UserError
from dnabert2_jax.interpretation.attention import AttentionMaps, attention_maps, between_bases
from dnabert2_jax.modeling.block import Block, BlockInputs
from dnabert2_jax.modeling.compute import Compute
from dnabert2_jax.modeling.dropout import BlockDropout
from dnabert2_jax.modeling.encoder import Embeddings
from dnabert2_jax.modeling.models import Network
from dnabert2_jax.tokenizer.special import CLS, SEP
from dnabert2_jax.types import TokenBatch


@pytest.fixture(scope="module")
def maps(classifier, sequences) -> list[AttentionMaps]:
    return attention_maps(classifier, sequences)


def test_rows_sum_to_1(maps):
    for result in maps:
        tokens = len(result.token_ids)
        assert result.weights.shape == (2, 4, tokens, tokens)
        assert (result.token_ids[0], result.token_ids[-1]) == (CLS, SEP)
        assert result.weights.min() >= 0
        np.testing.assert_allclose(result.weights.sum(-1), 1, atol=1e-6)


def test_the_weights_times_values_are_what_every_backend_computes(classifier, maps):
    """Layer by layer: out(A V) is the block's attention, and after the last block come the model's hidden states."""
    config, parameters = classifier.config, classifier.predictor.params["encoder"]
    result = maps[0]
    ids = result.token_ids[None]
    tokens = TokenBatch(ids, np.ones_like(ids), np.zeros_like(ids))

    @jax.jit
    def layer(own, x, weights):
        """out(A V), attention by two backends, and the block's output."""
        block = Network(lambda rngs: Block(config, rngs)).bind(own)
        inputs = BlockInputs(jnp.asarray(tokens.segment_ids), BlockDropout(None, jnp.uint32(0)), {})
        (v,) = block.Wqkv.heads(x, "bhtd", config.num_attention_heads, None, "v")
        mixed = jnp.einsum("hqk,bhkd->bhqd", weights, v, precision="highest")
        attended = [block.attention(x, inputs, backend) for backend in ("reference", "blocked")]
        return block.out.from_heads(mixed, "bhtd", None), attended, block(x, inputs, Compute("float32", "blocked"))

    embeddings = Network(lambda rngs: Embeddings(config, rngs)).bind(parameters["embeddings"])
    x = jax.jit(lambda: embeddings(tokens, jnp.float32, None))()
    for number in range(config.num_hidden_layers):
        own = jax.tree.map(itemgetter(number), parameters["layers"])
        mixed, attended, x = layer(own, x, result.weights[number])
        for expected in attended:
            np.testing.assert_allclose(mixed, expected, atol=2e-5)
            assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(x, DNABERT2(classifier).hidden_states(ids), atol=1e-4)


def test_bases_share_the_attention_to_their_token(classifier, sequences, maps):
    for result, tokens in zip(attention_maps(classifier, sequences, resolution="base"), maps, strict=True):
        letters = len(result.sequence)
        assert result.weights.shape == (2, 4, letters, letters)
        token_of = np.repeat(np.arange(len(tokens.token_ids)), tokens.token_bases)
        rng = np.random.default_rng(0)
        for q, k in rng.integers(0, letters, (20, 2)):
            share = tokens.weights[:, :, token_of[q], token_of[k]] / tokens.token_bases[token_of[k]]
            np.testing.assert_allclose(result.weights[:, :, q, k], share, rtol=1e-6)
        special = tokens.weights[..., [0, -1]].sum(-1)[..., token_of]
        np.testing.assert_allclose(result.weights.sum(-1), 1 - special, atol=1e-6)


def test_between_bases_of_a_token_without_bases():
    weights = np.array([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.2, 0.2, 0.6]], np.float32)
    expected = np.array([[0.3, 0.3, 0.3], [0.3, 0.3, 0.3], [0.1, 0.1, 0.6]], np.float32)
    np.testing.assert_allclose(between_bases(weights, np.array([0, 2, 1], np.int32))[:, :2], expected[:, :2])


def test_layers_and_heads_are_parts_of_the_whole(classifier, sequences, maps):
    for result, whole in zip(attention_maps(classifier, sequences, layers=[1], heads=[3, 0]), maps, strict=True):
        assert (result.layers, result.heads) == ((1,), (3, 0))
        np.testing.assert_array_equal(result.weights, whole.weights[[1]][:, [3, 0]])


def test_a_layer_or_head_that_the_model_lacks(classifier, sequences):
    with pytest.raises(UserError, match="--layers 2: this model has 2 layers; accepted are 0 to 1"):
        attention_maps(classifier, sequences, layers=[2])
    with pytest.raises(UserError, match="--heads -1: this model has 4 heads; accepted are 0 to 3"):
        attention_maps(classifier, sequences, heads=[-1])


def test_more_than_2_gib_is_refused_with_its_size(classifier):
    twice = given_sequences({"chr1": "ACGTTGCAATGC" * 600, "chr2": "ACGTTGCAATGC" * 600})
    with pytest.raises(
        UserError,
        match=r"sequences: 8 maps of attention of 2 sequences, up to 7,200 x 7,200 bases \('chr1'\), are 3\.1 GiB, over the "
        r"limit of 2 GiB; choose --layers, --heads or --resolution token, or fewer or shorter sequences",
    ):
        attention_maps(classifier, twice, resolution="base")
