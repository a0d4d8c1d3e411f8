"""How the arrays and the work of a training step are laid out on the mesh."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from numpy.typing import NDArray

from dnabert2_jax.config.model import EncoderConfig
from dnabert2_jax.config.sections import MeshOptions
from dnabert2_jax.errors import UserError
from dnabert2_jax.parallel.collectives import gather_parameter, reduce_gradient, stage_groups, sum_over_devices
from dnabert2_jax.parallel.feeding import SentBatch, send_batch
from dnabert2_jax.parallel.mesh import ROWS, TOKENS, WHOLE, SliceOf, data_stages, make_mesh, slice_of
from dnabert2_jax.parallel.rules import partition_spec, spread_over_data
from dnabert2_jax.types import Tree


@dataclass(frozen=True, eq=False)
class Layout:
    """The layout of a training step on the mesh; make one with :func:`make_layout` or :func:`spread_rows`.

    Attributes:
        mesh: the devices; possibly a single one.
        params: partition spec of each parameter.
        moments: partition spec of each parameter's moments.
        bfloat16_reduction: see :class:`~dnabert2_jax.config.sections.MeshOptions`.
        gathered: dtype of each parameter as a step sees it, if parameters are spread over ``data``.
        stages: sizes whose product is ``data``; a scatter over ``data`` runs in these stages, and a gather in reverse.
        collectives: whether a step's results are added up over devices. On a single device they need not be; the compiler
            then sees the plain program.
    """

    mesh: Mesh
    params: Tree
    moments: Tree
    bfloat16_reduction: bool = False
    gathered: Tree | None = None
    stages: tuple[int, ...] = ()
    collectives: bool = True

    @property
    def whole(self) -> bool:
        """Whether every device computes with whole parameters."""
        return self.mesh.shape["fsdp"] * self.mesh.shape["tensor"] == 1

    def shardings(self, specs: Any) -> Any:
        """Partition specs as shardings on this mesh."""
        return jax.tree.map(lambda spec: NamedSharding(self.mesh, spec), specs, is_leaf=lambda x: isinstance(x, P))

    def check_batch(self, batch_size: int, accumulate: int, tokens: int) -> None:
        """Refuse a batch of rows of ``tokens`` tokens that cannot be divided evenly.

        Raises:
            UserError: with the numbers.
        """
        data, fsdp, sequence, _ = self.mesh.shape.values()
        if batch_size % (data * fsdp * accumulate):
            raise UserError(
                f"training.batch_size {batch_size} is not a multiple of data x fsdp x accumulate = "
                f"{data} x {fsdp} x {accumulate}; change one of them"
            )
        if tokens % sequence:
            raise UserError(
                f"data.tokens_per_row {tokens} is not a multiple of mesh.sequence {sequence}: each device takes as many "
                "tokens of a row; change one of them"
            )

    def optimizer_specs(self, optimizer: optax.GradientTransformation, trainable: Tree) -> Any:
        """Partition specs of the optimizer's state: moments as ``moments``, counters replicated."""
        return optax.tree.map_params(
            optimizer,
            lambda _, spec: spec,
            jax.eval_shape(optimizer.init, trainable),
            self.moments,
            transform_non_params=lambda _: WHOLE,
        )

    def init(self, initialize: Callable[[int], Tree], seed: int) -> Tree:
        """Parameters from ``initialize(seed)``, made on the mesh: no device ever holds more than its shard."""
        return jax.jit(initialize, static_argnums=0, out_shardings=self.shardings(self.params))(seed)

    def place(self, params: Tree) -> Tree:
        """Host arrays, the same in every process, as parameters on the mesh."""
        return jax.tree.map(
            lambda leaf, sharding: jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index]),
            params,
            self.shardings(self.params),
        )

    def copy(self, params: Tree) -> Tree:
        """Parameters replicated on every device."""
        return jax.device_put(params, NamedSharding(self.mesh, WHOLE))

    def rows_here(self, batch_size: int) -> NDArray[np.int64]:
        """The rows of a batch that this process's devices hold, in order."""
        indices = NamedSharding(self.mesh, ROWS).addressable_devices_indices_map((batch_size,))
        own = [np.arange(batch_size)[index] for index in indices.values() if index is not None]
        return np.unique(np.concatenate(own))

    def send(self, rows: Any, batch_size: int) -> SentBatch:
        """Send each process's :meth:`rows_here` of a batch, [rows here, ...], to its devices; on any thread."""
        return send_batch(rows, NamedSharding(self.mesh, ROWS), self.rows_here(batch_size), batch_size)

    def batch(self, rows: Any, batch_size: int) -> Any:
        """A batch over all processes, leaves [batch_size, ...], from each one's :meth:`rows_here`, [rows here, ...]."""
        return self.send(rows, batch_size).arrays()

    def by_rows(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function(params, *arrays)``, which returns a row for each row of its arrays, on each device's rows.

        Rows that do not divide evenly are filled up with rows of zeros, whose results are dropped.
        """
        if not self.collectives:
            return function
        divided: Callable[..., Any] = jax.shard_map(
            lambda params, arrays: function(params, *arrays),
            mesh=self.mesh,
            in_specs=(WHOLE, ROWS),
            out_specs=ROWS,
            check_vma=False,
        )

        def filled(params: Tree, *arrays: Any) -> Any:
            rows = len(jax.tree.leaves(arrays)[0])
            missing = -rows % self.mesh.size

            def with_zeros(x: jax.Array) -> jax.Array:
                return jnp.pad(x, ((0, missing), *((0, 0) for _ in x.shape[1:])))

            return jax.tree.map(lambda x: x[:rows], divided(params, jax.tree.map(with_zeros, arrays)))

        return filled

    def add_up(self, function: Callable[..., Any], *, gradients: bool) -> Callable[..., Any]:
        """``function(trainable, frozen, batch)`` summed over the rows of all devices.

        Without fsdp and tensor, each device gathers the parameters and works on its own rows, or on its own tokens of them,
        and the results are added once at the end. With them, XLA divides the work and adds where it must.

        Args:
            function: sums over the rows of ``batch``.
            gradients: its result is (gradients, sums) instead of sums; the gradients arrive spread like the moments.
        """
        if not self.collectives:
            return function
        return self._on_each_device(function, gradients) if self.whole else self._divided(function, gradients)

    def _divided(self, function: Callable[..., Any], gradients: bool) -> Callable[..., Any]:
        def divided(*arguments: Any) -> Any:
            with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):  # for kernels that XLA cannot divide
                result = function(*arguments)
            if not gradients:
                return result
            constrained = jax.tree.map(jax.lax.with_sharding_constraint, result[0], self.shardings(self.moments))
            return constrained, result[1]

        return divided

    def _on_each_device(self, function: Callable[..., Any], gradients: bool) -> Callable[..., Any]:
        stages = stage_groups(self.stages or (self.mesh.shape["data"],))
        sent = jnp.bfloat16 if self.bfloat16_reduction else jnp.float32

        def on_one(trainable: Tree, frozen: Tree, batch: Any) -> Any:
            if self.gathered is not None:
                trainable = jax.tree.map(
                    lambda shard, spec, dtype: gather_parameter(shard, spec, dtype, stages),
                    trainable,
                    self.params,
                    self.gathered,
                )
            result = function(trainable, frozen, batch)
            if not gradients:
                return sum_over_devices(result)
            reduced = jax.tree.map(lambda g, spec: reduce_gradient(g, spec, sent, stages), result[0], self.moments)
            return reduced, sum_over_devices(result[1])

        def on_each(trainable: Tree, frozen: Tree, batch: Any) -> Any:
            batch = jax.tree.map(self._with_whole_shares, batch)
            spread = jax.tree.map(lambda x: TOKENS if x.ndim > 1 else ROWS, batch)
            return jax.shard_map(
                on_one,
                mesh=self.mesh,
                in_specs=(self.params, WHOLE, spread),
                out_specs=(self.moments, WHOLE) if gradients else WHOLE,
                check_vma=False,
            )(trainable, frozen, batch)

        return on_each

    def _with_whole_shares(self, x: jax.Array) -> jax.Array:
        """[B, n, ...] with as many zeros as it takes for devices to share n evenly: masked slots of zeros are unused."""
        missing = -x.shape[1] % self.mesh.shape["sequence"] if x.ndim > 1 else 0
        return jnp.pad(x, ((0, 0), (0, missing), *((0, 0) for _ in x.shape[2:]))) if missing else x


def make_layout(
    options: MeshOptions,
    mesh: Mesh,
    abstract: Tree,
    axes: Tree,
    config: EncoderConfig,
    precision: str = "float32",
    slice_of: SliceOf = slice_of,
) -> Layout:
    """The layout that divides rows, parameters and moments as ``options`` says.

    Args:
        options: how devices share the work.
        mesh: the devices, from :func:`make_mesh`.
        abstract: shape and dtype of each parameter.
        axes: the logical axis names of each parameter, in the same nesting.
        config: the model's sizes.
        precision: dtype in which the blocks compute.
        slice_of: the slice of each device, as for :func:`make_mesh`.

    Raises:
        UserError: a parameter, or the heads, cannot be divided.
    """
    if config.num_attention_heads % mesh.shape["tensor"]:
        raise UserError(
            f"mesh: tensor = {mesh.shape['tensor']} does not divide the {config.num_attention_heads} attention heads of "
            "this model; choose another mesh.tensor"
        )

    def spec(path: Any, leaf: Any, names: tuple[str, ...]) -> P:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        return partition_spec(name, leaf.shape, names, mesh)

    params = jax.tree_util.tree_map_with_path(spec, abstract, axes)
    if not options.shard_optimizer:
        return Layout(mesh, params, params, options.bfloat16_reduction)
    moments = jax.tree.map(lambda leaf, names, spec: spread_over_data(leaf.shape, names, spec, mesh), abstract, axes, params)
    if mesh.shape["fsdp"] * mesh.shape["tensor"] > 1:
        return Layout(mesh, params, moments)
    gathered = jax.tree.map(
        lambda leaf, names: jnp.dtype(precision if "layers" in names and leaf.ndim > 2 else leaf.dtype), abstract, axes
    )
    stages = data_stages(list(mesh.devices[:, 0, 0, 0]), slice_of)
    return Layout(mesh, moments, moments, options.bfloat16_reduction, gathered, stages)


def spread_rows(options: MeshOptions, rows: int, params: Tree) -> Layout:
    """The layout that divides rows among this process's devices, each of which holds whole parameters.

    Args:
        options: ``data`` devices, 1 included; -1 takes as many as divide ``rows``.
        rows: in the smallest batch that is computed at once.
        params: the tree of trainable parameters.

    Raises:
        UserError: more devices than available, or a number that does not divide the rows.
    """
    here = jax.local_devices()
    count = options.data
    if count == -1:
        count = next(n for n in range(min(len(here), rows), 0, -1) if rows % n == 0)
    if rows % count:
        raise UserError(
            f"mesh: {count} (data) devices do not divide the {rows} rows that training.batch_size and training.accumulate "
            "make at a time; change one of them, or set mesh.data=-1 to use as many devices as divide them"
        )
    return _whole_on_each(count, jax.tree.structure(params))


@lru_cache
def _whole_on_each(devices: int, structure: jax.tree_util.PyTreeDef) -> Layout:
    specs = jax.tree.unflatten(structure, [WHOLE] * structure.num_leaves)
    mesh = make_mesh(MeshOptions(data=devices), jax.local_devices())
    return Layout(mesh, specs, specs, collectives=devices > 1)
