"""What one process can show; two are in tests/training/test_elastic.py."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from dnabert2_jax.config.sections import MeshOptions
from dnabert2_jax.errors import UserError
from dnabert2_jax.parallel.mesh import make_mesh
from dnabert2_jax.parallel.processes import gather, is_first, on_first, start_processes


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ("host:1", None, None),
            "--num-processes and --process-id missing: a run of several processes needs --coordinator,",
        ),
        ((None, 2, 0), "--coordinator missing"),
        (("host:1", 2, 2), "--process-id 2: the ids of 2 processes are 0 to 1"),
        (("host:1", 2, -1), "--process-id -1"),
        (("host", 2, 0), "--coordinator host: give the host of process 0 and a free port"),
    ],
)
def test_processes_that_could_not_find_each_other_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        start_processes(*given)


def test_a_process_on_its_own_is_the_first():
    assert is_first()
    assert on_first(lambda: 3) == 3
    assert on_first(lambda: None) == 0

    def refuse():
        raise UserError("the disk is full")

    with pytest.raises(UserError, match="the disk is full"):
        on_first(refuse)


def test_gathered_arrays_are_whole_and_on_the_host():
    whole = np.arange(32.0, dtype=np.float32).reshape(8, 4)
    mesh = make_mesh(MeshOptions(fsdp=2, tensor=2))
    spread = jax.device_put(whole, NamedSharding(mesh, PartitionSpec(("data", "fsdp"), "tensor")))
    found = gather({"a": spread, "b": jax.numpy.ones(3)})
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(found))
    np.testing.assert_array_equal(found["a"], whole)
    np.testing.assert_array_equal(found["b"], np.ones(3))
