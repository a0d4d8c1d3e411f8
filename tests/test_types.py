"""The shapes that the batches' annotations promise, checked on what the pipelines make."""

import jax
import numpy as np
import pytest
from jaxtyping import jaxtyped

from dnabert2_jax.config.model import EncoderConfig
from dnabert2_jax.modeling.models import masked_lm, sequence_classifier
from dnabert2_jax.types import ClassificationBatch, MlmBatch, TokenBatch
from tests.helpers import mlm_batch, tiny_config


def assert_typed(batch):
    """Every field has the dtype and the shape of its annotation, one letter one size throughout."""
    with jaxtyped("context"):
        pending = [batch]
        for part in pending:
            for name, annotation in type(part).__annotations__.items():
                value = getattr(part, name)
                if hasattr(value, "_fields"):
                    pending.append(value)
                else:
                    assert isinstance(value, annotation), f"{name}: {value.dtype}{list(value.shape)} is not {annotation}"


def classification_batch(rows=3, length=8, slots=None):
    ids = np.full((rows, length), 7, np.int32)
    shape = (rows,) if slots is None else (rows, slots)
    numbers = np.zeros(shape, np.int32)
    starts = None if slots is None else numbers
    seeds = np.arange(rows, dtype=np.uint32)
    return ClassificationBatch(TokenBatch(ids, ids, 0 * ids), numbers, np.ones(shape, np.float32), seeds, numbers, starts)


def test_batches_are_what_their_annotations_say():
    assert_typed(mlm_batch([16, 12]))
    assert_typed(classification_batch())
    assert_typed(classification_batch(slots=2))


@pytest.mark.parametrize(
    "change",
    [
        {"masked_labels": np.zeros((2, 1), np.int32)},  # K is another field's
        {"dropout_seeds": np.zeros(2, np.int32)},
        {"tokens": TokenBatch(*[np.zeros((3, 16), np.int32)] * 3)},  # B is another field's
    ],
    ids=["size", "dtype", "rows"],
)
def test_a_field_of_another_shape_or_dtype_is_found(change):
    batch: MlmBatch = mlm_batch([16, 12])
    with pytest.raises(AssertionError, match="is not"):
        assert_typed(batch._replace(**change))


def encode(config: EncoderConfig, tokens: TokenBatch, **options):
    network = sequence_classifier(config, 2)
    return jax.eval_shape(lambda params: network.bind(params).encoder(tokens, **options), network.abstract())


@pytest.mark.parametrize(
    ("shapes", "options"),
    [
        (((2, 8), (2, 7), (2, 8)), {}),
        (((2, 8), (2, 8), (3, 8)), {}),
        (((2, 8),) * 3, {"dropout_seeds": np.zeros(3, np.uint32)}),
        (((2, 8),) * 3, {"at": np.zeros((3, 1), np.int32)}),
    ],
    ids=["segments", "types", "seeds", "at"],
)
def test_the_encoder_refuses_arrays_that_do_not_belong_together_while_tracing(shapes, options):
    with pytest.raises(AssertionError, match="shape"):
        encode(tiny_config(), TokenBatch(*(np.ones(shape, np.int32) for shape in shapes)), **options)


def test_masked_positions_of_other_rows_are_refused_while_tracing():
    network, batch = masked_lm(tiny_config()), mlm_batch([16, 12])
    with pytest.raises(AssertionError, match="shape"):
        jax.eval_shape(lambda p: network.bind(p).logits(batch.tokens, batch.masked_positions[:1]), network.abstract())
