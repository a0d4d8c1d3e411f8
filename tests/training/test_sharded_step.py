"""A step that devices share is the step of one device, to float32 rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from dnabert2_jax.config.sections import MeshOptions, OptimizerConfig
from dnabert2_jax.modeling.compute import Compute
from dnabert2_jax.modeling.models import masked_lm
from dnabert2_jax.parallel.layout import Layout, make_layout
from dnabert2_jax.parallel.mesh import make_mesh, slice_of
from dnabert2_jax.training.objectives import mlm_loss
from dnabert2_jax.training.optimizer import make_optimizer
from dnabert2_jax.training.step import StepMetrics, TrainState, init_state, make_eval_step, make_train_step
from tests.helpers import mlm_batch, tiny_config

ROWS, STEPS = 16, 3
# An epsilon near the moments' size: where it is tiny, Adam's first steps are the signs of gradients, and turn rounding
# errors of gradients near zero into whole steps.
OPTIMIZER = OptimizerConfig(learning_rate=1e-2, warmup_steps=0, weight_decay=0.01, epsilon=1e-3)

MESHES = {  # and the parts that a batch is cut into
    "sequence": (MeshOptions(data=2, sequence=4), 2),
    "zero": (MeshOptions(shard_optimizer=True), 2),
    "all": (MeshOptions(fsdp=2, tensor=2), 2),
    "data": (MeshOptions(), 1),
    "fsdp": (MeshOptions(fsdp=8), 1),
    "all-zero": (MeshOptions(fsdp=2, tensor=2, shard_optimizer=True), 1),
    "tensor": (MeshOptions(data=1, tensor=4), 1),
    "one": (MeshOptions(data=1), 1),
}


@pytest.fixture(autouse=True, scope="module")
def promotion():
    """Optax itself relies on jax's usual promotion of dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def batches():
    lengths = [16, 12, 16, 7, 16, 9, 16, 16, 5, 16, 16, 11, 16, 16, 8, 16]
    for step in range(STEPS):
        batch = mlm_batch(lengths, seed=step, record=ROWS * step)
        weights = batch.masked_weights.copy()
        weights[[2, 7]] = 0  # rows that only fill the batch: shards have different weights
        yield batch._replace(masked_weights=weights)


@pytest.fixture(scope="module")
def network():
    return masked_lm(tiny_config())


@pytest.fixture(scope="module")
def params(network):
    return jax.device_get(network.init(0))


def train(network, params, options, *, accumulate=1, precision="float32", slice_of=slice_of):
    """Three steps: (state, metrics of each, scores, layout)."""
    optimizer, mesh = make_optimizer(OPTIMIZER, 100), make_mesh(options, slice_of=slice_of)
    layout = make_layout(options, mesh, network.abstract(), network.axes(), tiny_config(), precision, slice_of)
    step = make_train_step(mlm_loss(network), optimizer, layout, accumulate=accumulate)
    state, measured = init_state(layout.place(params), optimizer, layout), []
    for batch in batches():
        state, metrics = step(state, {}, placed(batch, layout))
        measured.append(metrics)
    scores = make_eval_step(mlm_loss(network), layout)(state.trainable, {}, placed(next(batches()), layout))
    return state, measured, scores, layout


def placed(batch, layout):
    """The batch on the devices of the layout, of which this process fills its own."""
    here = layout.rows_here(ROWS)
    return layout.batch(jax.tree.map(lambda leaf: leaf[here], batch), ROWS)


def train_without_a_mesh(network, params):
    """The same three steps by hand: (state, metrics of each, scores)."""
    optimizer, loss = make_optimizer(OPTIMIZER, 100), mlm_loss(network)

    @jax.jit
    def step(state, batch):
        def objective(trainable):
            sums = loss(trainable, {}, batch, True)
            return sums.loss, sums

        gradients, sums = jax.grad(objective, has_aux=True)(state.trainable)
        gradients = jax.tree.map(lambda g: g / sums.weight, gradients)
        updates, moments = optimizer.update(gradients, state.optimizer, state.trainable)
        norms = optax.tree.norm(gradients), optax.tree.norm(updates)
        return TrainState(state.step + 1, optax.apply_updates(state.trainable, updates), moments), StepMetrics(
            sums, *norms, 0
        )

    state, measured = TrainState(jnp.int32(0), params, optimizer.init(params)), []
    for batch in batches():
        state, metrics = step(state, batch)
        measured.append(metrics)
    return state, measured, jax.jit(lambda p, batch: loss(p, {}, batch, False))(state.trainable, next(batches()))


