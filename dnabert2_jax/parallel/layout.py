"""Many devices as one: the mesh, where parameters, moments and rows lie on it, and the processes that share it.

A mesh has three axes, of any sizes. Rows of a batch are spread over ``data`` and ``fsdp``. A step computes with weights that
are whole along ``data`` (between steps :class:`MeshOptions` may spread them there), cut along their hidden axis over
``fsdp`` (Zhao et al. 2023) and along heads, inner channels or vocabulary over ``tensor`` (Shoeybi et al. 2019). Which axis
of a parameter is which is declared with the parameter (:func:`dnabert2_jax.modeling.layers.parameter`); :data:`RULES` say
where each goes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from numpy.typing import NDArray

from dnabert2_jax.config.mesh import MeshOptions
from dnabert2_jax.config.model import EncoderConfig
from dnabert2_jax.errors import UserError
from dnabert2_jax.types import Tree

if TYPE_CHECKING:  # the modules import this one
    from dnabert2_jax.modeling.models import Network

AXES = ("data", "fsdp", "tensor")
"""Names of the mesh axes, the one with the most traffic last: neighbouring devices get it."""

ROWS = P(("data", "fsdp"))  # type: ignore[no-untyped-call]
"""How the rows of a batch are spread."""

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
"""The mesh axis of each logical axis; None: whole on every device."""


def make_mesh(options: MeshOptions, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh on ``devices`` (default: all of all processes).

    One process may leave devices unused: a mesh smaller than the machine takes the first ones.

    Raises:
        UserError: the numbers do not go into the devices that there are.
    """
    devices = jax.devices() if devices is None else devices
    inner = options.fsdp * options.tensor
    data = len(devices) // inner if options.data == -1 else options.data
    size, unused = data * inner, len(devices) - data * inner
    if size == 0 or unused < 0 or (unused and (options.data == -1 or jax.process_count() > 1)):
        raise UserError(
            f"mesh: {options.data} (data) x {options.fsdp} (fsdp) x {options.tensor} (tensor) does not fit the "
            f"{len(devices)} devices of {jax.process_count()} process(es); their product must be that number "
            "(data = -1 takes what is left)"
        )
    return jax.make_mesh((data, options.fsdp, options.tensor), AXES, (AxisType.Auto,) * 3, devices=devices[:size])


def partition_spec(
    name: str, shape: tuple[int, ...], axes: tuple[str, ...], mesh: Mesh, rules: Mapping[str, str | None] = RULES
) -> P:
    """Where each axis of a parameter goes.

    A vector (bias, LayerNorm) stays whole along ``fsdp``.

    Args:
        name: of the parameter, for messages.
        shape: its shape.
        axes: its logical axes.
        mesh: the mesh.
        rules: mesh axis by logical axis.

    Raises:
        ValueError: an axis that no rule knows, or two that go to one mesh axis.
        UserError: a size that the devices do not divide.
    """
    if unknown := [axis for axis in axes if axis not in rules]:
        raise ValueError(f"parameter {name}: no rule for its axes {unknown}; RULES know {', '.join(rules)}")
    spec = [None if _is_vector(axes) and rules[axis] == "fsdp" else rules[axis] for axis in axes]
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


def _is_vector(axes: tuple[str, ...]) -> bool:
    """Is a parameter a bias or part of a LayerNorm, of one layer or of all?

    Gathering such a one would cost more time than keeping it whole costs memory.
    """
    return len([axis for axis in axes if axis != "layers"]) == 1


def _stages(devices: Sequence[Any]) -> tuple[int, ...]:
    """Into which sizes a collective over ``devices`` is cut: the sides of a TPU slice where they walk it row by row.

    XLA turns a gather or scatter over the whole of a slice into an all-reduce, at twice the traffic; along one side at a
    time it does not. Everywhere else: all at once.
    """
    places = np.array([getattr(device, "coords", ()) for device in devices])  # [devices, dimensions of the slice]
    for order in permutations(range(places.shape[1])):
        walked = places[:, order].tolist()
        sides = [len(set(column)) for column in zip(*walked, strict=True)]
        if walked == sorted(walked) and np.prod(sides) == len(devices) == len(np.unique(places, axis=0)):
            return tuple(side for side in sides if side > 1) or (1,)
    return (len(devices),)


