from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from dnabert2_jax.data.encoding import encode_sequences
from dnabert2_jax.data.packing import pack
from dnabert2_jax.data.sequences import given_sequences
from dnabert2_jax.errors import UserError
from dnabert2_jax.inference.embedding import embed
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.inference.predictor import Forward, Predictor
from dnabert2_jax.modeling.compute import Compute
from dnabert2_jax.modeling.models import masked_lm
from dnabert2_jax.tokenizer.kmer import KmerTokenizer
from dnabert2_jax.tokenizer.special import PAD
from dnabert2_jax.types import TokenBatch
from tests.genome.helpers import random_dna
from tests.helpers import tiny_config

TOLERANCE = {"atol": 1e-5, "rtol": 0}
"""Values are of order 1; the order of summation differs between rows of different widths."""


@pytest.fixture(scope="module")
def hidden(mlm, mixed_sequences):
    """Hidden states of each sequence in a row of its own, [CLS] and [SEP] included, from the model's definition."""
    rows = encode_sequences(given_sequences(mixed_sequences), mlm.tokenizer).input_ids
    width = max(map(len, rows))
    ids = np.stack([np.pad(row, (0, width - len(row)), constant_values=PAD) for row in rows])
    tokens = TokenBatch(ids, (ids != PAD).astype(np.int32), np.zeros_like(ids))
    network = masked_lm(mlm.config)
    states = jax.jit(lambda params: network.bind(params).hidden_states(tokens))(mlm.predictor.params)
    return [state[: len(row)] for state, row in zip(np.asarray(states), rows, strict=True)]


@pytest.fixture(scope="module")
def expected(mlm, mixed_sequences, hidden):
    """Every pooling of those."""
    ids = mlm.tokenizer.encode_raw_batch(mixed_sequences)
    return {
        "mean": np.stack([h[1:-1].mean(0) for h in hidden]),
        "max": np.stack([h[1:-1].max(0) for h in hidden]),
        "cls": np.stack([h[0] for h in hidden]),
        "token": np.concatenate([h[1:-1] for h in hidden]),
        "base": np.concatenate(
            [np.repeat(h[1:-1], mlm.tokenizer.piece_lengths[i], axis=0) for h, i in zip(hidden, ids, strict=True)]
        ),
    }


@pytest.mark.parametrize("pooling", ["mean", "max", "cls", "token", "base"])
def test_packed_batches_give_what_each_sequence_gives_alone(mlm, mixed_sequences, expected, pooling):
    embeddings = embed(mlm, given_sequences(mixed_sequences), pooling, batch_tokens=600)
    assert embeddings.vectors.dtype == np.float32
    np.testing.assert_allclose(embeddings.vectors, expected[pooling], **TOLERANCE)
    assert embeddings.vectors.std() > 0.3


def test_an_embedding_does_not_depend_on_its_batch(mlm, mixed_sequences):
    together = embed(mlm, given_sequences(mixed_sequences)).vectors
    backwards = embed(mlm, given_sequences(mixed_sequences[::-1]), batch_tokens=300).vectors
    np.testing.assert_allclose(backwards[::-1], together, **TOLERANCE)
    few = embed(mlm, given_sequences(mixed_sequences[7:9])).vectors
    np.testing.assert_allclose(few, together[7:9], **TOLERANCE)


def test_the_test_above_packs_several_sequences_in_a_row(mlm, mixed_sequences):
    batches = pack(encode_sequences(given_sequences(mixed_sequences), mlm.tokenizer), 600)
    assert max((batch.rows >= 0).sum(1).max() for batch in batches) > 2
    assert len(batches) > 1


def test_vectors_of_tokens_and_bases_belong_to_their_sequences(mlm, mixed_sequences):
    sequences = given_sequences(mixed_sequences)
    bases, tokens = embed(mlm, sequences, "base"), embed(mlm, sequences, "token")
    assert [len(v) for v in bases.split()] == [len(s) for s in mixed_sequences]
    assert [len(v) for v in tokens.split()] == [len(ids) for ids in tokens.token_ids]
    for sequence, ids in zip(mixed_sequences, tokens.token_ids, strict=True):
        assert mlm.tokenizer.decode(ids) == sequence.replace("R", "N")
    assert [len(v) for v in embed(mlm, sequences).split()] == [1] * len(sequences)


def test_a_sequence_beyond_the_packed_ones(mlm):
    long = random_dna(12_000, 1)
    vectors = embed(mlm, given_sequences(["ACGTTGAC", long, "GGGATTACA"]), "mean").vectors
    short = embed(mlm, given_sequences(["ACGTTGAC", "GGGATTACA"])).vectors
    np.testing.assert_allclose(vectors[[0, 2]], short, **TOLERANCE)
    half = len(long) // 2
    assert np.abs(embed(mlm, given_sequences([long[:half]])).vectors - vectors[1]).max() > 1e-3


def test_bfloat16_is_near_float32(mlm, mixed_sequences):
    rough = replace(mlm, predictor=Predictor(Forward(mlm.config, Compute("bfloat16")), mlm.predictor.params))
    difference = (
        embed(rough, given_sequences(mixed_sequences)).vectors - embed(mlm, given_sequences(mixed_sequences)).vectors
    )
    assert 0 < np.abs(difference).mean() < 0.03


def test_an_adapter_changes_the_embedding(mlm, adapter_path, mixed_sequences):
    adapted = InferenceModel.load(adapter_path, Compute())
    assert (adapted.kind, adapted.labels) == ("classifier", ("no", "yes"))
    difference = (
        embed(adapted, given_sequences(mixed_sequences)).vectors - embed(mlm, given_sequences(mixed_sequences)).vectors
    )
    assert np.abs(difference).max() > 0.1


def test_mistakes(mlm):
    with pytest.raises(
        UserError, match=r"pooling 'means' is unknown; accepted are mean, cls, max, token, base \(did you mean 'mean'"
    ):
        embed(mlm, given_sequences(["ACGT"]), "means")
    with pytest.raises(UserError, match=r"holds pairs.*--sequence-column sequence1"):
        embed(mlm, given_sequences(["ACGT"], ["ACGT"]))


def test_every_base_has_a_vector_under_overlapping_kmers():
    """Each k-mer stands for its first base, the last of a sequence for all of its own."""
    tokenizer = KmerTokenizer(3, 1)
    config = tiny_config(vocab_size=tokenizer.vocab_size)
    predictor = Predictor(Forward(config, Compute()), masked_lm(config).init(0))
    model = InferenceModel(Path("k-mers"), "masked_lm", tokenizer, (), predictor)
    sequences = given_sequences([random_dna(40, 1), random_dna(9, 2)])
    tokens, bases = (embed(model, sequences, pooling) for pooling in ("token", "base"))
    assert np.diff(tokens.offsets).tolist() == [38, 7]
    assert np.diff(bases.offsets).tolist() == [40, 9]
    np.testing.assert_array_equal(bases.vectors[:37], tokens.vectors[:37])
    np.testing.assert_array_equal(bases.vectors[37:40], np.repeat(tokens.vectors[37:38], 3, axis=0))
