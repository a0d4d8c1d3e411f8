"""The mesh: three axes of devices, of any sizes.

Rows of a batch are spread over ``data`` and ``fsdp``. A step computes with weights that are whole along ``data`` (between
steps :class:`~dnabert2_jax.config.mesh.MeshOptions` may spread them there), cut along their hidden axis over ``fsdp`` (Zhao
et al. 2023) and along heads, inner channels or vocabulary over ``tensor`` (Shoeybi et al. 2019).
"""

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from dnabert2_jax.config.mesh import MeshOptions
from dnabert2_jax.errors import UserError

AXES = ("data", "fsdp", "tensor")
"""Names of the mesh axes. The one with the most traffic is last, because neighboring devices get it."""

ROWS = P(("data", "fsdp"))  # type: ignore[no-untyped-call]
"""How the rows of a batch are spread."""

WHOLE = P()  # type: ignore[no-untyped-call]
"""Replicated on every device."""


def make_mesh(options: MeshOptions, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh on ``devices`` (default: all devices of all processes).

    A single process may leave devices unused: a mesh smaller than the machine takes the first ones.

    Raises:
        UserError: the mesh does not match the available devices.
    """
    devices = jax.devices() if devices is None else devices
    inner = options.fsdp * options.tensor
    data = len(devices) // inner if options.data == -1 else options.data
    size, unused = data * inner, len(devices) - data * inner
    if size == 0 or unused < 0 or (unused and (options.data == -1 or jax.process_count() > 1)):
        raise UserError(
            f"mesh: {options.data} (data) x {options.fsdp} (fsdp) x {options.tensor} (tensor) does not fit the "
            f"{len(devices)} devices of {jax.process_count()} process(es); the product must equal the number of devices "
            "(data = -1 uses all that remain)"
        )
    return jax.make_mesh((data, options.fsdp, options.tensor), AXES, (AxisType.Auto,) * 3, devices=devices[:size])


def slice_sides(devices: Sequence[Any]) -> tuple[int, ...]:
    """The sizes of the stages in which a collective over ``devices`` runs: the sides of a TPU slice, or all at once.

    XLA turns a gather or scatter over a whole slice into an all-reduce, with twice the traffic; along one side at a time it
    does not. Devices qualify if they walk a whole rectangle row by row.
    """
    places = np.array([getattr(device, "coords", ()) for device in devices])  # [devices, dimensions of the slice]
    for order in permutations(range(places.shape[1])):
        walked = places[:, order].tolist()
        sides = [len(set(column)) for column in zip(*walked, strict=True)]
        if walked == sorted(walked) and np.prod(sides) == len(devices) == len(np.unique(places, axis=0)):
            return tuple(side for side in sides if side > 1) or (1,)
    return (len(devices),)
