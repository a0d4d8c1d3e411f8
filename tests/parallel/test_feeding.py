import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding

from dnabert2_jax.config.sections import MeshOptions
from dnabert2_jax.parallel.feeding import send_batch
from dnabert2_jax.parallel.mesh import ROWS, make_mesh
from dnabert2_jax.types import ClassificationBatch, TokenBatch
from tests.helpers import classification_batch, mlm_batch

SHARDING = NamedSharding(make_mesh(MeshOptions(data=4, fsdp=2)), ROWS)


def sent(batch, rows=8):
    return send_batch(batch, SHARDING, np.arange(rows), rows)


@pytest.mark.parametrize("make", [mlm_batch, classification_batch], ids=["mlm", "classification"])
def test_a_batch_arrives_as_it_was_sent(make):
    batch = make([16, 12, 16, 7, 16, 9, 16, 16])
    found = sent(batch).arrays()
    assert jax.tree.structure(found) == jax.tree.structure(batch)
    for array, leaf in zip(jax.tree.leaves(found), jax.tree.leaves(batch), strict=True):
        assert (array.shape, array.dtype, array.sharding) == (leaf.shape, leaf.dtype, SHARDING)
        np.testing.assert_array_equal(array, leaf)


def test_every_bit_of_every_kind_of_number_arrives():
    words = np.array([0, 1, 2**31, 2**32 - 1, 0x7FC00001, 0xFFC12345, 0x00000001, 0x80000000], np.uint32)
    tree = {"unsigned": words, "signed": words.view(np.int32), "float": words.view(np.float32), "wide": np.arange(8)}
    found = sent(tree).arrays()
    assert found.pop("wide").dtype == np.int32  # as everywhere in jax
    for name, array in found.items():
        np.testing.assert_array_equal(np.asarray(array).view(np.uint32), words, err_msg=name)


def test_each_device_gets_one_array_with_its_rows():
    batch = mlm_batch([16, 12, 16, 7, 16, 9, 16, 16])
    table = sent(batch).table
    words = sum(leaf.size for leaf in jax.tree.leaves(batch)) // 8
    assert [shard.data.shape for shard in table.addressable_shards] == [(1, words)] * 8


def test_a_process_sends_the_rows_it_has():
    """Rows 2, 3, 6, and 7 of eight, on devices that are asked for no others."""
    here = np.array([2, 3, 6, 7])
    mesh = make_mesh(MeshOptions(data=2), jax.devices()[:2])
    tokens = TokenBatch(*(np.arange(4, dtype=np.int32)[:, None] + here[:, None] for _ in range(3)))
    batch = ClassificationBatch(tokens, here.astype(np.int32), here.astype(np.float32), here.astype(np.uint32), here)
    own = send_batch(batch, NamedSharding(mesh, ROWS), np.arange(4), 4).arrays()
    np.testing.assert_array_equal(own.labels, here)
    np.testing.assert_array_equal(own.tokens.input_ids, tokens.input_ids)
