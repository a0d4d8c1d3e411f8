from dataclasses import dataclass

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from dnabert2_jax.config.sections import MeshOptions
from dnabert2_jax.errors import UserError
from dnabert2_jax.parallel.mesh import AXES, arrange_devices, data_stages, make_mesh, slice_of, slice_sides


def mesh_of(**options):
    return make_mesh(MeshOptions(**options))


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (8, 1, 1, 1)),
        ({"fsdp": 8}, (1, 8, 1, 1)),
        ({"fsdp": 2, "tensor": 2}, (2, 2, 1, 2)),
        ({"sequence": 4}, (2, 1, 4, 1)),
        ({"data": 4}, (4, 1, 1, 1)),  # one process may leave devices unused
        ({"data": 1, "tensor": 2}, (1, 1, 1, 2)),
    ],
)
def test_mesh_has_the_four_axes_with_their_types_written_out(options, shape):
    mesh = mesh_of(**options)
    assert mesh.axis_names == AXES
    assert tuple(mesh.shape.values()) == shape
    assert mesh.axis_types == (AxisType.Auto,) * 4
    assert len({device.id for device in mesh.devices.flat}) == np.prod(shape)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": 3, "fsdp": 3}, r"3 \(data\) x 3 \(fsdp\) x 1 \(sequence\) x 1 \(tensor\) does not fit the 8 devices"),
        ({"fsdp": 3}, r"-1 \(data\) x 3 \(fsdp\)"),
        ({"tensor": 16}, r"x 16 \(tensor\)"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        mesh_of(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": 0}, "found 0"),
        ({"data": -2}, "greater than or equal to -1"),
        ({"fsdp": 0}, "greater than or equal to 1"),
        ({"sequence": 0}, "greater than or equal to 1"),
        ({"sequence": 2, "fsdp": 2}, "sequence needs fsdp = 1 and tensor = 1"),
        ({"sequence": 2, "tensor": 2}, "sequence needs fsdp = 1 and tensor = 1"),
        ({"fsdp": 2, "bfloat16_reduction": True}, "bfloat16_reduction needs fsdp = 1 and tensor = 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MeshOptions(**options)


@dataclass(frozen=True)
class Chip:
    """A device of a TPU slice, as far as its place goes."""

    coords: tuple[int, int, int]
    slice_index: int = 0
    device_kind: str = "TPU v5 lite"
    platform: str = "tpu"
    core_on_chip: int = 0


@dataclass(frozen=True)
class Gpu:
    """A GPU of a node; jax numbers the nodes as slices."""

    id: int
    slice_index: int
    device_kind: str = "NVIDIA H100 80GB HBM3"
    platform: str = "gpu"


def tpu_slice(x, y, z=1, kind="TPU v5 lite", number=0):
    return [Chip((i, j, k), number, kind) for k in range(z) for j in range(y) for i in range(x)]


def gpu_nodes(nodes, gpus=8):
    return [Gpu(node * gpus + gpu, node) for node in range(nodes) for gpu in range(gpus)]


def is_a_box(chips):
    places = np.array([chip.coords for chip in chips])
    return len({chip.slice_index for chip in chips}) == 1 and np.prod(np.ptp(places, axis=0) + 1) == len(chips)


def test_collectives_go_along_the_sides_of_a_slice_that_devices_walk_row_by_row():
    square = [Chip((x, y, 0)) for x in range(4) for y in range(4)]
    cube = [Chip((x, y, z)) for z in range(2) for x in range(3) for y in range(4)]
    snake = [Chip((x, y if x % 2 else 3 - y, 0)) for x in range(4) for y in range(4)]
    assert slice_sides(square) == (4, 4)
    assert slice_sides(cube) == (2, 3, 4)
    assert slice_sides(square[:4]) == (4,)
    assert slice_sides(square[:1]) == (1,)
    assert slice_sides(snake) == (16,)
    assert slice_sides(square[:6]) == (6,)  # not a whole rectangle
    assert slice_sides([*square, *square]) == (32,)  # two devices of one chip
    assert slice_sides(jax.devices()) == (8,)


@pytest.mark.parametrize(
    ("devices", "shape"),
    [
        (tpu_slice(16, 16, kind="TPU v6 lite"), (8, 16, 1, 2)),  # configs/pretrain_1b.toml: no side of the slice is 8 or 2
        (tpu_slice(4, 4, 8, kind="TPU v5"), (4, 16, 1, 2)),
        (tpu_slice(8, 8), (2, 16, 1, 2)),
        (tpu_slice(8, 8), (2, 1, 16, 2)),
        ([*tpu_slice(8, 8), *tpu_slice(8, 8, number=1)], (4, 16, 1, 2)),
    ],
    ids=["v6e:16x16", "v5p:4x4x8", "v5e:8x8", "v5e:8x8 by sequence", "2 x v5e:8x8"],
)
def test_devices_that_exchange_data_in_every_layer_are_a_box_of_one_slice(devices, shape):
    placed = arrange_devices(shape, devices)
    assert placed.shape == shape
    assert set(placed.flat) == set(devices)
    assert all(is_a_box(group) for group in placed.reshape(shape[0], -1))
    assert all(is_a_box(pair) for pair in placed.reshape(-1, shape[3]))  # `tensor` on neighbors


@pytest.mark.parametrize(
    ("devices", "stages"),
    [
        (tpu_slice(8, 8), (8, 8)),
        ([*tpu_slice(8, 8), *tpu_slice(8, 8, number=1)], (8, 8, 2)),
        (
            [*tpu_slice(4, 4), *tpu_slice(4, 4, number=5), *tpu_slice(4, 4, number=9)],
            (16, 3),
        ),  # a ring
        (gpu_nodes(2), (8, 2)),
        (gpu_nodes(1), (8,)),
        (gpu_nodes(4, gpus=1), (4,)),
    ],
    ids=["v5e:8x8", "2 x v5e:8x8", "3 x v5e:4x4", "2 nodes", "1 node", "4 nodes of one"],
)
def test_slices_are_the_last_stage_along_data(devices, stages):
    slices = len({slice_of(device) for device in devices})
    along_data = arrange_devices((len(devices), 1, 1, 1), devices)[:, 0, 0, 0]
    by_place = along_data.reshape(-1, slices)
    assert all(len({slice_of(device) for device in same_place}) == slices for same_place in by_place)
    assert data_stages(list(along_data)) == stages


def test_devices_in_another_order_are_one_stage():
    assert data_stages(gpu_nodes(2)) == (16,)


@pytest.mark.parametrize(
    ("devices", "shape", "message"),
    [
        (gpu_nodes(2), (1, 16, 1, 1), r"16 \(fsdp\) x 1 \(sequence\) .* each of the 2 slices has 8 devices; .* divides 8"),
        (gpu_nodes(2), (1, 1, 16, 1), r"16 \(sequence\) .* must share a slice .* mesh\.sequence"),
        (gpu_nodes(2), (2, 2, 1, 4), None),
        (gpu_nodes(2)[:12], (12, 1, 1, 1), "slice 0 has 8, slice 1 has 4; start the run on equal ones"),
        (tpu_slice(2, 2)[:3], (3, 1, 1, 1), r"3 x 1 x 1 x 1 = 3 devices .* not a whole box .* mesh\.data=-1"),
    ],
    ids=["fsdp over nodes", "sequence over nodes", "fits", "unequal nodes", "three of four chips"],
)
def test_what_slices_cannot_give_is_refused(devices, shape, message):
    if message is None:
        assert arrange_devices(shape, devices).shape == shape
        return
    with pytest.raises(UserError, match=message):
        arrange_devices(shape, devices)
