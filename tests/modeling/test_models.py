import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dnabert2_jax.config.model import EncoderConfig
from dnabert2_jax.kernels.attention import tracing_for
from dnabert2_jax.modeling.compute import Compute
from dnabert2_jax.modeling.dropout import dropout
from dnabert2_jax.modeling.models import count_parameters, masked_lm, sequence_classifier
from dnabert2_jax.types import TokenBatch
from tests.modeling.helpers import TINY, equations, random_tokens


def test_parameter_counts_of_the_released_model():
    config = EncoderConfig()
    assert count_parameters(masked_lm(config).abstract()) == 117_074_176
    tree = sequence_classifier(config, 2).abstract()
    assert count_parameters({name: tree[name] for name in ("encoder", "pooler")}) == 117_068_544


def test_init_is_what_abstract_and_axes_declare():
    network = masked_lm(TINY)
    params, abstract, axes = network.init(0), network.abstract(), network.axes()
    assert jax.tree.structure(params) == jax.tree.structure(abstract)
    names = jax.tree.leaves(axes, is_leaf=lambda x: isinstance(x, tuple))
    for leaf, declared, name in zip(jax.tree.leaves(params), jax.tree.leaves(abstract), names, strict=True):
        assert leaf.shape == declared.shape
        assert leaf.dtype == jnp.float32
        assert len(name) == leaf.ndim
    assert axes["encoder"]["layers"]["Wqkv"]["kernel"] == ("layers", "hidden", "heads")
    word, wqkv = params["encoder"]["embeddings"]["word"], params["encoder"]["layers"]["Wqkv"]["kernel"]
    assert 0.015 < float(word.std()) < 0.025
    assert float(jnp.abs(wqkv[0] - wqkv[1]).max()) > 0.01  # layers start from different numbers


def test_padding_changes_nothing_at_real_tokens():
    network = masked_lm(TINY)
    params = network.init(1)
    run = jax.jit(lambda p, t: network.bind(p).hidden_states(t))
    short = random_tokens(length=13)
    padded = TokenBatch(
        *(np.pad(x, ((0, 0), (0, 11)), constant_values=fill) for x, fill in zip(short, (3, 0, 0), strict=True))
    )
    np.testing.assert_allclose(run(params, padded)[:, :13], run(params, short), atol=2e-6)


def test_logits_at_chosen_positions_are_those_of_the_whole_row():
    network = masked_lm(TINY)
    params, tokens = network.init(1), random_tokens()
    everywhere = np.broadcast_to(np.arange(20, dtype=np.int32), (3, 20))
    some = np.array([[3, 7], [0, 19], [5, 5]], np.int32)
    run = jax.jit(lambda p, positions: network.bind(p).logits(tokens, positions))
    whole, chosen = run(params, everywhere), run(params, some)
    np.testing.assert_allclose(chosen, np.take_along_axis(np.asarray(whole), some[..., None], 1), atol=1e-6)


def test_without_a_pooler_the_classifier_reads_the_mean_of_a_sequences_own_tokens():
    network, tokens = sequence_classifier(TINY, 3, pooling="mean"), random_tokens()
    params = network.init(0)
    assert set(params) == {"encoder", "classifier"}
    run = jax.jit(lambda p, t: (network.bind(p).hidden_states(t), network.bind(p).logits(t)))
    hidden, logits = map(np.asarray, run(params, tokens))
    own = (np.asarray(tokens.segment_ids) > 0) & ~np.isin(np.asarray(tokens.input_ids), [1, 2, 3])
    means = np.stack([states[mine].mean(0) for states, mine in zip(hidden, own, strict=True)])
    wanted = means @ np.asarray(params["classifier"]["kernel"]) + np.asarray(params["classifier"]["bias"])
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=1e-5)


def test_token_types_matter():
    network = sequence_classifier(TINY, 3)
    params, tokens = network.init(0), random_tokens()
    run = jax.jit(lambda p, t: network.bind(p).logits(t))
    second = tokens._replace(token_type_ids=np.repeat([[0] * 10 + [1] * 10], 3, 0).astype(np.int32))
    assert float(jnp.abs(run(params, tokens) - run(params, second)).max()) > 1e-4