@pytest.fixture(scope="module")
def alone(network, params):
    return train_without_a_mesh(network, params)


@pytest.fixture(
    scope="module",
    params=[*list(MESHES)[:3], *(pytest.param(name, marks=pytest.mark.slow) for name in list(MESHES)[3:])],
)
def shared(request, network, params):
    options, accumulate = MESHES[request.param]
    return train(network, params, options, accumulate=accumulate)


def assert_same_training(found, expected, tolerance=1e-5):
    """Losses, norms, parameters and moments; errors relative to the size of each array."""
    for a, b in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(a.sums, b.sums, rtol=tolerance)
        np.testing.assert_allclose(a.gradient_norm, b.gradient_norm, rtol=10 * tolerance)
    np.testing.assert_allclose(found[2], expected[2], rtol=tolerance)

    def same(a, b):
        a, b = np.asarray(a), np.asarray(b)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(np.abs(b).max(), 1e-3))

    jax.tree.map(same, found[0].trainable, expected[0].trainable)
    jax.tree.map(same, optax.tree.get(found[0].optimizer, "mu"), optax.tree.get(expected[0].optimizer, "mu"))
    assert int(found[0].step) == int(expected[0].step) == STEPS


@pytest.mark.parametrize("accumulate", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_spread_weights_are_gathered_in_the_precision_of_the_blocks(params, accumulate):
    network = masked_lm(tiny_config(), Compute("bfloat16"))
    options = MeshOptions(shard_optimizer=True)
    apart = train(network, params, options, accumulate=accumulate, precision="bfloat16")
    alone = train_without_a_mesh(network, params)
    gathered = apart[3].gathered["encoder"]
    assert (gathered["layers"]["wo"]["kernel"], gathered["embeddings"]["word"]) == (jnp.bfloat16, jnp.float32)
    for ours, expected in zip(apart[1], alone[1], strict=True):
        np.testing.assert_allclose(ours.sums.loss, expected.sums.loss, rtol=2**-8)
        np.testing.assert_allclose(ours.gradient_norm, expected.gradient_norm, rtol=2**-8)
    weight, whole = (state.trainable["encoder"]["layers"]["wo"]["kernel"] for state in (apart[0], alone[0]))
    assert weight.dtype == whole.dtype == jnp.float32
    assert weight.addressable_shards[0].data.size * 8 == weight.size


def test_devices_that_share_a_step_do_what_one_does(shared, alone, params):
    assert_same_training(shared, alone)
    moved = jax.tree.map(lambda before, after: np.abs(before - np.asarray(after)).max(), params, shared[0].trainable)
    assert min(jax.tree.leaves(moved)) > 1e-4


def test_parameters_and_moments_lie_where_the_layout_says(shared):
    """After a step as before it: each device holds its own part and no more."""
    state, _, _, layout = shared

    def lies(leaf, spec):
        sharding = NamedSharding(layout.mesh, spec)
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
        assert {shard.data.shape for shard in leaf.addressable_shards} == {sharding.shard_shape(leaf.shape)}

    jax.tree.map(lies, state.trainable, layout.params)
    for moment in ("mu", "nu"):
        jax.tree.map(lies, optax.tree.get(state.optimizer, moment), layout.moments)


def test_gradients_added_in_bfloat16():
    """Eight shards' sums in bfloat16: exact while 8 bits hold them, rounded beyond; the loss beside them stays float32."""
    mesh = make_mesh(MeshOptions())

    def total(values, *, narrow):
        layout = Layout(mesh, {"w": P(), "v": P()}, {"w": P("data"), "v": P()}, bfloat16_reduction=narrow)

        def sums(trainable, frozen, batch):
            each = batch.sum()
            return jax.tree.map(lambda w: w * each, trainable), each

        ones = {"w": jnp.ones(8), "v": jnp.ones(3)}
        return jax.jit(layout.add_up(sums, gradients=True))(ones, {}, layout.batch(np.float32(values), 8))

    small, sum_of_small = total([1, 2, 3, 4, 5, 6, 7, 8], narrow=True)
    assert {float(x) for leaf in small.values() for x in leaf} == {36.0}
    assert sum_of_small == 36
    for narrow, expected in ((False, 1001.0), (True, 1000.0)):  # between 512 and 1024, bfloat16 counts in steps of 4
        large, sum_of_large = total([1001, 0, 0, 0, 0, 0, 0, 0], narrow=narrow)
        assert {float(x) for leaf in large.values() for x in leaf} == {expected}
        assert all(leaf.dtype == jnp.float32 for leaf in large.values())
        assert sum_of_large == 1001


@pytest.mark.parametrize("stages", [(8,), (2, 4), (2, 2, 2)])
def test_gathers_and_scatters_in_stages_put_everything_where_it_belongs(stages):
    """Exact: small whole numbers. Leaves like a layers' kernel, an embedding and a bias."""
    mesh = make_mesh(MeshOptions())
    specs = {"kernel": P(None, None, "data"), "word": P("data"), "bias": P()}
    shapes = {"kernel": (3, 2, 16), "word": (8, 5), "bias": (4,)}
    weights = {name: np.arange(np.prod(shape), dtype=np.float32).reshape(shape) for name, shape in shapes.items()}
    dtypes = dict.fromkeys(shapes, jnp.float32)
    layout = Layout(mesh, specs, specs, gathered=dtypes, stages=stages)
    rows = np.arange(8, dtype=np.float32)

    def sums(trainable, frozen, batch):
        return jax.tree.map(lambda w: w * batch.sum(), trainable), batch.sum()

    found, total = jax.jit(layout.add_up(sums, gradients=True))(layout.place(weights), {}, layout.batch(rows, 8))
    assert total == rows.sum()
    for name, weight in weights.items():
        np.testing.assert_array_equal(found[name], weight * rows.sum())
        assert found[name].sharding.is_equivalent_to(NamedSharding(mesh, specs[name]), weight.ndim)


def test_whole_parameters_are_reduced_once_and_scattered_for_sharded_moments(network, params):
    """The program of eight data shards: what crosses devices is the gradient, once, however many parts a batch has."""
    options = MeshOptions(shard_optimizer=True)
    layout = make_layout(options, make_mesh(options), network.abstract(), network.axes(), tiny_config())
    optimizer = make_optimizer(OPTIMIZER, 100)
    step = make_train_step(mlm_loss(network), optimizer, layout, accumulate=2)
    state = init_state(layout.place(params), optimizer, layout)
    program = step.lower(state, {}, layout.batch(next(batches()), ROWS)).as_text()
    spread = ["data" in spec for spec in jax.tree.leaves(layout.moments)]
    layers = [shape[0] if len(shape) > 2 else 1 for shape in map(jnp.shape, jax.tree.leaves(params))]
    scatters = sum(each for each, is_spread in zip(layers, spread, strict=True) if is_spread)  # one for each layer
    assert program.count("stablehlo.reduce_scatter") == scatters >= 10
    # Vectors, and the three sums.
    assert program.count("stablehlo.all_reduce") == spread.count(False) + 3


@pytest.fixture(scope="module")
def gradient(params):
    """Gradient of a training loss by the ways to compute it."""

    def compute(**options):
        loss = mlm_loss(masked_lm(tiny_config(), Compute(**options)))
        return jax.jit(jax.grad(lambda p: loss(p, {}, next(batches()), True).loss))(params)

    return compute


@pytest.fixture(scope="module")
def plain_gradient(gradient):
    return gradient()


@pytest.mark.parametrize(
    "options", [{"remat": "attention", "unroll": 2}, {"remat": "full"}, {"microbatches": 4}, {"microbatches": 6}], ids=str
)
def test_what_is_computed_again_unrolled_or_cut_changes_nothing(gradient, plain_gradient, options):
    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * max(float(np.abs(b).max()), 1e-2))

    jax.tree.map(close, gradient(**options), plain_gradient)


def test_remat_keeps_less():
    """Bytes that the forward pass hands to the backward pass: full < attention < none."""
    batch = next(batches())

    def kept(remat):
        network = masked_lm(tiny_config(), Compute(remat=remat))
        loss = mlm_loss(network)
        handed_on = jax.eval_shape(lambda p: jax.vjp(lambda p: loss(p, {}, batch, True).loss, p)[1], network.abstract())
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(handed_on))

    assert kept("full") < kept("attention") < kept("none")
