import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError

from dnabert2_jax.config.model import LoraConfig
from dnabert2_jax.modeling.lora import init_adapter, merge_adapter
from dnabert2_jax.modeling.models import sequence_classifier

from .test_models import TINY, random_tokens

ALL = ("Wqkv", "out", "gated_layers", "wo")


@pytest.fixture
def network():
    return sequence_classifier(TINY, 3)


def trained_like(adapter, seed=5):
    """An adapter with B away from zero, as training would leave it."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: x + 0.1 * rng.standard_normal(x.shape, np.float32), adapter)


def test_a_fresh_adapter_changes_nothing_bitwise(network):
    params, tokens, lora = network.init(0), random_tokens(), LoraConfig(rank=4)
    adapter = init_adapter(TINY, lora, seed=1)
    base = jax.jit(lambda p: network.bind(p).logits(tokens))(params)
    with_adapter = jax.jit(lambda p, a: network.bind(p).logits(tokens, adapter=a, lora=lora))(params, adapter)
    np.testing.assert_array_equal(base, with_adapter)


@pytest.mark.parametrize("targets", [(t,) for t in ALL] + [ALL], ids=[*ALL, "all"])
def test_merged_equals_unmerged(network, targets):
    params, tokens, lora = network.init(0), random_tokens(), LoraConfig(rank=4, targets=targets)
    adapter = trained_like(init_adapter(TINY, lora, seed=1))
    run = jax.jit(lambda p: network.bind(p).logits(tokens))
    unmerged = jax.jit(lambda p, a: network.bind(p).logits(tokens, adapter=a, lora=lora))(params, adapter)
    before = jax.tree.map(np.array, params["encoder"])
    merged = run({**params, "encoder": merge_adapter(params["encoder"], adapter, lora)})
    assert np.abs(unmerged - run(params)).max() > 1e-4  # the adapter does something
    np.testing.assert_allclose(merged, unmerged, rtol=0, atol=5e-7)
    jax.tree.map(np.testing.assert_array_equal, before, params["encoder"])  # merging made a new tree


def test_dropout_acts_on_the_low_rank_term_only_in_training(network):
    params, tokens = network.init(0), random_tokens()
    adapter = trained_like(init_adapter(TINY, LoraConfig(rank=4), seed=1))
    seeds = jnp.arange(3, dtype=jnp.uint32)

    def run(rate, seeds):
        lora = LoraConfig(rank=4, dropout=rate)
        return jax.jit(lambda p, a: network.bind(p).logits(tokens, adapter=a, lora=lora, dropout_seeds=seeds))(
            params, adapter
        )

    assert np.abs(run(0.5, seeds) - run(0.0, seeds)).max() > 1e-3
    np.testing.assert_array_equal(run(0.5, None), run(0.0, None))


def test_bad_settings_are_refused():
    with pytest.raises(ValidationError, match="twice"):
        LoraConfig(targets=("wo", "wo"))
    with pytest.raises(ValidationError, match="Wqkv"):
        LoraConfig(targets=("Wqvk",))
