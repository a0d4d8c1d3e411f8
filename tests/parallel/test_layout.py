import jax
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from dnabert2_jax.config.model import named_size
from dnabert2_jax.config.sections import MeshOptions, OptimizerConfig
from dnabert2_jax.errors import UserError
from dnabert2_jax.modeling.models import masked_lm
from dnabert2_jax.parallel.layout import make_layout, spread_rows
from dnabert2_jax.parallel.mesh import ROWS, make_mesh
from dnabert2_jax.training.optimizer import make_optimizer
from tests.helpers import mlm_batch, tiny_config


def layout_of(config=None, **options):
    config = config or tiny_config()
    chosen, network = MeshOptions(**options), masked_lm(config)
    return make_layout(chosen, make_mesh(chosen), network.abstract(), network.axes(), config)


def test_a_size_that_devices_do_not_divide_is_an_error_that_names_the_parameter():
    with pytest.raises(UserError, match=r"fsdp = 8 does not divide the hidden axis of encoder.* size 36; .*mesh\.fsdp"):
        layout_of(tiny_config(hidden_size=36), fsdp=8)
    with pytest.raises(UserError, match="tensor = 8 does not divide the 4 attention heads"):
        layout_of(tensor=8)


def test_every_parameter_of_the_named_sizes_has_a_place():
    """Two axes never collide, and what is large is cut along both fsdp and tensor."""
    for size in ("117m", "1b"):
        config = named_size(size, 4096)
        layout = layout_of(config, fsdp=2, tensor=4)
        specs = jax.tree_util.tree_flatten_with_path(layout.params)[0]
        leaves = jax.tree.leaves(masked_lm(config).abstract())
        for (path, spec), leaf in zip(specs, leaves, strict=True):
            if leaf.size > 1e6:
                assert {"fsdp", "tensor"} <= set(spec), (path, spec)
            assert len(spec) == len(leaf.shape)


def test_moments_follow_their_parameter_and_counters_stay_whole():
    layout = layout_of(fsdp=2, tensor=2)
    assert layout.moments == layout.params
    specs = layout.optimizer_specs(make_optimizer(OptimizerConfig(), 10), masked_lm(tiny_config()).abstract())
    for moment in ("mu", "nu"):
        assert optax.tree.get(specs, moment) == layout.params
    counters = [spec for spec in jax.tree.leaves(specs) if spec == P()]
    assert len(counters) == 2


@pytest.mark.parametrize("options", [{}, {"fsdp": 2, "tensor": 2}], ids=["data", "all"])
def test_moments_are_spread_over_data_where_an_axis_has_room(options):
    layout = layout_of(shard_optimizer=True, **options)
    abstract = masked_lm(tiny_config()).abstract()
    devices = layout.mesh.devices.size

    def one_device_holds(leaf, spec):
        return np.prod(NamedSharding(layout.mesh, spec).shard_shape(leaf.shape))

    shares = jax.tree.map(lambda leaf, spec: leaf.size / one_device_holds(leaf, spec), abstract, layout.moments)
    layers = shares["encoder"]["layers"]
    assert {layers[name]["kernel"] for name in ("Wqkv", "out", "gated_layers", "wo")} == {devices}
    assert shares["encoder"]["embeddings"]["word"] == devices
    assert layers["wo"]["bias"] == layers["feed_forward_norm"]["scale"] == 1  # vectors stay whole


@pytest.mark.parametrize("options", [{}, {"fsdp": 4}, {"fsdp": 2, "tensor": 2}, {"tensor": 4}, {"sequence": 4}], ids=str)
def test_a_batch_is_spread_row_by_row(options):
    layout = layout_of(**options)
    batch = mlm_batch([16, 12, 16, 7, 16, 9, 16, 16])
    here = layout.rows_here(8)
    assert here.tolist() == list(range(8))  # one process has all of them
    spread = layout.batch(batch, 8)
    shards = layout.mesh.shape["data"] * layout.mesh.shape["fsdp"]
    for whole, leaf in zip(jax.tree.leaves(batch), jax.tree.leaves(spread), strict=True):
        np.testing.assert_array_equal(leaf, whole)
        assert leaf.sharding.spec == ROWS
        assert {shard.data.shape[0] for shard in leaf.addressable_shards} == {8 // shards}
        assert len({str(shard.index) for shard in leaf.addressable_shards}) == shards


def test_batches_that_cannot_be_cut_evenly_are_refused():
    layout = layout_of(fsdp=2)
    layout.check_batch(32, 4, 16)
    with pytest.raises(UserError, match=r"batch_size 24 is not a multiple of data x fsdp x accumulate = 4 x 2 x 2"):
        layout.check_batch(24, 2, 16)
    layout = layout_of(sequence=8)
    layout.check_batch(1, 1, 128)
    with pytest.raises(UserError, match=r"tokens_per_row 100 is not a multiple of mesh\.sequence 8: .*; change one of them"):
        layout.check_batch(1, 1, 100)


def test_initial_parameters_are_those_of_one_device():
    layout, network = layout_of(fsdp=2, tensor=2), masked_lm(tiny_config())
    alone = network.init(3)
    spread = layout.init(network.init, 3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8), alone, spread)
    kernel = spread["encoder"]["layers"]["Wqkv"]["kernel"]
    assert kernel.shape == (2, 32, 96)
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(2, 16, 48)}
    placed = layout.place(jax.device_get(alone))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), alone, placed)
    assert placed["encoder"]["layers"]["Wqkv"]["kernel"].sharding == kernel.sharding


@pytest.mark.parametrize(("data", "rows", "devices"), [(-1, 8, 8), (-1, 12, 6), (-1, 11, 1), (2, 8, 2), (1, 8, 1)])
def test_rows_are_spread_over_devices_that_hold_whole_parameters(data, rows, devices):
    """One device has a mesh, too."""
    layout = spread_rows(MeshOptions(data=data), rows, {"w": np.zeros(2)})
    assert layout.mesh.shape == {"data": devices, "fsdp": 1, "sequence": 1, "tensor": 1}
    assert layout.whole
    assert layout.params == layout.moments == {"w": P()}