def test_bfloat16_computes_in_bfloat16_and_stays_near():
    params, tokens = masked_lm(TINY).init(0), random_tokens()
    half, full = (masked_lm(TINY, Compute(precision)) for precision in ("bfloat16", "float32"))
    low = jax.jit(lambda p: half.bind(p).hidden_states(tokens))(params)
    high = jax.jit(lambda p: full.bind(p).hidden_states(tokens))(params)
    assert low.dtype == jnp.bfloat16
    assert float(jnp.abs(low.astype(jnp.float32) - high).max()) < 3e-2 * float(jnp.abs(high).max())


def test_a_classifiers_last_layer_is_in_float32_whatever_the_rest_is_in():
    """A bias that takes away large means, as a probe's does, leaves nothing but rounding in bfloat16."""
    network, tokens = sequence_classifier(TINY, 3, Compute("bfloat16"), "mean"), random_tokens(real=15)
    rng, params = np.random.default_rng(0), network.init(0)
    params["classifier"] = {
        "kernel": rng.normal(0, 20, (TINY.hidden_size, 3)).astype(np.float32),
        "bias": rng.normal(0, 100, 3).astype(np.float32),
    }

    def features_and_logits(params):
        model = network.bind(params)
        features = model.features(tokens)
        return features[:, 0], model.logits(tokens)

    features, logits = map(np.asarray, jax.jit(features_and_logits)(params))
    expected = features.astype(np.float64) @ params["classifier"]["kernel"] + params["classifier"]["bias"]
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-3)  # of bfloat16's numbers at 100, neighbours are 0.5 apart


def test_full_precision_is_for_the_head_alone():
    """Products of the encoder, in bfloat16, keep the default precision, which kernels for accelerators insist on."""
    network, tokens = sequence_classifier(TINY, 3, Compute("bfloat16", "reference")), random_tokens()
    with tracing_for("gpu"):
        traced = jax.make_jaxpr(lambda params: network.bind(params).logits(tokens))(network.init(0))
    products = [(x.invars[0].aval.dtype, x.params["precision"]) for x in equations(traced.jaxpr, "dot_general")]
    narrow = {precision for dtype, precision in products if dtype == jnp.bfloat16}
    assert narrow == {None}
    highest = (jax.lax.Precision.HIGHEST,) * 2
    assert [precision for _, precision in products].count(highest) == 2  # pooler and classifier


def test_compile_size_does_not_grow_with_depth():
    def lines(layers):
        config = EncoderConfig(**{**TINY.to_dict(), "num_hidden_layers": layers})
        network, tokens = masked_lm(config), random_tokens()
        return jax.jit(lambda p: network.bind(p).hidden_states(tokens)).lower(network.abstract()).as_text().count("\n")

    assert lines(12) == lines(2)


class TestDropout:
    seeds = jnp.array([1, 2, 2**31, 77], jnp.uint32)

    def keep(self, site=3, shape=(4, 64, 256), rate=0.1, seeds=None):
        return np.asarray(dropout(jnp.ones(shape), rate, self.seeds if seeds is None else seeds, site)) > 0

    @pytest.mark.parametrize("rate", [0.05, 0.1, 0.5])
    def test_rate_and_scale(self, rate):
        y = np.asarray(dropout(jnp.ones((4, 64, 256)), rate, self.seeds, 0))
        n = y.size
        assert abs((y == 0).mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / n)
        np.testing.assert_allclose(y[y > 0], 1 / (1 - rate), rtol=1e-6)

    def test_an_element_does_not_depend_on_batch_or_padding(self):
        whole = self.keep()
        part = self.keep(shape=(2, 40, 256), seeds=self.seeds[1:3])
        np.testing.assert_array_equal(part, whole[1:3, :40])

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_neighbours_are_independent(self, axis):
        dropped = 1.0 - self.keep(rate=0.5).astype(float)
        first, second = (np.take(dropped, range(s, dropped.shape[axis] - 1 + s), axis) - 0.5 for s in (0, 1))
        correlation = 4 * (first * second).mean()
        assert abs(correlation) < 5 / np.sqrt(first.size)

    def test_sites_are_independent(self):
        first, second = (self.keep(site=s, rate=0.5) - 0.5 for s in (8, 16))
        assert abs(4 * (first * second).mean()) < 5 / np.sqrt(first.size)

    def test_off_without_seeds(self):
        x = jnp.ones((2, 3, 4))
        assert dropout(x, 0.5, None, 0) is x
