import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dnabert2_jax.artifacts.tensors import flatten_tree
from dnabert2_jax.config.model import LoraConfig
from dnabert2_jax.config.sections import OptimizerConfig
from dnabert2_jax.modeling.lora import init_adapter
from dnabert2_jax.modeling.models import masked_lm, sequence_classifier
from dnabert2_jax.training.optimizer import decayed, learning_rate_schedule, make_optimizer, warn_of_long_warmup
from tests.helpers import tiny_config

PEAK = 5e-4


@pytest.fixture(autouse=True)
def promotion():
    """Optax itself relies on jax's usual promotion of dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def test_the_schedule_at_the_steps_that_matter():
    rate = learning_rate_schedule(OptimizerConfig(learning_rate=PEAK, warmup_steps=100), 1000)
    for step, expected in {
        0: PEAK / 100,  # the first step moves already
        49: PEAK / 2,
        99: PEAK,
        100: PEAK,
        550: PEAK / 2,
        999: PEAK / 900,  # the last step moves still
        1000: 0,
        5000: 0,
    }.items():
        assert float(rate(step)) == pytest.approx(expected, rel=1e-4, abs=1e-12)


@pytest.mark.parametrize(("warmup", "total"), [(0, 10), (1, 10), (10, 10), (50, 10), (0, 1), (1, 1), (9, 10)])
def test_the_schedule_at_its_edges(warmup, total):
    rate = learning_rate_schedule(OptimizerConfig(learning_rate=PEAK, warmup_steps=warmup), total)
    rates = [float(rate(step)) for step in range(total)]
    assert all(0 < r <= PEAK * 1.000001 for r in rates)
    assert max(rates) == pytest.approx(PEAK)
    if warmup <= 1:
        assert rates[0] == pytest.approx(PEAK)
    if warmup >= total:  # a warm-up longer than the run fills all of it
        assert rates == pytest.approx([PEAK * (step + 1) / total for step in range(total)])


@given(warmup=st.integers(0, 300), total=st.integers(1, 300), step=st.integers(0, 299), peak=st.floats(1e-6, 1e-1))
def test_up_in_a_line_then_down_in_a_line(warmup, total, step, peak):
    rate = float(learning_rate_schedule(OptimizerConfig(learning_rate=peak, warmup_steps=warmup), total)(step % total))
    step, warmup = step % total, min(warmup, total)
    expected = peak * (step + 1) / warmup if step < warmup else peak * (total - step) / (total - warmup)
    assert rate == pytest.approx(expected, rel=1e-4)


def test_decay_spares_biases_and_layer_norms_only():
    spared = {
        "masked_lm": (masked_lm(tiny_config()).abstract(), "mlm.bias"),
        "classifier": (sequence_classifier(tiny_config(), 2).abstract(), "classifier.bias"),
    }
    for tree, example in spared.values():
        paths, _ = jax.tree_util.tree_flatten_with_path(decayed(tree))
        names = {jax.tree_util.keystr(path, simple=True, separator="."): value for path, value in paths}
        for name, value in names.items():
            assert value == (not name.endswith((".bias", "norm.scale"))), name
        assert names[example] is False
        assert names["encoder.embeddings.norm.scale"] is False
        for kernel in ("encoder.embeddings.word", "encoder.embeddings.token_type", "encoder.layers.Wqkv.kernel"):
            assert names[kernel] is True


def test_decay_reaches_both_matrices_of_an_adapter():
    assert all(jax.tree.leaves(decayed(jax.eval_shape(lambda: init_adapter(tiny_config(), LoraConfig(), 0)))))


PARAMS = {"dense": {"kernel": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3), "bias": np.ones(3, np.float32)}}


def test_weight_decay_alone_shrinks_by_rate_times_decay():
    config = OptimizerConfig(learning_rate=0.1, warmup_steps=0, weight_decay=0.5)
    optimizer = make_optimizer(config, 10)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, _ = optimizer.update(zeros, optimizer.init(PARAMS), PARAMS)
    new = optax.apply_updates(PARAMS, updates)
    np.testing.assert_allclose(new["dense"]["kernel"], PARAMS["dense"]["kernel"] * (1 - 0.1 * 0.5), rtol=1e-6)
    np.testing.assert_array_equal(new["dense"]["bias"], PARAMS["dense"]["bias"])


@pytest.mark.parametrize(
    ("given", "total", "expected"),
    [(0.1, 500, 50), (0.14, 3600, 504), (0.001, 100, 1), (0.999, 10, 10), (50, 20, 20), (3e4, 500_000, 30_000), (0, 5, 0)],
)
def test_a_warmup_below_one_is_a_fraction_of_the_run(given, total, expected):
    config = OptimizerConfig(learning_rate=PEAK, warmup_steps=given)
    assert config.warmup(total) == expected
    rate = learning_rate_schedule(config, total)
    assert float(rate(max(expected - 1, 0))) == pytest.approx(PEAK, rel=1e-4)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (500, "rises over 500 of 500 steps, and the run ends at its peak"),
        (0.5, "rises over 250 of 500 steps, and few steps are left to lower it"),
        (249, None),
        (0.1, None),
    ],
)
def test_a_warmup_of_half_the_run_or_more_is_warned_of(given, said, capsys):
    warn_of_long_warmup(OptimizerConfig(warmup_steps=given), 500)
    told = capsys.readouterr().err
    assert (f"warning: the learning rate {said}; set optimizer.warmup_steps=0.1" in told) if said else not told


def test_decay_by_the_schedule_does_not_depend_on_the_peak():
    """Half of the peak, at any peak: half of the decay, as in Composer's DecoupledAdamW."""
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    for peak in (1e-3, 0.1):
        settings = {"learning_rate": peak, "warmup_steps": 2, "weight_decay": 0.01}
        config = OptimizerConfig(**settings, decay_scaling="schedule")
        assert learning_rate_schedule(config, 10)(0) == pytest.approx(peak / 2)
        optimizer = make_optimizer(config, 10)
        updates, _ = optimizer.update(zeros, optimizer.init(PARAMS), PARAMS)
        np.testing.assert_allclose(updates["dense"]["kernel"], -0.5 * 0.01 * PARAMS["dense"]["kernel"], rtol=1e-5)
        np.testing.assert_array_equal(updates["dense"]["bias"], 0)