def _spread_over_data(shape: tuple[int, ...], axes: tuple[str, ...], spec: P, mesh: Mesh) -> P:
    """``spec`` with ``data`` on the largest axis that has room for it; unchanged where none has, and for vectors."""
    places = list(spec)
    if _is_vector(axes):
        return spec
    for free_only in (True, False):  # an axis of its own, or else together with fsdp or tensor
        for index in sorted(range(len(shape)), key=lambda i: -shape[i]):
            taken = mesh.shape[places[index]] if places[index] else 1
            if (taken == 1 or not free_only) and shape[index] % (taken * mesh.shape["data"]) == 0:
                places[index] = "data" if taken == 1 else (places[index], "data")
                return P(*places)  # type: ignore[no-untyped-call]
    return spec


@dataclass(frozen=True)
class Layout:
    """Where everything of a training step lies.

    Attributes:
        mesh: the devices.
        params: partition spec of every parameter.
        moments: partition spec of every parameter's moments.
        bfloat16_reduction: see :class:`MeshOptions`.
        gathered: dtype of every parameter as a step sees it, where parameters are spread over ``data``.
        stages: sizes that make ``data``; gathers and scatters over it take one after the other.
    """

    mesh: Mesh
    params: Tree
    moments: Tree
    bfloat16_reduction: bool = False
    gathered: Tree | None = None
    stages: tuple[int, ...] = ()

    @property
    def whole(self) -> bool:
        """Does every device compute with whole parameters?"""
        return self.mesh.shape["fsdp"] * self.mesh.shape["tensor"] == 1

    def shardings(self, specs: Any) -> Any:
        """Partition specs as shardings on this mesh."""
        return jax.tree.map(lambda spec: NamedSharding(self.mesh, spec), specs, is_leaf=_is_spec)

    def check_batch(self, batch_size: int, accumulate: int) -> None:
        """Refuse a batch that is not cut evenly.

        Raises:
            UserError: with the numbers.
        """
        shards = self.mesh.shape["data"] * self.mesh.shape["fsdp"]
        if batch_size % (shards * accumulate):
            raise UserError(
                f"training.batch_size {batch_size} is not a multiple of data x fsdp x accumulate = "
                f"{shards // self.mesh.shape['fsdp']} x {self.mesh.shape['fsdp']} x {accumulate}; change one of them"
            )

    def optimizer_specs(self, optimizer: optax.GradientTransformation, trainable: Tree) -> Any:
        """Partition specs of the optimizer's state: moments as ``moments``, counters whole."""
        return optax.tree.map_params(
            optimizer,
            lambda _, spec: spec,
            jax.eval_shape(optimizer.init, trainable),
            self.moments,
            transform_non_params=lambda _: P(),  # type: ignore[no-untyped-call]
        )

    def init(self, network: "Network[Any]", seed: int) -> Tree:
        """Initial parameters on the mesh; no device holds more than its part."""
        return jax.jit(network.init, static_argnums=0, out_shardings=self.shardings(self.params))(seed)

    def copy(self, params: Tree) -> Tree:
        """Parameters, whole on every device."""
        whole = NamedSharding(self.mesh, P())  # type: ignore[no-untyped-call]
        return jax.tree.map(lambda leaf: jax.device_put(leaf, whole), params)

    def by_rows(self, function: Callable[[Tree, Any], jax.Array]) -> Callable[[Tree, Any], jax.Array]:
        """``function(params, batch)``, which gives a row for each row of the batch, over the rows of all devices."""
        whole = P()  # type: ignore[no-untyped-call]
        return jax.shard_map(function, mesh=self.mesh, in_specs=(whole, ROWS), out_specs=ROWS, check_vma=False)

    def place(self, params: Tree) -> Tree:
        """Host arrays, the same ones in every process, as parameters on the mesh."""
        return jax.tree.map(
            lambda leaf, sharding: jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index]),
            params,
            self.shardings(self.params),
        )

    def rows_here(self, batch_size: int) -> NDArray[np.int64]:
        """The rows of a batch that this process's devices hold, in order."""
        indices = NamedSharding(self.mesh, ROWS).addressable_devices_indices_map((batch_size,))
        own = [np.arange(batch_size)[index] for index in indices.values() if index is not None]
        return np.unique(np.concatenate(own))

    def batch(self, rows: Any, batch_size: int) -> Any:
        """A batch over all processes, leaves [batch_size, ...], from each one's :meth:`rows_here`, [rows here, ...]."""
        here, sharding = self.rows_here(batch_size), NamedSharding(self.mesh, ROWS)

        def spread(leaf: NDArray[Any]) -> jax.Array:
            def part(index: tuple[slice, ...] | None) -> NDArray[Any]:
                assert index is not None
                return leaf[np.searchsorted(here, np.arange(batch_size)[index[0]])]

            return jax.make_array_from_callback((batch_size, *leaf.shape[1:]), sharding, part)

        return jax.tree.map(spread, rows)

    def add_up(self, function: Callable[..., Any], *, gradients: bool) -> Callable[..., Any]:
        """``function(trainable, frozen, batch)`` over the rows of all devices.

        Without fsdp and tensor, each device gathers the parameters, works on its rows by itself, and the results are added
        once at the end. With them, XLA divides the work and adds where it must.

        Args:
            function: sums over the rows of ``batch``.
            gradients: its result is (gradients, sums) instead of sums; the gradients arrive spread like the moments.
        """
        if not self.whole:

            def divided(*arguments: Any) -> Any:
                with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):  # for kernels that XLA cannot divide
                    result = function(*arguments)
                if not gradients:
                    return result
                constrained = jax.tree.map(jax.lax.with_sharding_constraint, result[0], self.shardings(self.moments))
                return constrained, result[1]

            return divided

        whole = P()  # type: ignore[no-untyped-call]

        def on_each_device(trainable: Tree, frozen: Tree, batch: Any) -> Any:
            if self.gathered is not None:
                trainable = jax.tree.map(self._gather, trainable, self.params, self.gathered)
            result = function(trainable, frozen, batch)
            if not gradients:
                return self._sum(result)
            return jax.tree.map(self._reduce, result[0], self.moments), self._sum(result[1])

        return jax.shard_map(
            on_each_device,
            mesh=self.mesh,
            in_specs=(self.params, whole, ROWS),
            out_specs=(self.moments, whole) if gradients else whole,
            check_vma=False,
        )

    def _stage_groups(self) -> list[list[list[int]]]:
        """For each stage, the devices that share it: those that differ in one digit of their number."""
        stages = self.stages or (self.mesh.shape["data"],)
        numbers = np.arange(self.mesh.shape["data"]).reshape(stages)
        return [np.moveaxis(numbers, i, -1).reshape(-1, size).tolist() for i, size in enumerate(stages)]

    def _gather(self, weight: jax.Array, spec: P, dtype: Any) -> jax.Array:
        """The whole of a parameter that is spread over ``data``."""
        if "data" not in spec:
            return weight

        def gather(shard: jax.Array, axis: int) -> jax.Array:
            for groups in reversed(self._stage_groups()):
                shard = jax.lax.all_gather(shard, "data", axis=axis, tiled=True, axis_index_groups=groups)
            return shard

        return _layer_by_layer(gather, weight.astype(dtype), list(spec).index("data"))

    def _sum(self, x: Any) -> Any:
        """The sum over ``data``. One device adds nothing: XLA removes a sum over one device after it has kept fusions apart."""
        return x if self.mesh.shape["data"] == 1 else jax.lax.psum(x, "data")  # type: ignore[no-untyped-call]

    def _reduce(self, gradient: jax.Array, spec: P) -> jax.Array:
        """The sum of a gradient over ``data``, spread like its moments."""
        sent = gradient.astype(jnp.bfloat16 if self.bfloat16_reduction else jnp.float32)
        if "data" not in spec:
            summed: jax.Array = self._sum(sent).astype(jnp.float32)
            return summed

        def scatter(whole: jax.Array, axis: int) -> jax.Array:
            for groups in self._stage_groups():
                whole = jax.lax.psum_scatter(  # type: ignore[no-untyped-call]
                    whole, "data", scatter_dimension=axis, tiled=True, axis_index_groups=groups
                )
            return whole

        return _layer_by_layer(scatter, sent, list(spec).index("data")).astype(jnp.float32)


