import pytest
from jax.sharding import PartitionSpec as P

from dnabert2_jax.parallel.rules import partition_spec

from .test_mesh import mesh_of


def test_two_axes_of_a_parameter_on_one_mesh_axis_are_an_error():
    with pytest.raises(ValueError, match=r"encoder\.wo: two of its axes collide .*heads to tensor, vocab to tensor"):
        partition_spec("encoder.wo", (8, 8), ("heads", "vocab"), mesh_of())


def test_an_axis_without_a_rule_is_an_error():
    with pytest.raises(ValueError, match=r"mlm\.new: no rule for its axes \['colour'\]"):
        partition_spec("mlm.new", (8, 8), ("hidden", "colour"), mesh_of())


def test_vectors_stay_whole_along_fsdp():
    assert partition_spec("norm", (2, 32), ("layers", "hidden"), mesh_of(fsdp=8)) == P(None, None)
    assert partition_spec("out", (2, 32, 32), ("layers", "heads", "hidden"), mesh_of(fsdp=8)) == P(None, "tensor", "fsdp")
