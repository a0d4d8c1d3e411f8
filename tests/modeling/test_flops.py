import jax
import pytest

from dnabert2_jax.config.model import NAMED_SIZES
from dnabert2_jax.modeling.flops import training_flops_per_token
from dnabert2_jax.modeling.models import masked_lm
from dnabert2_jax.training.objectives import mlm_loss
from tests.helpers import mlm_batch, tiny_config


def test_operations_of_the_published_model():
    """Twelve layers: 72 (4 D^2 + 3 D F) + 144 T D a token, and 6 (D^2 + D V) a masked one."""
    d, f, v, t, k = 768, 3072, 4096, 128, 19
    expected = 72 * (4 * d**2 + 3 * d * f) + 144 * t * d + 6 * (d**2 + d * v) * k / t
    assert training_flops_per_token(NAMED_SIZES["117m"], t, k) == pytest.approx(expected, rel=1e-12)


def test_matrix_products_of_a_compiled_step_are_as_many():
    """XLA counts the operations of a forward pass, a third of a step's; it counts softmax, norms and GELU, too."""
    # One layer: XLA counts the body of a loop once.
    config = tiny_config(hidden_size=256, num_hidden_layers=1, intermediate_size=512)
    network, batch = masked_lm(config), mlm_batch([64] * 8, width=64)
    forward = jax.jit(lambda params: mlm_loss(network)(params, {}, batch, False)).lower(network.abstract()).compile()
    expected = 8 * 64 * training_flops_per_token(config, 64, batch.masked_positions.shape[1]) / 3
    assert expected < forward.cost_analysis()["flops"] < 1.1 * expected