def _layer_by_layer(function: Callable[[jax.Array, int], jax.Array], x: jax.Array, axis: int) -> jax.Array:
    """``function(x, axis)``; where another axis than the layers' is meant, of each layer by itself.

    Each layer's weights may then travel while another layer computes, and XLA need not join the gradients of all first.
    """
    if x.ndim < 3 or axis == 0:
        return function(x, axis)
    return jnp.stack([function(layer, axis - 1) for layer in x])


def keep_rows_spread(x: jax.Array) -> jax.Array:
    """Activations [B, ...] with rows over ``data`` and ``fsdp`` and everything else whole.

    Left to itself, XLA lets the sharding of a weight spill into activations, and moves those instead of the weight. Without
    effect outside of a step that XLA divides.
    """
    return _constrain(x, ROWS)


def keep_whole(x: jax.Array) -> jax.Array:
    """A weight as one whole on every device, for lookups: XLA divides a gather badly. Without effect elsewhere, too."""
    return _constrain(x, P())  # type: ignore[no-untyped-call]


def keep_columns_spread(kernel: jax.Array) -> jax.Array:
    """A weight [in, parts, out], the columns of each part over ``tensor``. Without effect elsewhere, too."""
    return _constrain(kernel, P("fsdp", None, "tensor"))  # type: ignore[no-untyped-call]


