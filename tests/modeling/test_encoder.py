"""Hidden states at a few positions, and feed-forward layers that take a long row in parts."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding

from dnabert2_jax.config.model import LoraConfig
from dnabert2_jax.config.sections import MeshOptions
from dnabert2_jax.modeling import block
from dnabert2_jax.modeling.compute import Compute
from dnabert2_jax.modeling.gather import states_at
from dnabert2_jax.modeling.lora import init_adapter
from dnabert2_jax.modeling.models import masked_lm, sequence_classifier
from dnabert2_jax.parallel.layout import make_layout
from dnabert2_jax.parallel.mesh import ROWS, make_mesh

from .test_models import TINY, random_tokens


@pytest.mark.parametrize(("length", "adapted"), [(16, False), (21, True)])  # two parts; two and a rest
def test_parts_give_what_the_whole_row_gives(monkeypatch, length, adapted):
    network, tokens, lora = sequence_classifier(TINY, 3), random_tokens(length=length), LoraConfig(rank=4)
    params = network.init(0)
    adapter = jax.tree.map(lambda x: x + 0.1, init_adapter(TINY, lora, seed=1)) if adapted else None

    def hidden():
        return jax.jit(lambda p, a: network.bind(p).encoder(tokens, adapter=a, lora=lora))(params, adapter)

    whole = hidden()
    monkeypatch.setattr(block, "FEED_FORWARD_TOKENS", 8)
    np.testing.assert_allclose(hidden(), whole, rtol=0, atol=5e-6)  # hidden states are of size one


def test_rows_with_dropout_stay_whole(monkeypatch):
    """What is dropped depends on a token's place in the row."""
    network, tokens = masked_lm(TINY), random_tokens()
    params, seeds = network.init(0), np.arange(3, dtype=np.uint32)

    def hidden():
        return jax.jit(lambda p: network.bind(p).encoder(tokens, dropout_seeds=seeds))(params)

    whole = hidden()
    monkeypatch.setattr(block, "FEED_FORWARD_TOKENS", 8)
    np.testing.assert_array_equal(hidden(), whole)


def test_parts_need_less_memory(monkeypatch):
    """Gates and values of a whole row, [T, 2F] in float32, are no longer there."""
    wide, length = replace(TINY, intermediate_size=512), 8192
    network = masked_lm(wide, Compute(attention="blocked"))

    def temporaries():
        tokens = random_tokens(rows=1, length=length)
        compiled = jax.jit(lambda p, t: network.bind(p).hidden_states(t)).lower(network.abstract(), tokens).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    whole = temporaries()
    monkeypatch.setattr(block, "FEED_FORWARD_TOKENS", 256)
    assert whole - temporaries() > 0.9 * length * 2 * wide.intermediate_size * 4


def test_parts_on_a_mesh(monkeypatch):
    options, network, tokens = MeshOptions(data=2, tensor=2), masked_lm(TINY), random_tokens(rows=2)
    mesh = make_mesh(options)
    layout = make_layout(options, mesh, network.abstract(), network.axes(), TINY)
    params = network.init(0)
    whole = jax.jit(lambda p, t: network.bind(p).hidden_states(t))(params, tokens)
    monkeypatch.setattr(block, "FEED_FORWARD_TOKENS", 8)

    def divided(params, tokens):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return network.bind(params).hidden_states(tokens)

    placed = layout.place(jax.device_get(params)), jax.device_put(tokens, NamedSharding(mesh, ROWS))
    np.testing.assert_allclose(jax.jit(divided)(*placed), whole, rtol=0, atol=5e-6)


@pytest.fixture
def any_batch(monkeypatch):
    """Batches of a test are too small for the last block to go its own way."""
    monkeypatch.setattr(block, "_MIN_TOKENS", 0)


LORA = LoraConfig(rank=4, dropout=0.3, targets=("Wqkv", "out", "gated_layers", "wo"))
ROWS_OF_32 = {"rows": 3, "length": 32}


def packed_tokens():
    """Three rows of two sequences, one of them with padding at its end."""
    tokens = random_tokens(**ROWS_OF_32)
    segments = np.repeat([[1, 2], [1, 2], [1, 2]], 16, axis=1).astype(np.int32)
    segments[1, 27:] = 0
    return tokens._replace(segment_ids=segments)


@pytest.mark.usefixtures("any_batch")
@pytest.mark.parametrize(
    ("layers", "remat", "training"),
    [(3, "none", True), (3, "attention", True), (3, "full", False), (1, "none", True)],
)
def test_a_few_positions_get_what_the_whole_rows_have_there(layers, remat, training):
    """Values and gradients, dropout and adapters included: the last block alone takes another way."""
    config = replace(TINY, num_hidden_layers=layers)
    network, tokens, rng = masked_lm(config, Compute(remat=remat)), packed_tokens(), np.random.default_rng(0)
    at = np.array([[0, 16], [16, 0], [5, 31]], np.int32)
    fresh = network.init(0)
    params = fresh["encoder"]
    adapter = jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape).astype("f4"), init_adapter(config, LORA, seed=1))
    options = {"lora": LORA, "dropout_seeds": np.arange(3, dtype=np.uint32) if training else None}
    cotangent = rng.normal(size=(*at.shape, config.hidden_size)).astype(np.float32)

    def hidden(params, adapter, few):
        model = network.bind({**fresh, "encoder": params}).encoder
        return (
            model(tokens, adapter=adapter, at=at, **options)
            if few
            else states_at(model(tokens, adapter=adapter, **options), at)
        )

    def values_and_gradients(few):
        def run(params, adapter):
            value, backward = jax.vjp(lambda *trees: hidden(*trees, few), params, adapter)
            return value, backward(cotangent)

        return jax.jit(run)(params, adapter)

    found, expected = values_and_gradients(True), values_and_gradients(False)
    for ours, whole in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, whole, rtol=0, atol=5e-6 * max(1.0, float(np.abs(whole).max())))


@pytest.mark.parametrize(
    ("wanted", "most", "fewest", "shorter"),
    [(2, 2**20, 96, True), (9, 2**20, 96, False), (2, 63, 96, False), (2, 2**20, 97, False)],
)
def test_the_last_block_is_short_where_that_is_cheaper(monkeypatch, wanted, most, fewest, shorter):
    """Many positions, more scores than fit, or few tokens go through the whole block: as much arithmetic as all rows."""
    monkeypatch.setattr(block, "_MAX_SCORES", most)
    monkeypatch.setattr(block, "_MIN_TOKENS", fewest)
    network, tokens = masked_lm(TINY, Compute(unroll=2)), random_tokens(**ROWS_OF_32)  # a loop's body would count once

    def operations(at):
        traced = jax.jit(lambda p: network.bind(p).encoder(tokens, at=at)).lower(network.abstract())
        return traced.compile().cost_analysis()["flops"]

    assert (operations(np.zeros((3, wanted), np.int32)) < 0.8 * operations(None)) == shorter