def adamw(params, gradients, config, total):
    """Loshchilov and Hutter's algorithm 2 with global-norm clipping, in float64."""
    flat = {name: value.astype(np.float64) for name, value in flatten_tree(params).items()}
    first, second = ({name: np.zeros_like(value) for name, value in flat.items()} for _ in range(2))
    warmup = min(config.warmup_steps, total)
    for step, gradient in enumerate(gradients):
        gradient = {name: value.astype(np.float64) for name, value in flatten_tree(gradient).items()}
        norm = np.sqrt(sum((value**2).sum() for value in gradient.values()))
        factor = config.clip_norm / max(norm, config.clip_norm)
        lr = config.learning_rate * ((step + 1) / warmup if step < warmup else (total - step) / (total - warmup))
        for name, g in gradient.items():
            g = g * factor
            first[name] = config.beta1 * first[name] + (1 - config.beta1) * g
            second[name] = config.beta2 * second[name] + (1 - config.beta2) * g**2
            m, v = first[name] / (1 - config.beta1 ** (step + 1)), second[name] / (1 - config.beta2 ** (step + 1))
            decay = 0 if name.endswith("bias") else config.weight_decay
            flat[name] = flat[name] - lr * (m / (np.sqrt(v) + config.epsilon) + decay * flat[name])
    return flat


def test_it_is_adamw():
    config = OptimizerConfig(learning_rate=0.02, warmup_steps=3, weight_decay=0.1, clip_norm=0.7, epsilon=1e-4)
    rng = np.random.default_rng(0)
    scales = [0.01, 5.0, 0.1, 1.0, 100.0, 0.3, 2.0, 0.05]  # below and above the clipping norm
    gradients = [jax.tree.map(lambda x, s=s: (s * rng.standard_normal(x.shape)).astype(np.float32), PARAMS) for s in scales]
    optimizer = make_optimizer(config, len(scales))
    params, state = PARAMS, optimizer.init(PARAMS)
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    for name, expected in adamw(PARAMS, gradients, config, len(scales)).items():
        np.testing.assert_allclose(flatten_tree(params)[name], expected, rtol=1e-5, atol=1e-6)


def first_moment(scale, clip_norm=2.0):
    optimizer = make_optimizer(OptimizerConfig(clip_norm=clip_norm), 10)
    gradient = jax.tree.map(lambda x: np.float32(scale) * x, PARAMS)
    _, state = optimizer.update(gradient, optimizer.init(PARAMS), PARAMS)
    return optax.tree.get(state, "mu"), gradient


def test_a_long_gradient_is_cut_to_the_norm_and_keeps_its_direction():
    moment, gradient = first_moment(1000.0)
    assert float(optax.tree.norm(moment)) == pytest.approx(0.1 * 2.0, rel=1e-5)
    ratio = jax.tree.map(lambda m, g: m[g != 0] / g[g != 0], moment, gradient)
    ratios = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(ratio)])
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-5)


def test_a_short_gradient_is_left_alone():
    moment, gradient = first_moment(1e-3)
    jax.tree.map(lambda m, g: np.testing.assert_allclose(m, 0.1 * g, rtol=1e-6), moment, gradient)


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 0},
        {"learning_rate": float("nan")},
        {"warmup_steps": -1},
        {"warmup_steps": 1.5},
        {"beta1": 1.0},
        {"beta2": -0.1},
        {"epsilon": 0},
        {"weight_decay": -1e-3},
        {"clip_norm": 0},
        {"momentum": 0.9},
    ],
)
def test_bad_settings_are_refused(change):
    with pytest.raises(ValidationError, match=next(iter(change))):
        OptimizerConfig(**change)
