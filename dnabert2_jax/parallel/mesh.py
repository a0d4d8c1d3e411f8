"""The mesh: four axes of devices, of any sizes, over one slice or several.

Rows of a batch are spread over ``data`` and ``fsdp``, and the tokens of each row over ``sequence``. A step computes with
weights that are whole along ``data`` (between steps, :class:`~dnabert2_jax.config.sections.MeshOptions` may spread them
there) and along ``sequence``, cut along their hidden axis over ``fsdp`` (Zhao et al. 2023) and along heads, inner channels
or vocabulary over ``tensor`` (Shoeybi et al. 2019).

A slice is a set of devices with fast links: a TPU slice with its interconnect (ICI), or the GPUs that NVLink joins, usually
those of a node. Between slices there is only the data center network (DCN), so that ``fsdp``, ``sequence`` and ``tensor``,
which exchange data in every layer, stay within a slice, and ``data``, which does so once per step, also spans them.
"""

import math
from collections.abc import Callable, Sequence
from itertools import permutations
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P
from numpy.typing import NDArray

from dnabert2_jax.config.sections import MeshOptions
from dnabert2_jax.errors import UserError

AXES = ("data", "fsdp", "sequence", "tensor")
"""Names of the mesh axes. The one with the most traffic is last, because neighboring devices get it."""

ROWS = P(("data", "fsdp"))  # type: ignore[no-untyped-call]
"""How the rows of a batch are spread."""

TOKENS = P(("data", "fsdp"), "sequence")  # type: ignore[no-untyped-call]
"""How arrays with a row's tokens, or whatever else belongs to places in a row, are spread: [B, T, ...]."""

WHOLE = P()  # type: ignore[no-untyped-call]
"""Replicated on every device."""

SliceOf = Callable[[Any], int]
"""Number of the slice that a device belongs to."""


def slice_of(device: Any) -> int:
    """The slice that a device says it belongs to; CPU devices do not say, and count as one slice."""
    return int(getattr(device, "slice_index", 0))


def make_mesh(options: MeshOptions, devices: Sequence[Any] | None = None, slice_of: SliceOf = slice_of) -> Mesh:
    """The mesh on ``devices`` (default: all devices of all processes).

    A single process may leave devices unused: a mesh smaller than the machine takes the first ones.

    Raises:
        UserError: the mesh does not match the available devices, or their slices.
    """
    devices = jax.devices() if devices is None else devices
    inner = options.fsdp * options.sequence * options.tensor
    data = len(devices) // inner if options.data == -1 else options.data
    size, unused = data * inner, len(devices) - data * inner
    if size == 0 or unused < 0 or (unused and (options.data == -1 or jax.process_count() > 1)):
        raise UserError(
            f"mesh: {_product(options.data, options.fsdp, options.sequence, options.tensor)} does not fit the "
            f"{len(devices)} devices of {jax.process_count()} process(es); the product must equal the number of devices "
            "(data = -1 uses all that remain)"
        )
    placed = arrange_devices((data, options.fsdp, options.sequence, options.tensor), devices[:size], slice_of)
    return Mesh(placed, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _product(*sizes: int) -> str:
    """The sizes of the last axes, for messages."""
    return " x ".join(f"{size} ({axis})" for size, axis in zip(sizes, AXES[-len(sizes) :], strict=True))


def arrange_devices(shape: tuple[int, ...], devices: Sequence[Any], slice_of: SliceOf = slice_of) -> NDArray[Any]:
    """Devices in the shape of a mesh, so that all of its axes but ``data`` stay within a slice.

    Along ``data``, each place in a slice is followed by the same place in the other slices. Where a scatter over ``data``
    runs in stages (:func:`data_stages`), the slices are thus its last stage.

    Args:
        shape: sizes of the axes; their product is the number of devices.
        devices: of any platform; TPU devices have ``coords`` in their slice.
        slice_of: the slice of each device.

    Raises:
        UserError: slices of different sizes, or of one that the axes but ``data`` do not divide; or TPU devices that are
            not a box.
    """
    data, *inner = shape
    slices: dict[int, list[Any]] = {}
    for device in devices:
        slices.setdefault(slice_of(device), []).append(device)
    sizes = {number: len(members) for number, members in sorted(slices.items())}
    if len(set(sizes.values())) > 1:
        raise UserError(
            "mesh: the slices (for GPUs, nodes) of a run must have equally many devices, but "
            f"{', '.join(f'slice {number} has {size}' for number, size in sizes.items())}; start the run on equal ones"
        )
    in_slice = len(devices) // len(slices)
    if in_slice % math.prod(inner):
        raise UserError(
            f"mesh: {_product(*inner)} devices exchange data in every layer and must share a slice (a node of GPUs), but "
            f"each of the {len(slices)} slices has {in_slice} devices; set mesh.fsdp, mesh.sequence and mesh.tensor so that "
            f"their product divides {in_slice}"
        )
    return np.stack([_arrange_slice((data // len(slices), *inner), slices[number]) for number in sizes], axis=1).reshape(
        shape
    )


def _arrange_slice(shape: tuple[int, ...], devices: list[Any]) -> NDArray[Any]:
    """The devices of one slice in the shape of its part of the mesh, neighbors along the last axes."""
    try:
        # Splitting a side of the slice between two axes is a last resort: it is tried only where nothing else fits.
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    except AssertionError as error:  # TPU devices with holes between them
        raise UserError(
            f"mesh: {' x '.join(map(str, shape))} = {len(devices)} devices were chosen of a TPU slice, and they are not a "
            "whole box of it; set mesh.data=-1 to use all devices"
        ) from error


def data_stages(devices: Sequence[Any], slice_of: SliceOf = slice_of) -> tuple[int, ...]:
    """The sizes of the stages of a scatter over the ``devices`` along ``data`` (a gather runs them in reverse).

    First the sides of a slice (:func:`slice_sides`), at last the slices: the network between them is the slow one, and by
    then each device has summed all but a share of the gradients away.
    """
    numbers = [slice_of(device) for device in devices]
    slices = len(set(numbers))
    if numbers != numbers[:slices] * (len(devices) // slices):  # not arranged by arrange_devices
        return (len(devices),)
    return tuple(size for size in (*slice_sides(devices[::slices]), slices) if size > 1) or (1,)


def slice_sides(devices: Sequence[Any]) -> tuple[int, ...]:
    """The sizes of the stages of a collective over ``devices``: the sides of a TPU slice, or all at once.

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