def is_divided() -> bool:
    """Is this traced for a step that XLA divides among devices?"""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.axis_names == AXES and set(mesh.axis_types) == {AxisType.Auto}


def row_shards() -> int:
    """Devices that the rows of an array are spread over, as far as whoever traces sees all of them."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.shape["data"] * mesh.shape["fsdp"] if is_divided() else 1


def _constrain(x: jax.Array, spec: P) -> jax.Array:
    return jax.lax.with_sharding_constraint(x, spec) if is_divided() else x  # type: ignore[no-untyped-call]


def make_layout(
    options: MeshOptions, mesh: Mesh, network: "Network[Any]", config: EncoderConfig, precision: str = "float32"
) -> Layout:
    """The layout of a network's training on a mesh.

    Args:
        options: how devices share the work.
        mesh: the devices, of :func:`make_mesh`.
        network: whose parameters.
        config: its sizes.
        precision: dtype in which the blocks compute.

    Raises:
        UserError: a parameter, or the heads, cannot be divided.
    """
    if config.num_attention_heads % mesh.shape["tensor"]:
        raise UserError(
            f"mesh: tensor = {mesh.shape['tensor']} does not divide the {config.num_attention_heads} attention heads of "
            "this model; choose another mesh.tensor"
        )
    abstract, axes = network.abstract(), network.axes()

    def spec(path: Any, leaf: Any, names: tuple[str, ...]) -> P:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        return partition_spec(name, leaf.shape, names, mesh)

    params = jax.tree_util.tree_map_with_path(spec, abstract, axes)
    if not options.shard_optimizer:
        return Layout(mesh, params, params, options.bfloat16_reduction)
    moments = jax.tree.map(
        lambda leaf, names, spec: _spread_over_data(leaf.shape, names, spec, mesh), abstract, axes, params
    )
    if mesh.shape["fsdp"] * mesh.shape["tensor"] > 1:
        return Layout(mesh, params, moments)
    gathered = jax.tree.map(
        lambda leaf, names: jnp.dtype(precision if "layers" in names and leaf.ndim > 2 else leaf.dtype), abstract, axes
    )
    stages = _stages(list(mesh.devices[:, 0, 0]))
    return Layout(mesh, moments, moments, options.bfloat16_reduction, gathered, stages)


def spread_rows(options: MeshOptions, rows: int, params: Tree) -> Layout:
    """The layout that divides rows among devices of this process, each of which holds whole parameters.

    Args:
        options: ``data`` devices; -1 takes as many as divide ``rows``.
        rows: those of the smallest part that is computed at once.
        params: the tree of trainable parameters.

    Raises:
        UserError: more devices than there are, or a number that does not divide the rows.
    """
    here = jax.local_devices()
    count = options.data
    if count == -1:
        count = next(n for n in range(min(len(here), rows), 0, -1) if rows % n == 0)
    if rows % count:
        raise UserError(
            f"mesh: {count} (data) devices do not divide the {rows} rows that training.batch_size and training.accumulate "
            "make at a time; change one of them, or set mesh.data=-1 for as many as do"
        )
    specs = jax.tree.map(lambda _: P(), params)  # type: ignore[no-untyped-call]
    return Layout(make_mesh(MeshOptions(data=count), here), specs, specs)


def _is_spec(x: Any) -> bool:
    return isinstance(x, P)
