import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dnabert2_jax.artifacts.tensors import tree_sha256
from dnabert2_jax.config.model import LoraConfig
from dnabert2_jax.config.sections import MeshOptions, OptimizerConfig
from dnabert2_jax.modeling.compute import Compute
from dnabert2_jax.modeling.lora import init_adapter
from dnabert2_jax.modeling.models import count_parameters, masked_lm, sequence_classifier
from dnabert2_jax.parallel.layout import spread_rows
from dnabert2_jax.training.objectives import classification_loss, mlm_loss
from dnabert2_jax.training.optimizer import make_optimizer
from dnabert2_jax.training.step import init_state, make_train_step
from tests.helpers import classification_batch, mlm_batch, one_device, tiny_config

OPTIMIZER = OptimizerConfig(learning_rate=3e-3, warmup_steps=0, weight_decay=0.01)
LENGTHS = [16, 12, 16, 7, 16, 9, 16, 16]


@pytest.fixture(autouse=True)
def promotion():
    """Optax itself relies on jax's usual promotion of dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def network():
    return masked_lm(tiny_config())


@pytest.fixture(scope="module")
def step(network):
    return make_train_step(mlm_loss(network), make_optimizer(OPTIMIZER, 1000), one_device(network.abstract()))


@pytest.fixture(scope="module")
def params(network):
    """Host copies: a step reuses the buffers of the state that it is given."""
    return jax.device_get(network.init(0))


def fresh(params):
    return init_state(jax.tree.map(jnp.array, params), make_optimizer(OPTIMIZER, 1000), one_device(params))


def many_steps(step, state, count, seed=0):
    losses = []
    for number in range(count):
        state, metrics = step(state, {}, mlm_batch(LENGTHS, seed=seed, record=8 * number))
        losses.append(float(metrics.sums.loss) / float(metrics.sums.weight))
    return state, losses


def test_runs_with_equal_settings_share_a_step():
    """Which it compiles for all of them; a seed and the data are arguments."""

    def one(**changes):
        settings = {"learning_rate": 1e-3, "steps": 10, "devices": 1, "hidden": 32, **changes}
        network = sequence_classifier(tiny_config(hidden_size=settings["hidden"]), 2)
        optimizer = make_optimizer(OptimizerConfig(learning_rate=settings["learning_rate"]), settings["steps"])
        layout = spread_rows(MeshOptions(data=settings["devices"]), 8, network.abstract())
        return make_train_step(classification_loss(network, class_weights=(1.0, 2.0)), optimizer, layout)

    assert one() is one()
    for change in ({"learning_rate": 2e-3}, {"steps": 11}, {"devices": 2}, {"hidden": 64}):
        assert one(**change) is not one()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_step_that_is_not_finite_changes_nothing_but_its_number(step, params, value):
    state, _ = many_steps(step, fresh(params), 2)
    before = jax.device_get(state)
    batch = mlm_batch(LENGTHS, record=99)
    poisoned = np.where(batch.masked_weights > 0, np.float32(value), 0)
    after, metrics = step(state, {}, batch._replace(masked_weights=poisoned.astype(np.float32)))
    assert (int(metrics.skipped), float(metrics.update_norm)) == (1, 0.0)
    assert int(after.step) == int(before.step) + 1
    for name in ("trainable", "optimizer"):
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(getattr(after, name)), getattr(before, name))
    after, metrics = step(after, {}, batch)
    assert int(metrics.skipped) == 0
    change = optax.tree.norm(jax.tree.map(np.subtract, after.trainable, before.trainable))
    assert float(metrics.update_norm) == pytest.approx(float(change), rel=1e-3)


@pytest.fixture(scope="module")
def batch():
    """Rows of unequal weight, fill rows among them."""
    batch = mlm_batch(LENGTHS)
    weights = batch.masked_weights.copy()
    weights[[2, 7]] = 0
    return batch._replace(masked_weights=weights)


def descend(network, params, batch, accumulate):
    """One step of plain gradient descent at rate 1: (gradient, metrics)."""
    optimizer = optax.sgd(1.0)
    layout = one_device(params)
    step = make_train_step(mlm_loss(network), optimizer, layout, accumulate=accumulate)
    state, metrics = step(init_state(jax.tree.map(jnp.array, params), optimizer, layout), {}, batch)
    return jax.tree.map(lambda before, after: before - np.asarray(after), params, state.trainable), metrics


@pytest.fixture(scope="module")
def whole(network, params, batch):
    return descend(network, params, batch, 1)


def test_accumulation_is_the_whole_batch(network, params, batch, whole):
    gradient, metrics = descend(network, params, batch, 4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=5e-7), whole[0], gradient)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient)) > 1e-2
    np.testing.assert_allclose(whole[1].sums, metrics.sums, rtol=1e-6)
    np.testing.assert_allclose(whole[1].gradient_norm, metrics.gradient_norm, rtol=1e-5)


def test_a_step_clips_reports_the_norm_before_and_moves_everything(step, params, batch, whole):
    gradient = whole[0]
    norm = np.sqrt(sum((leaf.astype(np.float64) ** 2).sum() for leaf in jax.tree.leaves(gradient)))
    assert norm > OPTIMIZER.clip_norm
    state, metrics = step(fresh(params), {}, batch)
    assert float(metrics.gradient_norm) == pytest.approx(norm, rel=1e-4)
    first_moment = jax.tree.map(lambda g: 0.1 * g * OPTIMIZER.clip_norm / norm, gradient)
    moment = optax.tree.get(state.optimizer, "mu")
    jax.tree.map(lambda m, e: np.testing.assert_allclose(m, e, rtol=1e-3, atol=1e-7), moment, first_moment)
    assert int(state.step) == 1
    same = jax.tree.map(lambda a, b: bool((np.asarray(a) == b).all()), state.trainable, params)
    assert not any(jax.tree.leaves(same))


def test_a_batch_is_learnt_by_heart(step, params):
    batch, losses, state = mlm_batch(LENGTHS), [], fresh(params)
    for _ in range(60):
        state, metrics = step(state, {}, batch)
        losses.append(float(metrics.sums.loss) / float(metrics.sums.weight))
    assert losses[0] == pytest.approx(np.log(64), abs=0.3)
    assert np.mean(losses[-5:]) < 0.5 * losses[0]
    assert int(state.step) == 60


def test_a_seed_repeats_bit_for_bit_and_another_differs(step, params):
    first, again, other = (many_steps(step, fresh(params), 3, seed)[0] for seed in (0, 0, 1))
    assert tree_sha256(first.trainable) == tree_sha256(again.trainable)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), first.optimizer, again.optimizer))
    assert tree_sha256(first.trainable) != tree_sha256(other.trainable)


def test_the_old_states_memory_is_reused(step, params):
    state = fresh(params)
    step(state, {}, mlm_batch(LENGTHS))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.trainable))


def test_bfloat16_computes_low_and_keeps_high(params):
    network = masked_lm(tiny_config(), Compute("bfloat16"))
    step = make_train_step(mlm_loss(network), make_optimizer(OPTIMIZER, 1000), one_device(params))
    state, metrics = jax.eval_shape(step, fresh(params), {}, mlm_batch(LENGTHS))
    assert {leaf.dtype.name for leaf in jax.tree.leaves((state, metrics))} == {"float32", "int32"}


LORA = LoraConfig(rank=2)


@pytest.fixture(scope="module")
def adapted():
    """The state before and after three steps of an adapter, the frozen tree, and its hash before them."""
    with jax.numpy_dtype_promotion("standard"):
        network = sequence_classifier(tiny_config(), 2)
        params = network.init(0)
        frozen = {"encoder": params["encoder"]}
        trainable = {
            "adapter": init_adapter(tiny_config(), LORA, 1),
            **{name: params[name] for name in ("pooler", "classifier")},
        }
        before, frozen_hash = jax.device_get(trainable), tree_sha256(frozen)
        optimizer = make_optimizer(OPTIMIZER, 1000)
        layout = one_device(trainable)
        step = make_train_step(classification_loss(network, LORA), optimizer, layout)
        state = init_state(trainable, optimizer, layout)
        for seed in range(3):
            state, _ = step(state, frozen, classification_batch(LENGTHS, seed=seed, fill=2))
    return before, state, frozen, frozen_hash


def test_under_an_adapter_the_base_stays_bit_for_bit_and_everything_else_learns(adapted):
    before, state, frozen, frozen_hash = adapted
    assert tree_sha256(frozen) == frozen_hash
    same = jax.tree.map(lambda a, b: bool((a == b).all()), jax.device_get(state.trainable), before)
    assert not any(jax.tree.leaves(same))


def test_neither_optimizer_state_nor_gradient_of_the_base_exists(adapted):
    _, state, frozen, _ = adapted
    config, rank = tiny_config(), LORA.rank
    width, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    adapter = layers * rank * ((width + 3 * width) + (width + width) + (width + 2 * inner) + (inner + width))
    heads = width * width + width + width * 2 + 2
    assert set(state.trainable) == {"adapter", "pooler", "classifier"}
    assert set(state.trainable["adapter"]) == {"Wqkv", "out", "gated_layers", "wo"}
    assert count_parameters(state.trainable) == adapter + heads
    assert count_parameters(state.optimizer) == 2 * (adapter + heads) + 2  # two moments of what learns, and two counters
    for moment in ("mu", "nu"):
        assert jax.tree.structure(optax.tree.get(state.optimizer, moment)) == jax.tree.structure(state.trainable)
    shapes = {leaf.shape for leaf in jax.tree.leaves(state)}
    assert not shapes & {frozen["encoder"]["layers"][name]["kernel"].shape for name in ("Wqkv", "out", "gated_layers", "wo")}


def test_no_weight_gradient_of_the_base_is_ever_formed(adapted):
    """No matrix product in the compiled program of a step results in the shape of a base kernel."""
    _, state, frozen, _ = adapted
    loss = classification_loss(sequence_classifier(tiny_config(), 2), LORA)
    batch = classification_batch(LENGTHS)
    kernels = {frozen["encoder"]["layers"][name]["kernel"].shape[1:] for name in ("Wqkv", "gated_layers", "wo")}

    def made(function, *arguments):
        program = jax.jit(function).lower(*arguments).compile().as_text()
        found = re.findall(r"= f32\[([\d,]+)\]\S* dot\(", program)
        shapes = {tuple(map(int, shape.split(","))) for shape in found}
        return kernels & (shapes | {shape[::-1] for shape in shapes})

    def sums(frozen, trainable):
        return loss(trainable, frozen, batch, True).loss

    assert made(jax.grad(sums, argnums=1), frozen, state.trainable) == set()
    assert {(48, 32), (32, 96)} <= made(jax.grad(sums, argnums=0), frozen, state.trainable)  # what the search would find
