from typing import NamedTuple

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from dnabert2_jax.config.mesh import MeshOptions
from dnabert2_jax.errors import UserError
from dnabert2_jax.parallel.mesh import AXES, make_mesh, slice_sides


def mesh_of(data=-1, fsdp=1, tensor=1):
    return make_mesh(MeshOptions(data=data, fsdp=fsdp, tensor=tensor))


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (8, 1, 1)),
        ({"fsdp": 8}, (1, 8, 1)),
        ({"fsdp": 2, "tensor": 2}, (2, 2, 2)),
        ({"data": 4}, (4, 1, 1)),  # one process may leave devices unused
        ({"data": 1, "tensor": 2}, (1, 1, 2)),
    ],
)
def test_mesh_has_the_three_axes_with_their_types_written_out(options, shape):
    mesh = mesh_of(**options)
    assert mesh.axis_names == AXES
    assert tuple(mesh.shape.values()) == shape
    assert mesh.axis_types == (AxisType.Auto,) * 3
    assert len({device.id for device in mesh.devices.flat}) == np.prod(shape)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": 3, "fsdp": 3}, r"3 \(data\) x 3 \(fsdp\) x 1 \(tensor\) does not fit the 8 devices"),
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
        ({"fsdp": 2, "bfloat16_reduction": True}, "bfloat16_reduction needs fsdp = 1 and tensor = 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MeshOptions(**options)


class Chip(NamedTuple):
    """A device of a TPU slice, as far as its place goes."""

    coords: tuple[int, int, int]


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
