"""The mesh axis that each axis of a parameter is sharded over.

A parameter declares the logical names of its axes where it is made (:func:`dnabert2_jax.modeling.layers.parameter`);
:data:`RULES` maps each name to a mesh axis.
"""

from collections.abc import Mapping

from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from dnabert2_jax.errors import UserError

RULES: Mapping[str, str | None] = {
    "vocab": "tensor",
    "heads": "tensor",
    "intermediate": "tensor",
    "hidden": "fsdp",
    "hidden_out": "tensor",
    "classes": None,
    "type": None,
    "layers": None,
}
"""The mesh axis of each logical axis; None: replicated."""


def partition_spec(
    name: str, shape: tuple[int, ...], axes: tuple[str, ...], mesh: Mesh, rules: Mapping[str, str | None] = RULES
) -> P:
    """Where each axis of a parameter goes. A vector (bias, LayerNorm) stays whole along ``fsdp``.

    Args:
        name: of the parameter, for messages.
        shape: its shape.
        axes: its logical axes.
        mesh: the mesh.
        rules: mesh axis by logical axis.

    Raises:
        ValueError: an axis without a rule, or two axes on one mesh axis.
        UserError: a size that the devices do not divide.
    """
    if unknown := [axis for axis in axes if axis not in rules]:
        raise ValueError(f"parameter {name}: no rule for its axes {unknown}; RULES know {', '.join(rules)}")
    spec = [None if is_vector(axes) and rules[axis] == "fsdp" else rules[axis] for axis in axes]
    used = [axis for axis in spec if axis is not None]
    if len(set(used)) < len(used):
        goes = ", ".join(f"{axis} to {place}" for axis, place in zip(axes, spec, strict=True))
        raise ValueError(f"parameter {name}: two of its axes collide on one mesh axis ({goes})")
    for axis, size, place in zip(axes, shape, spec, strict=True):
        if place is not None and size % mesh.shape[place]:
            raise UserError(
                f"mesh: {place} = {mesh.shape[place]} does not divide the {axis} axis of {name}, which has size {size}; "
                f"choose another mesh.{place}"
            )
    return P(*spec)  # type: ignore[no-untyped-call]


def is_vector(axes: tuple[str, ...]) -> bool:
    """Whether a parameter is a bias or part of a LayerNorm, of one layer or stacked over all.

    Gathering such a parameter would cost more time than replicating it costs memory.
    """
    return len([axis for axis in axes if axis != "layers"]) == 1


def spread_over_data(shape: tuple[int, ...], axes: tuple[str, ...], spec: P, mesh: Mesh) -> P:
    """``spec`` with ``data`` on the largest axis that has room for it; unchanged if none has, and for vectors."""
    places = list(spec)
    if is_vector(axes):
        return spec
    for free_only in (True, False):  # an axis of its own, or else together with fsdp or tensor
        for index in sorted(range(len(shape)), key=lambda i: -shape[i]):
            taken = mesh.shape[places[index]] if places[index] else 1
            if (taken == 1 or not free_only) and shape[index] % (taken * mesh.shape["data"]) == 0:
                places[index] = "data" if taken == 1 else (places[index], "data")
                return P(*places)  # type: ignore[no-untyped-call]
    return spec
